"""The hub path, through the real clients: commands as they are typed, against a look-alike of the hub on loopback."""

import json
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hub import CARD, Hub, parquet, qnli
from support.processes import contents
from support.spoil import call

TOKEN = "hf_lookalike"
GONE = "http://127.0.0.1:9"
DRIVER = """import contextlib, io, json, os, sys
from read_cache.cli import main
done = []
for words in json.loads(sys.argv[1]):
    while "=" in words[0]:
        os.environ.update([words.pop(0).split("=")])
    sys.argv, stderr = ["read-cache", *words], io.StringIO()
    with contextlib.redirect_stderr(stderr):
        try:
            main()
        except SystemExit as stop:
            done.append((stop.code, stderr.getvalue()))
print(json.dumps(done))"""


class Mark:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def read_cache(cwd: Path, *commands: list[str], url: str = GONE, **environment: str) -> list[tuple[int, str]]:
    """Run commands one after the other in a process of their own; (exit code, stderr) of each.

    As in a shell, NAME=VALUE before a command sets a variable, from then on.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    settings = {"HF_ENDPOINT": url, "HF_HOME": str(cwd / "home"), "OMP_NUM_THREADS": "1", "NO_PROXY": "*"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(commands)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=kept | settings | environment,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])  # after what the commands print


def extract(model: str = "t5-tiny-wiki", task: str = "qnli", **settings: object) -> list[str]:
    """An extract command."""
    return [str(word) for word in call("extract", model=model, task=task, **settings)]


@pytest.fixture
def hub(models: dict[str, Path]) -> Hub:
    """A hub with T5-base, GLUE, a private model and a private dataset; nobody serves it yet."""
    hub = Hub()
    hub.moved["t5-base"] = "google-t5/t5-base"
    base = hub.add("models", "google-t5/t5-base")
    base.commit(contents(models["untied"]), "other")
    base.commit(contents(models["tied"]))
    splits = {f"qnli/{split}-00000-of-00001.parquet": qnli(split) for split in ("train", "validation", "test")}
    splits |= {"README.md": CARD.encode(), "other.parquet": parquet([{"text": "a"}])}
    hub.add("datasets", "nyu-mll/glue").commit(splits)
    hub.add("models", "team/private", TOKEN).commit(contents(models["tied"]))
    hub.add("datasets", "team/private-rows", TOKEN).commit(splits)
    return hub


@pytest.fixture
def url(hub: Hub) -> Iterator[str]:
    """Where the hub is served."""
    with hub.serve() as url:
        yield url


def manifest(store: Path) -> dict[str, object]:
    """A sealed store's manifest: (model, revision, dataset) as they were asked for, and the rest."""
    values = json.loads((store / "manifest.json").read_text())
    source = values.pop("provenance")
    return {"names": (source["model"], source["revision"], source["dataset"]), "rest": values}


def arrays(store: Path) -> dict[str, bytes]:
    """Every file of a sealed store but the manifest, which names its sources."""
    return {name: data for name, data in contents(store).items() if name != "manifest.json"}


