"""What the hub's look-alike takes: new repositories, large files, and commits."""

import base64
import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

from read_cache.errors import UserError

WRITE = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)/(?P<what>preupload|commit|paths-info)/(?P<at>.+)"
)
BUCKET = re.compile(
    r"(?:/api)?/buckets/(?P<name>[^/]+/[^/]+)(?:/(?P<what>tree|resolve|xet-\w+-token|batch)/?(?P<rest>.*))?"
)
BATCH = re.compile(r"/(?:datasets/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch")


class Writes:
    """The writing half of a connection; a mixin of `Handler`, which has the rest."""

    hub: Any
    path: str
    headers: Any
    rfile: Any

    def answer_post(self) -> None:
        """A new repository, a question about files, or a commit."""
        from support.hub import HubError

        self.hub.requests.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        try:
            if path == "/api/validate-yaml":
                self.send_json({})
            elif path == "/api/repos/create":
                self.create(json.loads(body))
            elif match := BATCH.fullmatch(path):
                self.allow(match["name"])
                self.send_json({"objects": [self.place(one) for one in json.loads(body)["objects"]]})
            elif match := BUCKET.fullmatch(path):
                self.change_bucket(body, match["name"], match["what"])
            elif match := WRITE.fullmatch(path):
                self.answer_write(body, **match.groupdict())
            else:
                self.hub.unknown.append(f"POST {self.path}")
                self.send(404, b"no such page")
        except HubError as error:
            status, code = error.args
            self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def take_content(self) -> None:
        """A large file, at its place in the content network."""
        self.hub.requests.append(f"PUT {self.path}")
        data = self.rfile.read(int(self.headers["Content-Length"]))
        digest = hashlib.sha256(data).hexdigest()
        assert self.path.endswith(digest)
        self.hub.uploaded[digest] = data
        self.send(200, b"")

    def create(self, asked: dict[str, Any]) -> None:
        """A new repository, unless there is one."""
        name, kind = f"{asked['organization']}/{asked['name']}", f"{asked.get('type') or 'model'}s"
        token = self.allow(name)
        exists = (kind, name) in self.hub.repositories
        if not exists:
            made = self.hub.add(kind, name, token if asked.get("visibility") == "private" else None)
            made.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        prefix = "" if kind == "models" else f"{kind}/"
        self.send_json({"url": f"{self.hub.url}/{prefix}{name}"}, 409 if exists else 200)

    def allow(self, name: str) -> str:
        """The token of the request, which must be the owner's."""
        from support.hub import HubError

        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if sent not in self.hub.owners.values():
            raise HubError(401, "Invalid username or password.")
        if sent != self.hub.owners.get(name.partition("/")[0]):
            raise HubError(403, "You don't have the rights")
        return sent

    def place(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Where to put a large file; nowhere, if its content is known."""
        if asked["oid"] in self.hub.uploaded:
            return asked
        return asked | {"actions": {"upload": {"href": f"{self.hub.content_url}/content/{asked['oid']}"}}}

    def answer_write(self, body: bytes, kind: str, name: str, what: str, at: str) -> None:
        from support.hub import blob_id, large, listing

        repository = self.repository(kind, name)
        branch = unquote(at)
        _, files = self.commit(repository, branch)
        if what == "paths-info":
            paths = parse_qs(body.decode())["paths"]
            self.send_json([entry for entry in listing(files, "", True) if entry["path"] in paths])
            return
        self.allow(name)
        if what == "preupload":
            modes = [(one["path"], "lfs" if large(one["path"]) else "regular") for one in json.loads(body)["files"]]
            oid = {path: blob_id(data) for path, data in files.items() if not large(path)}
            oid |= {path: hashlib.sha256(data).hexdigest() for path, data in files.items() if large(path)}
            answer = [{"path": p, "uploadMode": m, "shouldIgnore": False, "oid": oid.get(p)} for p, m in modes]
            self.send_json({"files": answer})
            return
        files = dict(files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.uploaded[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        commit = repository.commit(files, branch)
        self.send_json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def change_bucket(self, body: bytes, name: str, what: str | None) -> None:
        """A new bucket, or changes of one's files; the Xet service has what they hold."""
        self.allow(name)
        if what is None:
            bucket = self.hub.add("buckets", name)
            if not bucket.commits:
                bucket.commit({})
            self.send_json({"url": f"{self.hub.url}/buckets/{name}"})
            return
        bucket = self.repository("buckets", name)
        files = dict(self.commit(bucket, "main")[1])
        for change in map(json.loads, body.splitlines()):
            if change["type"] == "addFile":
                files[change["path"]] = self.from_chunks(change["xetHash"])
            else:
                del files[change["path"]]
        bucket.commit(files)
        self.send_json({"failed": []})

    def from_chunks(self, xet_hash: str) -> bytes:
        """A file that the Xet service has."""
        import hf_xet

        with tempfile.TemporaryDirectory() as folder:
            place = {"endpoint": f"local://{self.hub.chunks}", "token": "chunks", "token_expiry_unix_secs": 1 << 40}
            with hf_xet.XetSession().new_file_download_group(**place) as group:
                group.start_download_file(hf_xet.XetFileInfo(xet_hash, None), f"{folder}/file")
            return Path(folder, "file").read_bytes()

    def answer_bucket(self, name: str, what: str | None, rest: str | None) -> None:
        """A bucket's state, the entries of a folder of it, a file, or where the Xet service is."""
        from support.hub import HubError, listing

        _, files = self.commit(self.repository("buckets", name), "main")
        rest = unquote(rest or "")
        if what is None:
            made = "2026-01-01T00:00:00.000Z"
            self.send_json({"id": name, "private": False, "createdAt": made, "size": 0, "totalFiles": len(files)})
        elif what == "tree":
            recursive = parse_qs(urlsplit(self.path).query).get("recursive") in (["true"], ["True"])
            entries = listing(files, rest, recursive)
            self.send_json([entry | ({"xetHash": "0" * 64} if entry["type"] == "file" else {}) for entry in entries])
        elif what == "resolve" and rest in files:
            self.send_file(files[rest], hashlib.sha256(files[rest]).hexdigest())
        elif what.startswith("xet-"):
            self.send_json({"accessToken": "chunks", "exp": 1 << 40, "casUrl": f"local://{self.hub.chunks}"})
        else:
            raise HubError(404, "EntryNotFound")


def check_refusals(push: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the messages of a push with a wrong token, without one, and to a hub that is away from then on."""
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"refuses the token.*HF_TOKEN"):
        push()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="asks for a token: set HF_TOKEN"):
        push()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot be reached: check the network"):
        push()
