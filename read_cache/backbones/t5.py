"""Any T5: find it, load it from safetensors, digest it, and hand out its stacks, its head and its tokenizer."""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from read_cache.backbones.hub import explain, snapshot
from read_cache.data import bundled_backbone
from read_cache.device import check_device
from read_cache.errors import UserError
from read_cache.store.manifest import BackboneInfo
from read_cache.store.schema import ComputeDtype

TORCH_DTYPES: dict[ComputeDtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
MODEL_TYPES = ("t5", "mt5", "umt5")  # ByT5 and FLAN-T5 are of type t5 or mt5
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]


class Backbone:
    """A frozen T5 in evaluation mode. Weights load on first use; configuration, tokenizer and digest need none."""

    def __init__(
        self, name: str, dtype: ComputeDtype = "fp32", device: str = "cpu", revision: str | None = None
    ) -> None:
        check_device(device)
        self.name, self.dtype, self.device = name, dtype, device
        self.folder, self.revision = find_model(name, revision)
        self.config = load_config(self.folder, name)
        if not list(self.folder.glob("*.safetensors")):
            raise UserError(
                f"model {name} has no safetensors weights in {self.folder}: only safetensors are read, "
                "as a pickle can run code. Convert it once with transformers' save_pretrained and give that folder"
            )

    @cached_property
    def tokenizer(self) -> transformers.PreTrainedTokenizerBase:
        """The tokenizer the model came with."""
        return load_tokenizer(self.folder, self.name)

    @cached_property
    def tokenizer_digest(self) -> str:
        """sha256 over the tokenizer's class and vocabulary."""
        text = json.dumps([type(self.tokenizer).__name__, sorted(self.tokenizer.get_vocab().items())])
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def model(self) -> torch.nn.Module:
        """The model with eager attention, the only kind that returns attention weights."""
        with _quietly(f"model {self.name}: its weights cannot be loaded"):
            model, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(
                self.folder,
                dtype=TORCH_DTYPES[self.dtype],
                attn_implementation="eager",
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        if missing := sorted(report["missing_keys"]):
            raise UserError(f"model {self.name} lacks {len(missing)} weights, first {missing[0]}: {self.folder}")
        return model.eval().requires_grad_(False).to(self.device)

    @property
    def encoder(self) -> torch.nn.Module:
        """The encoder stack."""
        return self.model.get_encoder()  # type: ignore[operator]

    @property
    def decoder(self) -> torch.nn.Module:
        """The decoder stack."""
        return self.model.get_decoder()  # type: ignore[operator]

    @property
    def start_token(self) -> int:
        """The token that starts every decoder input."""
        return int(self.config.decoder_start_token_id or 0)

    @cached_property
    def digest(self) -> str:
        """sha256 over the configuration and every weights file."""
        digest = hashlib.sha256()
        for path in [self.folder / "config.json", *sorted(self.folder.glob("*.safetensors"))]:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
        return digest.hexdigest()

    def info(self) -> BackboneInfo:
        """What stores and networks remember of this backbone."""
        config = self.config
        return BackboneInfo(
            name=self.name,
            revision=self.revision,
            digest=self.digest,
            model_type=config.model_type,
            width=config.d_model,
            encoder_layers=config.num_layers,
            decoder_layers=config.num_decoder_layers,
            heads=config.num_heads,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
        )

    @torch.inference_mode()
    def head_rows(self, token_ids: torch.Tensor) -> torch.Tensor:
        """[C, D] float32: the output head's rows for `token_ids`, the model's own scale on its input included."""
        head = self.model.get_output_embeddings()  # type: ignore[operator]
        return head.weight[token_ids.to(head.weight.device)].float().cpu() * self.head_scale()

    def head_scale(self) -> float:
        """1, or d^-0.5 where the model scales its last state; asked of the model, whose rule differs by family."""
        token = torch.tensor([[self.start_token]], device=self.device)
        out = self.model(input_ids=token, decoder_input_ids=token, output_hidden_states=True)
        head = self.model.get_output_embeddings()  # type: ignore[operator]
        unscaled = head(out.decoder_hidden_states[-1]).double()
        ratio = float((out.logits.double() * unscaled).sum() / unscaled.square().sum())
        candidates = (1.0, self.config.d_model**-0.5)
        return min(candidates, key=lambda scale: abs(scale - ratio))


def find_model(name: str, revision: str | None = None, files: list[str] = HUB_FILES) -> tuple[Path, str]:
    """(folder, revision) of a bundled backbone, a local folder, or a model of the hub, where it is the commit.

    Of the hub's files those that match `files` are fetched. Raises UserError.
    """
    if (folder := bundled_backbone(name)) is not None:
        found = "bundled"
    elif Path(name).is_dir():
        folder, found = Path(name), "local"
    else:
        try:
            folder = snapshot(name, "model", revision, files)
        except Exception as error:
            raise UserError(
                f"model {name!r} is neither bundled, nor a local folder, nor could it be had from the hub: "
                f"{explain(error, revision)}"
            ) from error
        found = folder.name
    if revision is not None and found in ("bundled", "local"):
        raise UserError(f"--revision {revision} is for a model of the hub, and {name} is {found}: leave it out")
    if not (folder / "config.json").exists():
        raise UserError(f"model {name} has no config.json in {folder}: expected files that save_pretrained wrote")
    return folder, found


def load_config(folder: Path, name: str) -> Any:
    """The configuration in a model's folder; `name` is the model's, for people. UserError unless it is a T5's."""
    refuse_code(folder, name)
    with _quietly(f"model {name}: its configuration cannot be read"):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type not in MODEL_TYPES:
        raise UserError(f"model {name} is a {config.model_type}; expected one of {', '.join(MODEL_TYPES)}")
    return config


def refuse_code(folder: Path, name: str) -> None:
    """Raise UserError for a model that asks to be loaded by Python code of its own."""
    for file in ("config.json", "tokenizer_config.json"):
        path = folder / file
        if path.exists() and b'"auto_map"' in path.read_bytes():
            raise UserError(
                f"model {name} asks to run code of its own (auto_map in {path}), and none is ever run: "
                "give a model that transformers knows by itself"
            )


def load_tokenizer(folder: Path, name: str) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer in a model's folder; `name` is the model's, for people. Raises UserError."""
    with _quietly(f"model {name}: its tokenizer cannot be loaded"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not has_vocabulary(folder):  # transformers makes an empty tokenizer without a word
        raise UserError(
            f"model {name} has no tokenizer in {folder}: expected tokenizer.json or spiece.model. "
            "Save it there with the tokenizer's save_pretrained"
        )
    return tokenizer


def has_vocabulary(folder: Path) -> bool:
    """Whether a model's folder says how texts become tokens; ByT5's tokenizer needs nothing but its name."""
    if [*folder.glob("tokenizer.json"), *folder.glob("*.model")]:
        return True
    names = (folder / "tokenizer_config.json", folder / "config.json")
    return any("ByT5Tokenizer" in path.read_text(encoding="utf-8") for path in names if path.is_file())


@contextlib.contextmanager
def _quietly(what: str) -> Iterator[None]:
    """Keep a library's chatter off the terminal, and turn its errors into one message."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise UserError(f"{what}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
