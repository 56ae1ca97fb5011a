"""A SentencePiece unigram vocabulary in T5's layout: pad 0, eos 1, unk 2, pieces, then 100 sentinels."""

from collections.abc import Iterator
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import T5Tokenizer

PIECES = 8_000
TRAINING_LINES = 600_000


def train_vocabulary(lines: Iterator[str], folder: Path) -> T5Tokenizer:
    """Train a vocabulary of `PIECES` pieces on `lines` and save the tokenizer in `folder`.

    Returns the tokenizer, which also reads back with `AutoTokenizer.from_pretrained(folder)`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_prefix=str(prefix),
        vocab_size=PIECES,
        model_type="unigram",
        character_coverage=0.9995,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        input_sentence_size=TRAINING_LINES,
        shuffle_input_sentence=False,
        num_threads=2,
        minloglevel=1,
    )
    prefix.with_suffix(".vocab").unlink()
    forget_paths(prefix.with_suffix(".model"))
    tokenizer = T5Tokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def forget_paths(path: Path) -> None:
    """Take the training machine's path out of a SentencePiece model, which remembers where it was written."""
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    model.trainer_spec.model_prefix = path.stem
    path.write_bytes(model.SerializeToString())
