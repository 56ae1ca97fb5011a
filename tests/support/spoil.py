"""Good models, tasks, rows, stores and networks, and copies of them spoilt in one way each."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import zarr
from safetensors.torch import load_file, save_file
from typer.main import get_command

from read_cache.cli.app import COMMANDS, build_app
from read_cache.store.folder import StoreFolder
from read_cache.training.run import networks_folder
from support.stores import make_store

GOOD = [{"sentence": "the old river", "label": 0}, {"sentence": "a quiet town by the sea", "label": 1}]
HIDDEN = "arrays.zarr/train/encoder/hidden/c/0/{part}/0"
"""A part's file of hidden states."""
LABELS = 'template = "words: {sentence}"\nlabels = ["no", "yes"]\n'


@dataclasses.dataclass(frozen=True)
class World:
    """What is well, and helpers that spoil a copy of it in the case's own folder."""

    folder: Path
    models: dict[str, Path]
    tasks: Path
    """The folder of the `words` task."""
    sealed: Path
    other_store: Path
    """Of another backbone."""
    other_labels: Path
    """A store of the same backbone with other labels."""
    trained: Path
    """A network that belongs to `sealed`."""
    bert: Path
    """The folder of a tiny BERT."""
    pairs: Path
    """A sealed store of the pairs of `scores` from that BERT."""

    @property
    def weights(self) -> Path:
        """The backbone's weights file."""
        return self.models["tied"] / "model.safetensors"

    @property
    def out(self) -> Path:
        """Where commands write."""
        return self.folder / "out"

    def write(self, name: str, content: str | bytes) -> Path:
        """A file in the case's folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def rows(self, **splits: list[dict] | str | bytes | None) -> Path:
        """A dataset of good rows but for the given splits: rows, a file's content, or None for no file."""
        for name, rows in ({"train": GOOD, "validation": GOOD} | splits).items():
            if rows is not None:
                lines = "".join(json.dumps(row) + "\n" for row in rows) if isinstance(rows, list) else rows
                self.write(f"rows/{name}.jsonl", lines)
        return self.folder / "rows"

    def extract(self, task: str = LABELS, **options: object) -> list[object]:
        """A call of `extract` that is well but for `task`, a TOML text, and the given options."""
        toml = self.write("task.toml", task)
        given = {"model": self.models["tied"], "task": toml, "store": self.out} | options
        return call("extract", **given | ({} if "dataset" in given else {"dataset": self.rows()}))

    def extract_row(self, task: str = LABELS, **row: object) -> list[object]:
        """A call of `extract` whose training split is one row."""
        return self.extract(task, dataset=self.rows(train=[row]))

    def extract_bert(self, task: str = "words.toml", **options: object) -> list[object]:
        """A call of `extract` with the BERT on one of the shared tasks."""
        given = {"task": self.tasks / task, "dataset": self.tasks / "words", "max_source_length": 40}
        return call("extract", **{"model": self.bert, "store": self.out} | given | options)

    def extract_words(self, store: Path, **options: object) -> list[object]:
        """The call that made `sealed` but for the given options."""
        made = {"model": self.models["tied"], "task": self.tasks / "words.toml", "dataset": self.tasks / "words"}
        return call("extract", **made | {"store": store, "part_tokens": 200, "batch_tokens": 120} | options)

    @property
    def networks(self) -> str:
        """Name of the folder below `out` in which a run keeps the networks of `sealed`."""
        return networks_folder(Path(), StoreFolder(self.sealed).read_manifest()).name

    def train(self, store: Path | None = None, **options: object) -> list[object]:
        """A call of `train` that is well but for the given options."""
        own = {} if "network" in options else {"hidden": 4}
        return call("train", **{"store": store or self.sealed, "out": self.out, "epochs": 1} | own | options)

    def recipe(self, text: str) -> list[object]:
        """A call of `train` with a recipe."""
        return self.train(recipe=self.write("recipe.toml", text))

    def finetune(self, **options: object) -> list[object]:
        """A call of `finetune` that is well but for the given options."""
        return call("finetune", **{"store": self.sealed, "out": self.out, "method": "full", "epochs": 1} | options)

    def evaluate(self, **options: object) -> list[object]:
        """A call of `evaluate` that is well but for the given options."""
        return call("evaluate", **{"store": self.sealed, "network": self.trained} | options)

    def predict(self, *texts: str, **options: object) -> list[object]:
        """A call of `predict` that is well but for the given texts and options."""
        return [*call("predict", **{"model": self.models["tied"], "network": self.trained} | options), *texts]

    def smaller(self, **settings: object) -> Path:
        """A store of four rows of each split of `words`, in another format."""
        store = self.folder / "smaller"
        make_store(store, self.models["tied"], str(self.tasks / "words.toml"), self.tasks / "words", max_examples=4,
                   **settings)  # fmt: skip
        return store

    def one_text(self) -> Path:
        """A store of `words`, which has one text a row, from the BERT."""
        make_store(self.folder / "bert", self.bert, str(self.tasks / "words.toml"), self.tasks / "words",
                   max_examples=4, max_source_length=40)  # fmt: skip
        return self.folder / "bert"

    def copy(self, source: Path, name: str = "copy") -> Path:
        """A copy of a model, a store or a network, to be spoilt."""
        return Path(shutil.copytree(source, self.folder / name))

    def model(self, name: str, content: bytes | None) -> Path:
        """A copy of the backbone with one file replaced, or without it."""
        return replace(self.copy(self.models["tied"]), name, content)

    def network(self, name: str, content: bytes | None) -> Path:
        """A copy of the network with one file replaced, or without it."""
        return replace(self.copy(self.trained), name, content)

    def store(self, name: str, change: Callable[[bytes], bytes] | None) -> Path:
        """A copy of the sealed store with one file changed, or without it."""
        store = self.copy(self.sealed)
        return replace(store, name, change((store / name).read_bytes()) if change else None)

    def manifest(self, **changes: object) -> Path:
        """A copy of the sealed store with a changed manifest."""
        return self.store("manifest.json", lambda old: json.dumps(json.loads(old) | changes).encode())

    def activations(self, **changes: object) -> Path:
        """A copy of the sealed store with a changed section `activations` of its manifest."""
        activations = json.loads((self.sealed / "manifest.json").read_text())["activations"]
        return self.manifest(activations=activations | changes)

    def swapped_parts(self) -> Path:
        """A copy of the sealed store with one part's file in place of another's."""
        store = self.copy(self.sealed)
        shutil.copy(store / HIDDEN.format(part=1), store / HIDDEN.format(part=2))
        return store

    def edited(self, array: str, place: int | tuple[int, ...], value: float) -> Path:
        """A copy of the sealed store with one value changed through zarr, so that every checksum is right."""
        store = self.copy(self.sealed)
        values = zarr.open_group(store / "arrays.zarr", mode="r+")[array]
        assert isinstance(values, zarr.Array)
        assert values[place] != value
        values[place] = value
        return store

    def store_without(self, name: str) -> Path:
        """A copy of the sealed store without one of its folders."""
        store = self.copy(self.sealed)
        shutil.rmtree(store / name)
        return store

    def unsealed(self) -> Path:
        """A copy of the store as it was before it was sealed."""
        store = self.copy(self.sealed)
        (store / "manifest.json").rename(store / "plan.json")
        return store


