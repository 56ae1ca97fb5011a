"""GGUF files: dequantized once into a folder of safetensors, which is then read like any other model."""

import hashlib
import shutil
import tempfile
from pathlib import Path

import torch
import transformers

from read_cache.backbones.quiet import quietly
from read_cache.errors import UserError
from read_cache.folders import cache_folder


def dequantized(file: Path, name: str) -> Path:
    """Return the folder with the model of a GGUF file in float32 safetensors, made on first use. Raises UserError."""
    folder = cache_folder("dequantized") / f"{file.stem}-{_digest(file)[:16]}"
    if (folder / "config.json").exists():
        return folder
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"model {name} is a GGUF file, which is read with the Python package gguf: pip install 'read-cache[models]'"
        ) from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder.parent))
    try:
        with quietly(f"model {name}: {file} cannot be read"):
            options = {"gguf_file": file.name, "trust_remote_code": False}
            tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **options)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                file.parent,
                dtype=torch.float32,
                quantization_config=transformers.GgufConfig(dequantize=True),
                **options,
            )
            tokenizer.save_pretrained(made)
            model.save_pretrained(made)
        made.rename(folder)
    except OSError:
        if not (folder / "config.json").exists():  # another process may have been faster
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