def test_by_name_then_offline(hub, models, tmp_path) -> None:
    """The store of `t5-base` and `qnli` is that of the same files in folders; offline, the cache gives it again."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        (folder / f"{split}.parquet").write_bytes(qnli(split))
    base = hub.repositories["models", "google-t5/t5-base"]
    glue = hub.repositories["datasets", "nyu-mll/glue"].branches["main"]
    hub.breaks = 1
    with hub.serve() as url:
        done = read_cache(
            tmp_path,
            extract("t5-base", max_examples=40),
            extract(str(models["tied"]), dataset=folder, store="local", max_examples=40),
            extract("t5-base", revision="other", store="other", max_examples=4),
            extract("t5-base", revision=base.branches["other"], store="commit", max_examples=4),
            url=url,
        )
    assert [code for code, _ in done] == [0, 0, 0, 0], done
    assert hub.breaks == 0
    assert not hub.unknown
    by_name, local = tmp_path / "stores/t5-base/qnli", tmp_path / "local"
    assert manifest(by_name)["names"] == ("t5-base", base.branches["main"], "nyu-mll/glue/qnli")
    assert manifest(local)["names"] == (str(models["tied"]), "local", str(folder))
    assert manifest(by_name)["rest"] == manifest(local)["rest"]
    assert arrays(by_name) == arrays(local)
    assert contents(tmp_path / "other") == contents(tmp_path / "commit")
    assert manifest(tmp_path / "other")["names"][1] == base.branches["other"]
    digests = {manifest(store)["rest"]["activations"]["backbone"]["digest"] for store in (by_name, tmp_path / "other")}
    assert len(digests) == 2

    done = read_cache(
        tmp_path,
        extract("t5-base", store="again", max_examples=40),
        extract("t5-base", revision="other", dataset=f"nyu-mll/glue/qnli@{glue}", store="pinned", max_examples=4),
        extract("t5-base", revision="none", store="wrong"),
        extract("t5-base", dataset="nyu-mll/glue/qnli@none", store="wrong"),
        HF_HUB_OFFLINE="1",
    )
    assert [code for code, _ in done] == [0, 0, 2, 2], done
    assert contents(tmp_path / "again") == contents(by_name)
    assert arrays(tmp_path / "pinned") == arrays(tmp_path / "other")
    for _, stderr in done[2:]:
        assert "HF_HUB_OFFLINE is set" in stderr
        assert "revision none" in stderr
    assert not (tmp_path / "wrong").exists()


def test_what_the_hub_refuses(hub, url, models, tmp_path) -> None:
    """Each ends in one message; nothing is unpickled, and no code is run."""
    mark = tmp_path / "mark"
    tied = contents(models["tied"])
    code = f"import pathlib; pathlib.Path({str(mark)!r}).touch()".encode()
    config = json.loads(tied["config.json"]) | {"auto_map": {"AutoModelForSeq2SeqLM": "modeling.Model"}}
    pickled = {name: data for name, data in tied.items() if name != "model.safetensors"}
    hub.add("models", "team/pickled").commit(pickled | {"pytorch_model.bin": pickle.dumps(Mark(mark))})
    hub.add("models", "team/coded").commit(tied | {"config.json": json.dumps(config).encode(), "modeling.py": code})
    lost = hub.add("models", "team/lost")
    lost.commit(tied)
    lost.lost.add("model.safetensors")
    hub.add("models", "team/gated").refusal = (403, "GatedRepo")
    hub.add("models", "team/down").refusal = (503, "")
    hub.add("models", "team/bare").commit({"README.md": b"Nothing yet."})
    hub.add("datasets", "team/scripted").commit({"README.md": b"Rows by a script.", "scripted.py": code})
    lost = hub.add("datasets", "team/lost-rows")
    lost.commit({"README.md": b"Some rows.", "train.parquet": qnli("train"), "validation.parquet": qnli("validation")})
    lost.lost.add("train.parquet")
    cases = {
        "has nothing of that name, or it is private": extract("team/none"),
        "model 'team/private' is neither bundled": extract("team/private"),
        "it has no revision 'v9'": extract("t5-base", revision="v9"),
        "no safetensors weights": extract("team/pickled"),
        "auto_map in": extract("team/coded"),
        "lists a file that cannot be had": extract("team/lost"),
        "gives it only to those whom its owners admitted": extract("team/gated"),
        "answers 503, and the cache": extract("team/down"),
        "model team/bare has no config.json": extract("team/bare"),
        "Repo id must be in the form": extract("a/b/c"),
        "revision 'v9' is for a model of the hub": extract(revision="v9"),
        "dataset team/none could not be loaded from the hub": extract(dataset="team/none"),
        "dataset team/private-rows could not be loaded": extract(dataset="team/private-rows"),
        "it has no revision 'v8'": extract(dataset="nyu-mll/glue/qnli@v8"),
        "Please pick one among the available configs: ['qnli', 'other']": extract(dataset="nyu-mll/glue"),
        "Dataset scripts are no longer supported, but found scripted.py": extract(dataset="team/scripted"),
        "train.parquet": extract(dataset="team/lost-rows"),
        "neither a local folder nor of the form OWNER/NAME": extract(dataset="/no/such/folder"),
    }
    done = read_cache(tmp_path, *cases.values(), url=url)
    for says, (status, stderr) in zip(cases, done, strict=True):
        assert status == 2, stderr
        assert says in stderr
        assert stderr.count("error:") == 1
        assert "Traceback" not in stderr
    assert not mark.exists()
    assert not [line for line in hub.requests if line.endswith(("modeling.py", ".bin"))]
    assert not hub.unknown
    assert not (tmp_path / "stores").exists()


def test_private_repositories(hub, url, tmp_path) -> None:
    """A token opens them, and is sent to nobody else; a wrong one is named."""
    command = extract("team/private", dataset="team/private-rows/qnli", store="private", max_examples=4)
    commands = [[f"HF_TOKEN={token}", *command] for token in ("hf_wrong", TOKEN)]
    (code, stderr), (last, _) = read_cache(tmp_path, *commands, url=url)
    assert code == 2
    assert "refuses the token that it was sent: check HF_TOKEN" in stderr
    assert last == 0
    assert manifest(tmp_path / "private")["names"][2] == "team/private-rows/qnli"
    assert not hub.leaked


def test_a_network_that_is_gone(tmp_path) -> None:
    """No copy in the cache: one message each, at once."""
    started = time.monotonic()
    done = read_cache(tmp_path, extract("t5-base"), extract(), extract(dataset="team/rows@v1"))
    seconds = time.monotonic() - started
    for what, (code, stderr) in zip(("it", "it", "revision v1"), done, strict=True):
        assert code == 2
        assert f"{GONE} cannot be reached, and the cache" in stderr
        assert f"holds no whole copy of {what}: check the network and HF_ENDPOINT" in stderr
        assert len(stderr.splitlines()) == 1
    assert seconds < 20


@pytest.mark.slow
def test_a_network_that_goes_later(hub, tmp_path) -> None:
    """What the cache holds is enough without HF_HUB_OFFLINE in the end, and a mute hub is not waited for."""
    command = extract("t5-base", max_examples=4)
    with hub.serve() as url:
        assert read_cache(tmp_path, [*command, "--store", "before"], url=url)[0][0] == 0
    assert read_cache(tmp_path, [*command, "--store", "after"])[0][0] == 0
    assert contents(tmp_path / "after") == contents(tmp_path / "before")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url, started = f"http://127.0.0.1:{mute.getsockname()[1]}", time.monotonic()
        ((code, stderr),) = read_cache(tmp_path, extract("team/none"), url=url)
    assert code == 2
    assert f"{url} cannot be reached" in stderr
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_rows_of_another_commit_are_not_taken(hub, tmp_path) -> None:
    """Offline, the datasets client gives whatever commit it loaded last; that is refused where another is asked for."""
    glue = hub.repositories["datasets", "nyu-mll/glue"]
    older = glue.branches["main"]
    newer = glue.commit(glue.commits[older] | {"notes.txt": b"Newer."})
    with hub.serve() as url:
        done = read_cache(
            tmp_path,
            extract(store="newer", max_examples=4),
            extract(dataset=f"nyu-mll/glue/qnli@{older}", store="older", max_examples=4),
            url=url,
        )
    assert [code for code, _ in done] == [0, 0]
    ((code, stderr),) = read_cache(tmp_path, extract(store="wrong", max_examples=4), HF_HUB_OFFLINE="1")
    assert code == 2
    assert f"dataset nyu-mll/glue/qnli is at commit {newer}" in stderr
    assert f"gives only what it holds last, {older}" in stderr


@pytest.mark.slow
def test_compare_by_names(hub, tmp_path) -> None:
    """As on a machine that reaches the hub: T5-base and QNLI by name; again, nothing is done, without a hub."""
    (tmp_path / "tiny.toml").write_text("[network]\nhidden = 4\n[run]\nepochs = 1\n")
    words = ["compare", "--model", "t5-base", "--task", "qnli", "--recipe", "tiny.toml", "--out", "runs"]
    words += ["--set", "extract.max_examples=200"]
    with hub.serve() as url:
        ((code, stderr),) = read_cache(tmp_path, words, url=url)
    assert code == 0, stderr
    assert not hub.unknown
    assert "t5-base on qnli" in (tmp_path / "runs/qnli/compare.md").read_text()
    ((code, stderr),) = read_cache(tmp_path, words)
    assert code == 0, stderr
    assert "sealed" not in stderr
