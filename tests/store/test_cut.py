"""A file of a store that is cut while training reads it."""

import os
import shutil

import pytest

from read_cache.store.reader import StoreReader
from support.processes import run_python

TRAINS = """import os
from read_cache.cli import main
from read_cache.store.reader import SplitReader
whole, file = SplitReader.read_array, os.environ["CUT"]
def read_then_cut(self, name, part, layers=None):
    values = whole(self, name, part, layers)
    if self.file(name, part) == file:
        os.truncate(f"{self.folder.path}/{file}", int(os.environ["BYTES"]))
    return values
SplitReader.read_array = read_then_cut
import sys
sys.argv[0] = "read-cache"
main()"""
"""`read-cache`, which loses the end of a file as soon as its checksums were compared: a memory map of it is SIGBUS."""


@pytest.mark.parametrize("share", [0, 0.5])
def test_it_ends_in_an_error_that_names_the_file(words_store, tmp_path, share) -> None:
    store = shutil.copytree(words_store, tmp_path / "store")
    split = StoreReader(store).split("train")
    file = split.file("encoder/hidden", 1)
    length = int(share * split.shard("encoder/hidden").nbytes)
    two_parts = 2.5 * split.manifest.part_bytes(split.name, split.specs, split.manifest.format) / 1e9
    words = ["train", "--store", store, "--out", tmp_path / "run", "--memory", two_parts, "--set", "window=1"]
    ended = run_python(TRAINS, *words, "--set", "hidden=4", "--epochs", "2", CUT=file, BYTES=str(length))
    assert ended.returncode == 2, ended.stderr
    assert f"{file} has {length} bytes" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert os.path.getsize(store / file) == length
