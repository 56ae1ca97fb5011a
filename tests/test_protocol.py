"""The paper's protocol: splits, prompts and labels, on real GLUE rows where they are at hand."""

import pytest
import torch

from read_cache.backbones.t5 import Backbone
from read_cache.data import BUNDLED_BACKBONE
from read_cache.errors import UserError
from read_cache.extract.encode import Encoder
from read_cache.extract.rows import load_rows
from read_cache.extract.splits import protocol_splits
from read_cache.tasks import TASKS, find_task


@pytest.mark.parametrize("name", ["cola", "mrpc", "stsb"])
def test_small_tasks_halve_the_permuted_validation_rows(shared_glue, name) -> None:
    rows = load_rows(find_task(name), str(shared_glue / name))
    splits = protocol_splits(rows, TASKS[name].protocol)
    order = torch.randperm(len(rows["validation"]), generator=torch.Generator().manual_seed(42)).tolist()
    half = len(order) // 2
    assert splits["validation"] == [rows["validation"][i] for i in order[:half]]
    assert splits["test"] == [rows["validation"][i] for i in order[half:]]
    assert splits["train"] == rows["train"]


def test_sst2_holds_a_thousand_permuted_training_rows_out(shared_glue) -> None:
    rows = load_rows(find_task("sst2"), str(shared_glue / "sst2"))
    splits = protocol_splits(rows, TASKS["sst2"].protocol)
    order = torch.randperm(67349, generator=torch.Generator().manual_seed(42)).tolist()
    assert splits["validation"] == [rows["train"][i] for i in order[:1000]]
    assert splits["train"] == [rows["train"][i] for i in order[1000:]]
    assert splits["test"] == rows["validation"]


def test_mnli_validates_on_mismatched_and_tests_on_matched_rows(shared_glue) -> None:
    rows = load_rows(find_task("mnli"), str(shared_glue / "mnli"))
    splits = protocol_splits(rows, TASKS["mnli"].protocol)
    assert len(splits["train"]) == 15891
    assert (splits["validation"], splits["test"]) == (rows["validation_mismatched"], rows["validation_matched"])


@pytest.mark.parametrize(
    ("name", "row", "text"),
    [
        ("cola", {"sentence": "They drank."}, "cola sentence: They drank."),
        ("sst2", {"sentence": "a joy . "}, "sst2 sentence: a joy . "),
        ("mrpc", {"sentence1": "A.", "sentence2": "B."}, "mrpc sentence1: A. sentence2: B."),
        ("stsb", {"sentence1": "A.", "sentence2": "B."}, "stsb sentence1: A. sentence2: B."),
        ("rte", {"sentence1": "A.", "sentence2": "B."}, "rte sentence1: A. sentence2: B."),
        ("wnli", {"sentence1": "A.", "sentence2": "B."}, "wnli sentence1: A. sentence2: B."),
        ("qqp", {"question1": "A?", "question2": "B?"}, "qqp question1: A? question2: B?"),
        ("qnli", {"question": "A?", "sentence": "{B}."}, "qnli question: A? sentence: {B}."),
        ("mnli", {"premise": "A.", "hypothesis": "B."}, "mnli premise: A. hypothesis B."),
    ],
)
def test_prompts_are_the_protocols_character_by_character(name, row, text) -> None:
    backbone = Backbone(BUNDLED_BACKBONE)
    encoder = Encoder(TASKS[name], backbone.tokenizer, backbone.start_token, 128)
    assert encoder.source_text(row, "here") == text


@pytest.mark.parametrize(
    ("score", "label"),
    [(0.0, "0.0"), (5.0, "5.0"), (2.5, "2.4"), (2.7, "2.8"), (0.3, "0.4"), (3.75, "3.8"), (4.4, "4.4"), (0.1, "0.0")],
)
def test_stsb_scores_are_said_in_steps_of_a_fifth_as_t5_rounds(score, label) -> None:
    backbone = Backbone(BUNDLED_BACKBONE)
    task = TASKS["stsb"]
    encoder = Encoder(task, backbone.tokenizer, backbone.start_token, 128)
    row = {"sentence1": "a", "sentence2": "b", "label": score}
    encoded = encoder.encode([row], "train")
    assert task.labels[encoded.label[0]] == label == f"{round(score * 5) / 5:.1f}"
    assert encoded.score[0] == pytest.approx(score)


def test_sources_are_cut_to_the_limit_and_keep_their_end() -> None:
    backbone = Backbone(BUNDLED_BACKBONE)
    encoder = Encoder(TASKS["cola"], backbone.tokenizer, backbone.start_token, 12)
    encoded = encoder.encode([{"sentence": "word " * 50, "label": 1}, {"sentence": "short", "label": 0}], "train")
    assert len(encoded.input_ids[0]) == 12
    assert encoded.input_ids[0][-1] == backbone.tokenizer.eos_token_id
    assert encoded.truncated == 1
    strict = Encoder(TASKS["cola"], backbone.tokenizer, backbone.start_token, 12, "error")
    with pytest.raises(UserError, match="more than the limit of 12"):
        strict.encode([{"sentence": "word " * 50, "label": 1}], "train")
