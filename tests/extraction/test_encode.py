"""Rows to tokens and labels: the protocol's prompts, labels as written, and rows that are refused."""

import numpy as np
import pytest

from read_cache.backbones import open_backbone
from read_cache.config import ExtractConfig
from read_cache.data import BUNDLED_BACKBONE
from read_cache.errors import UserError
from read_cache.extraction.encode import Encoder
from read_cache.extraction.rows import load_folder
from read_cache.tasks import TASKS, Task, find_task
from support.backbones import bert_folder


def test_a_task_file_is_named_by_text_or_path(rows_folder) -> None:
    path = rows_folder / "words.toml"
    assert find_task(path) == find_task(str(path))


@pytest.fixture(scope="module")
def t5():
    """The bundled backbone."""
    return open_backbone(BUNDLED_BACKBONE)


@pytest.fixture(scope="module")
def encoder_of(t5):
    """An encoder of a task with given labels."""

    def make(*labels: str, config: ExtractConfig | None = None, **settings) -> Encoder:
        task = Task(name="mine", template="q: {sentence}", labels=labels, **settings)
        return Encoder(task, t5, config or ExtractConfig())

    return make


@pytest.mark.parametrize("labels", [("true", "false"), ("1", "0"), ("no", "yes"), ("1", "2", "3", "4", "5")])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_label_that_is_written_out_is_that_label(tmp_path, encoder_of, labels, kind) -> None:
    if kind == "jsonl":
        lines = [f'{{"sentence": "a river", "label": "{label}"}}\n' for label in labels]
    else:
        lines = ["sentence,label\n", *(f"a river,{label}\n" for label in labels)]
    (tmp_path / f"train.{kind}").write_text("".join(lines))
    encoded = encoder_of(*labels).encode(load_folder(tmp_path)["train"], "train")
    assert encoded.label.tolist() == list(range(len(labels)))


def test_label_numbers_of_a_csv_count_from_zero(tmp_path, encoder_of) -> None:
    (tmp_path / "train.csv").write_text("sentence,label\na river,1\na town,0\n")
    assert encoder_of("no", "yes").encode(load_folder(tmp_path)["train"], "train").label.tolist() == [1, 0]


@pytest.mark.parametrize("label", [1.0, "1.0", "1"])
def test_a_whole_number_is_a_label_number_however_it_is_written(encoder_of, label) -> None:
    """pandas writes 1.0 for 1 if values of the column are missing."""
    assert encoder_of("no", "yes").encode([{"sentence": "a", "label": label}], "train").label.tolist() == [1]


def test_scores_of_a_csv_are_numbers(tmp_path, encoder_of) -> None:
    (tmp_path / "train.csv").write_text("sentence,label\na river,4.1\na town,0\n")
    encoder = encoder_of("0.0", "2.5", "5.0", scores=True, metric="pearson_spearman")
    assert encoder.encode(load_folder(tmp_path)["train"], "train").score.tolist() == pytest.approx([4.1, 0])


@pytest.mark.parametrize(("label", "labels"), [(True, ("true", "false")), (1, ("1", "0")), (0.0, ("1", "0"))])
def test_a_number_that_could_be_two_labels_is_refused(encoder_of, label, labels) -> None:
    with pytest.raises(UserError, match=r"train row 0: label .* could be the label .*write it as text"):
        encoder_of(*labels).encode([{"sentence": "a river", "label": label}], "train")


@pytest.mark.parametrize(
    ("row", "fact"),
    [
        ({"sentence": "\ud800", "label": 0}, "train row 1: the text is not Unicode"),
        ({"sentence": None, "label": 0}, "train row 1: 'sentence' is None"),
        ({"sentence": "a", "label": 2}, "train row 1: label 2 is none of 0..1"),
        ({"sentence": "a", "label": 0.5}, "train row 1: label 0.5 is none of 0..1"),
        ({"sentence": "a", "label": -1}, r"train row 1: label -1 .*\(its labels are hidden\)"),
        ({"sentence": "a", "label": "maybe"}, "train row 1: label 'maybe'"),
        ({"text": "a", "label": 0}, "no field 'sentence'.*text, label"),
        ({"sentence": "a"}, "no field 'label'"),
    ],
)
def test_a_row_that_cannot_be_encoded_is_named(encoder_of, row, fact) -> None:
    with pytest.raises(UserError, match=fact):
        encoder_of("no", "yes").encode([{"sentence": "a", "label": 0}, row], "train")


def test_a_row_without_text_is_named(encoder_of) -> None:
    rows = [{"sentence": text, "label": number % 2} for number, text in enumerate(["a", "b", " \n", ""])]
    with pytest.raises(UserError, match=r"validation row 2: .*\(sentence\)"):
        encoder_of("no", "yes").encode(rows, "validation")


