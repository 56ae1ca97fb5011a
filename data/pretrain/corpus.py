"""The corpus as token ids on disk: one flat uint16 array for training, one held out."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zstandard
from transformers import PreTrainedTokenizerBase

HELD_OUT_EVERY = 200  # one paragraph in 200 is never trained on
PARAGRAPHS_A_BATCH = 20_000


def read_paragraphs(path: Path) -> Iterator[str]:
    """Non-empty lines of a zstd-compressed or plain UTF-8 text file, one paragraph a line."""
    with path.open("rb") as raw:
        stream = zstandard.ZstdDecompressor().stream_reader(raw) if path.suffix == ".zst" else raw
        remainder = b""
        while block := stream.read(1 << 20):
            *lines, remainder = (remainder + block).split(b"\n")
            yield from (text for line in lines if (text := line.decode("utf-8").strip()))
        if text := remainder.decode("utf-8").strip():
            yield text


def write_token_ids(path: Path, tokenizer: PreTrainedTokenizerBase, folder: Path) -> tuple[Path, Path]:
    """Tokenise every paragraph, each ended by eos. Returns the training and held-out files (flat uint16)."""
    train, held_out = folder / "train.u16", folder / "held_out.u16"
    if train.exists():
        return train, held_out
    unfinished = train.with_suffix(".unfinished")
    counter = itertools.count()
    with unfinished.open("wb") as train_file, held_out.open("wb") as held_out_file:
        paragraphs = read_paragraphs(path)
        while batch := list(itertools.islice(paragraphs, PARAGRAPHS_A_BATCH)):
            for ids in tokenizer(batch)["input_ids"]:
                target = held_out_file if next(counter) % HELD_OUT_EVERY == 0 else train_file
                target.write(np.asarray(ids, dtype=np.uint16).tobytes())
    unfinished.rename(train)
    return train, held_out