@functools.cache
def options_of(command: str) -> frozenset[str]:
    """The options that a command has, such as --store."""
    parameters = get_command(build_app(COMMANDS)).commands[command].params  # type: ignore[attr-defined]
    return frozenset(name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts))


def call(command: str, **settings: object) -> list[object]:
    """The arguments of a command: options where it has them, --set for other settings."""
    words: list[object] = [command]
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        words += [flag, value] if flag in options_of(command) else ["--set", f"{name}={value}"]
    return words


def replace(folder: Path, name: str, content: bytes | None) -> Path:
    """Replace a file in a folder, or delete it."""
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    return folder


def flipped(data: bytes) -> bytes:
    """One bit in the middle is another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


def cut(data: bytes) -> bytes:
    """The first half."""
    return data[: len(data) // 2]


def without_weight(world: World) -> Path:
    """A backbone whose weights file lacks one tensor."""
    return spoilt_weights(world, lambda weights: weights.pop("decoder.final_layer_norm.weight"))


def with_nan(world: World) -> Path:
    """A backbone with one weight that is NaN."""
    name = "encoder.block.1.layer.0.SelfAttention.v.weight"
    return spoilt_weights(world, lambda weights: weights[name].view(-1)[5:6].fill_(float("nan")))


def nan_network(world: World) -> Path:
    """A network with one weight that is NaN."""
    return spoilt_weights(
        world, lambda weights: next(iter(weights.values())).view(-1)[:1].fill_(float("nan")), world.trained
    )


def spoilt_weights(
    world: World, spoil: Callable[[dict[str, torch.Tensor]], object], source: Path | None = None
) -> Path:
    """A copy of the backbone, or of another folder, with changed weights."""
    folder = world.copy(source or world.models["tied"])
    weights = load_file(folder / "model.safetensors")
    spoil(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def fewer_layers(world: World) -> Path:
    """A backbone whose configuration has fewer layers than its weights file."""
    config = json.loads((world.models["tied"] / "config.json").read_text()) | {"num_layers": 2}
    return world.model("config.json", json.dumps(config).encode())


def only_bin(world: World) -> Path:
    """A backbone in the old format, which could run code when it is loaded."""
    folder = world.model("model.safetensors", None)
    torch.save({}, folder / "pytorch_model.bin")
    return folder


def too_small_vocabulary(world: World) -> Path:
    """A backbone with fewer embeddings than its tokenizer has tokens."""
    folder = spoilt_weights(
        world, lambda weights: weights.update({"shared.weight": weights["shared.weight"][:50].clone()})
    )
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 50}
    return replace(folder, "config.json", json.dumps(config).encode())