def test_an_empty_label_is_refused(t5) -> None:
    with pytest.raises(UserError, match=r"label"):
        Encoder(Task(name="mine", template="{a}", labels=("yes", " ")), t5, ExtractConfig())


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
def test_prompts_are_the_protocols_character_by_character(t5, name, row, text) -> None:
    assert t5.texts(TASKS[name], row, "here") == (text,)


@pytest.mark.parametrize(
    ("score", "label"),
    [(0.0, "0.0"), (5.0, "5.0"), (2.5, "2.4"), (2.7, "2.8"), (0.3, "0.4"), (3.75, "3.8"), (4.4, "4.4"), (0.1, "0.0")],
)
def test_stsb_scores_are_labelled_in_steps_of_a_fifth_as_t5_rounds(t5, score, label) -> None:
    task = TASKS["stsb"]
    encoder = Encoder(task, t5, ExtractConfig())
    encoded = encoder.encode([{"sentence1": "a", "sentence2": "b", "label": score}], "train")
    assert task.labels[encoded.label[0]] == label == f"{round(score * 5) / 5:.1f}"
    assert encoded.score[0] == pytest.approx(score)


@pytest.mark.parametrize("family", ["t5", "bert"])
def test_sources_are_cut_to_the_limit_and_keep_their_end(t5, family) -> None:
    backbone = t5 if family == "t5" else open_backbone(str(bert_folder("bert")))
    rows = [{"sentence": "people " * 50, "label": 1}, {"sentence": "short", "label": 0}]
    encoded = Encoder(TASKS["cola"], backbone, ExtractConfig(max_source_length=12)).encode(rows, "train")
    tokens = encoded.stacks["encoder"]["token"]
    assert len(tokens[0]) == 12
    assert tokens[0][-1] == tokens[1][-1] == (1 if family == "t5" else backbone.tokenizer.sep_token_id)
    assert encoded.truncated == 1


def test_training_rows_hold_the_gold_path_and_others_the_whole_trie(encoder_of) -> None:
    encoder = encoder_of("yes it is", "yes it was", "no")
    rows = [{"sentence": "a", "label": number} for number in range(3)]
    train, test = encoder.encode(rows, "train").stacks["decoder"], encoder.encode(rows, "test").stacks["decoder"]
    for number, ids in enumerate(encoder.trie.label_ids):
        gold = train["target"][number]
        assert gold.tolist() == list(ids[: len(gold)])
        assert train["token"][number].tolist() == [0, *ids[: len(gold) - 1]]
        assert np.array_equal(train["parent"][number], np.arange(-1, len(gold) - 1))
        assert len(test["token"][number]) == len(encoder.trie.prefixes)
        assert test["target"][number][test["target"][number] >= 0].tolist() == gold.tolist()
        token, parent = test["token"][number], test["parent"][number]
        for node, prefix in enumerate(encoder.trie.prefixes):
            path = [node]
            while parent[path[0]] >= 0:
                path.insert(0, int(parent[path[0]]))
            assert tuple(token[path][1:]) == prefix


def test_open_targets_need_a_language_model(t5) -> None:
    task = Task(name="open", template="{a}", target="{b}", metric="token_accuracy")
    encoded = Encoder(task, t5, ExtractConfig()).encode([{"a": "river", "b": "the sea"}], "train")
    target = encoded.stacks["decoder"]["target"][0].tolist()
    assert target == t5.tokenizer("the sea")["input_ids"]
    assert encoded.stacks["decoder"]["token"][0].tolist() == [0, *target[:-1]]
    assert (encoded.label.tolist(), encoded.score.tolist()) == ([-1], [-1])
    bert = open_backbone(str(bert_folder("bert")))
    with pytest.raises(UserError, match="without a language model"):
        Encoder(task, bert, ExtractConfig(max_source_length=60)).encode([{"a": "river", "b": "the sea"}], "train")
    with pytest.raises(UserError, match="train row 0: the target is empty"):
        Encoder(task, t5, ExtractConfig()).encode([{"a": "river", "b": " "}], "train")


def test_an_encoder_only_backbone_gets_labels_without_nodes() -> None:
    encoder = Encoder(TASKS["mrpc"], open_backbone(str(bert_folder("bert"))), ExtractConfig(max_source_length=60))
    rows = [{"sentence1": "a river", "sentence2": "the sea", "label": label} for label in (1, 0)]
    encoded = encoder.encode(rows, "test")
    assert (list(encoded.stacks), encoded.label.tolist()) == (["encoder"], [1, 0])
    assert sorted(encoded.stacks["encoder"]) == ["segment", "token", "token_type"]
    assert encoder.trie is None
