"""The paper's protocol on real GLUE rows, where they are at hand."""

import pytest
import torch

from read_cache.errors import UserError
from read_cache.extraction.rows import load_rows, protocol_splits
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


@pytest.mark.parametrize("protocol", ["halve_validation", "hold_out_of_train", "mnli", "as_given"])
def test_a_split_that_is_absent_or_empty_is_named(protocol) -> None:
    with pytest.raises(UserError, match="no train split"):
        protocol_splits({"validation": [{}]}, protocol)
    with pytest.raises(UserError, match=r"validation"):
        protocol_splits({"train": [{}], "validation": [], "validation_mismatched": []}, protocol)


def test_a_dataset_without_a_protocol_has_no_word_of_one() -> None:
    with pytest.raises(UserError, match=r"^the train split is empty: found train"):
        protocol_splits({"train": [], "validation": [{}]}, "as_given")
