"""A look-alike of the hub on loopback: as much of its HTTP as huggingface_hub, transformers and datasets ask for.

What is written goes through `hub_writes.py`.

Repositories have commits, branches and, where private, a token. Weights and parquet files are large files, which the
hub answers with a redirect to its content network; `t5-base` redirects to `google-t5/t5-base`, as there.
"""

import dataclasses
import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow
import pyarrow.parquet

from support.hub_writes import BUCKET, Writes

CARD = """---
configs:
- config_name: qnli
  data_files:
  - {split: train, path: qnli/train-*}
  - {split: validation, path: qnli/validation-*}
  - {split: test, path: qnli/test-*}
- config_name: other
  data_files: other.parquet
---
"""
"""The card of a dataset with two configurations."""
TOKEN = "hf_made_up"
LARGE = {".bin", ".parquet", ".safetensors"}
NAME = r"(?P<name>[^/]+(?:/(?!(?:resolve|revision|tree|preupload|commit|paths-info)/)[^/]+)?)"
API = re.compile(rf"/api/(?P<kind>models|datasets)/{NAME}(?:/(?P<what>revision|tree)/(?P<rest>.+))?")
FILE = re.compile(rf"/(?:(?P<kind>datasets)/)?{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
CONTENT = re.compile(r"/content/(?P<digest>[0-9a-f]{64})")


@dataclasses.dataclass
class Repository:
    """A model or a dataset: files by path, by commit; commits by branch."""

    token: str | None = None
    """Who sends this one may read; None: everyone."""
    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    branches: dict[str, str] = dataclasses.field(default_factory=dict)
    lost: set[str] = dataclasses.field(default_factory=set)
    """Paths that are listed and cannot be had."""
    refusal: tuple[int, str] | None = None
    """Status and error code that every request for it gets."""

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Put files on a branch as its new commit, and return that."""
        commit = hashlib.sha1(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit


class Hub:
    """Repositories, and what was asked for: all of it; what the hub does not know; what took a token elsewhere."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.moved: dict[str, str] = {}
        self.owners: dict[str, str] = {}
        """By owner: the token with which repositories of that name are made and changed."""
        self.uploaded: dict[str, bytes] = {}
        """Large files by their digest, committed or not."""
        self.chunks: Path | None = None
        """Folder of the Xet service, by which buckets get their files; hf_xet writes and reads it by itself."""
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self.leaked: list[str] = []
        self.breaks = 0
        """So many of the next files above 64 kB break off half-way."""
        self.url = self.content_url = ""

    def add(self, kind: str, name: str, token: str | None = None) -> Repository:
        """A new repository; kind is `models` or `datasets`."""
        return self.repositories.setdefault((kind, name), Repository(token))

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Answer on a port of loopback, whose URL this gives; afterwards connections to it are refused."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.content_url = f"http://localhost:{server.server_port}"  # another host, as there
        try:
            yield self.url
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class HubError(Exception):
    """An answer that is an error: status, and the hub's code for it."""


class Handler(Writes, BaseHTTPRequestHandler):
    """One connection."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Also HEAD, whose answer is the same without a body."""
        self.hub.requests.append(f"{self.command} {self.path}")
        path = urlsplit(self.path).path
        try:
            if match := API.fullmatch(path):
                self.answer_api(**match.groupdict())
            elif match := FILE.fullmatch(path):
                self.answer_file(**match.groupdict())
            elif match := BUCKET.fullmatch(path):
                self.answer_bucket(**match.groupdict())
            elif match := CONTENT.fullmatch(path):
                self.answer_content(match["digest"])
            elif path == "/api/agent-harnesses":  # huggingface_hub asks this before anything else
                self.send_json({})
            else:
                self.hub.unknown.append(self.requestline)
                self.send(404, b"no such page")
        except HubError as error:
            status, code = error.args
            self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    do_HEAD, do_POST, do_PUT = do_GET, Writes.answer_post, Writes.take_content

    def answer_api(self, kind: str, name: str, what: str | None, rest: str | None) -> None:
        """A repository's state, or the entries of a folder of it."""
        if name in self.hub.moved:
            self.redirect(307, self.path.replace(f"/{name}", f"/{self.hub.moved[name]}", 1))
            return
        repository = self.repository(kind, name)
        revision, _, folder = (rest or "main").partition("/")
        commit, files = self.commit(repository, revision)
        if what == "tree":
            recursive = parse_qs(urlsplit(self.path).query).get("recursive") == ["true"]
            self.send_json(listing(files, unquote(folder), recursive))
        else:
            siblings = [{"rfilename": path} for path in files]
            self.send_json(
                {"id": name, "sha": commit, "siblings": siblings, "private": bool(repository.token), "tags": []}
            )

    def answer_file(self, kind: str | None, name: str, revision: str, path: str) -> None:
        """A small file itself; of a large one, where it is."""
        if name in self.hub.moved:
            self.redirect(307, self.path.replace(f"/{name}", f"/{self.hub.moved[name]}", 1))
            return
        repository = self.repository(kind or "models", name)
        commit, files = self.commit(repository, revision)
        path = unquote(path)
        headers = {"X-Repo-Commit": commit}
        if path not in files or path in repository.lost:
            self.send(404, b"", headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        elif large(path):
            digest, size = hashlib.sha256(files[path]).hexdigest(), str(len(files[path]))
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": size}
            self.redirect(302, f"{self.hub.content_url}/content/{digest}", headers)
        else:
            self.send_file(files[path], blob_id(files[path]), headers)

    def answer_content(self, digest: str) -> None:
        """A large file by what it holds. Who knows its name may read it."""
        if "Authorization" in self.headers:
            self.hub.leaked.append(self.requestline)
        if digest in self.hub.uploaded:
            self.send_file(self.hub.uploaded[digest], digest)
            return
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                for data in files.values():
                    if hashlib.sha256(data).hexdigest() == digest:
                        self.send_file(data, digest)
                        return
        self.send(404, b"")

    def repository(self, kind: str, name: str) -> Repository:
        """A repository that the request may read. Without a token what is private and what is not there look alike."""
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        tokens = {repository.token for repository in self.hub.repositories.values()} | {*self.hub.owners.values()}
        if sent and sent not in tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        found = self.hub.repositories.get((kind, name))
        if found is None or found.token not in (None, sent):
            raise HubError(404 if sent else 401, "RepoNotFound")
        if found.refusal:
            raise HubError(*found.refusal)
        return found

    def commit(self, repository: Repository, revision: str) -> tuple[str, dict[str, bytes]]:
        """(commit, its files) of a branch or a commit."""
        commit = repository.branches.get(unquote(revision), revision)
        if commit not in repository.commits:
            raise HubError(404, "RevisionNotFound")
        return commit, repository.commits[commit]

    def redirect(self, status: int, place: str, headers: dict[str, str] | None = None) -> None:
        """Say where it is."""
        self.send(status, b"", {"Location": place} | (headers or {}))

    def send_json(self, value: object, status: int = 200) -> None:
        """Say it in JSON."""
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send_file(self, data: bytes, etag: str, headers: dict[str, str] | None = None) -> None:
        """A file, or the range of it that is asked for."""
        status, headers = 200, {"Content-Type": "application/octet-stream", "ETag": f'"{etag}"'} | (headers or {})
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            start, end = int(match[1]), min(int(match[2]) + 1, len(data))
            status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{len(data)}"
            data = data[start:end]
        self.send(status, data, headers)

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Status, headers and, but for HEAD, the body."""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if len(body) > 1 << 16 and self.hub.breaks:
            self.hub.breaks -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing on the terminal."""


def large(path: str) -> bool:
    """Whether the hub keeps a file apart from its commit: weights, tables, and the chunks of a store."""
    return PurePosixPath(path).suffix in LARGE or "/c/" in path


def listing(files: dict[str, bytes], folder: str, recursive: bool) -> list[dict[str, object]]:
    """The entries of a folder as the hub lists them; "" is the root."""
    entries: dict[PurePosixPath, dict[str, object]] = {}
    for name in sorted(files):
        path, data = PurePosixPath(name), files[name]
        for parent in reversed(path.parents):
            entries[parent] = {"type": "directory", "path": str(parent), "size": 0, "oid": blob_id(b"")}
        entries[path] = {"type": "file", "path": name, "size": len(data), "oid": blob_id(data)}
        if large(name):
            entries[path]["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    root = PurePosixPath(folder)
    return [entry for path, entry in entries.items() if root in (path.parents if recursive else path.parents[:1])]


def blob_id(data: bytes) -> str:
    """Git's name for a file that holds this."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def parquet(rows: list[dict[str, object]]) -> bytes:
    """Rows as a parquet file."""
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def qnli(split: str) -> bytes:
    """Made-up rows of QNLI's columns; the test split's labels are hidden, as in GLUE."""
    start, count = {"train": (0, 1010), "validation": (2000, 12), "test": (3000, 9)}[split]
    return parquet(
        [
            {
                "question": f"How far is stone {number}?",
                "sentence": f"Stone {number} lies {'far ' * (number % 4)}off.",
                "label": -1 if split == "test" else number % 2,
                "idx": number - start,
            }
            for number in range(start, start + count)
        ]
    )
