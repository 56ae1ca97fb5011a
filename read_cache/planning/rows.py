"""How long every example is, exact where rows and tokenizer are at hand, and the store's layout, which follows."""

import dataclasses

import numpy as np
from transformers import PreTrainedTokenizerBase

from read_cache.backbones.t5 import load_tokenizer
from read_cache.data import BUNDLED_BACKBONE, bundled_backbone
from read_cache.extract.config import ExtractConfig
from read_cache.extract.encode import Encoder
from read_cache.extract.forward import node_paths
from read_cache.extract.plan import make_manifest, plan_split
from read_cache.extract.rows import load_rows, source_name
from read_cache.extract.splits import protocol_splits
from read_cache.planning.glue import GLUE_FILES, TRIE_NODES, estimated_lengths, how_estimated
from read_cache.planning.models import PlannedModel
from read_cache.store.layout import Layout, plan_parts
from read_cache.store.manifest import Manifest
from read_cache.tasks import Task

PROBE = (
    "mrpc sentence1: The company said on Tuesday that it expects to report lower profits for the third quarter, "
    "because fewer people bought its machines than in the year before. sentence2: Profits in the third quarter will be "
    "lower than expected, the company said. "
    "qnli question: When did the old bridge across the river open? sentence: It opened to the public in 1874. "
    "mnli premise: yeah well i think they were fine hypothesis They were good. "
    "sst2 sentence: slow at first , but its quiet humour and two fine actors make it well worth an evening"
)
"""English of the kind that GLUE holds, to compare vocabularies by."""
PROBE_TOKENS = 136
"""Of T5's vocabulary."""


@dataclasses.dataclass(frozen=True)
class SplitRows:
    """One split of the planned store."""

    layout: Layout
    paths: int = 1
    """Paths through the decoder's tree that an example's pass runs over."""
    depth: int | None = None
    """Nodes of the longest path; None where each example's nodes are its one path."""


@dataclasses.dataclass(frozen=True)
class PlannedRows:
    """Every split, and what its lengths rest on."""

    splits: dict[str, SplitRows]
    exact: bool
    how: str

    @property
    def tokens(self) -> int:
        """Encoder tokens of all splits."""
        return sum(int(split.layout.length.sum()) for split in self.splits.values())


def plan_rows(task: Task, dataset: str | None, model: PlannedModel, config: ExtractConfig) -> PlannedRows:
    """Rows that lie here are tokenised as extraction would; those of GLUE, which do not, are estimated.

    Raises UserError for bad rows, and for a dataset of the hub that cannot be had.
    """
    if dataset is None and task.name in GLUE_FILES:
        return _estimated(task, model.tokenizer, config)
    rows = protocol_splits(load_rows(task, dataset), task.protocol)
    scale, how = 1.0, "counted on the rows"
    tokenizer = model.tokenizer
    if tokenizer is None:
        folder = bundled_backbone(BUNDLED_BACKBONE)
        assert folder is not None
        tokenizer = load_tokenizer(folder, BUNDLED_BACKBONE)
        scale = 1 / relative_tokens(tokenizer)
        how = f"the rows' tokens by the bundled vocabulary, times {scale:.2f}, as the model's own is not at hand"
    start = int(model.config.decoder_start_token_id or 0)
    encoder = Encoder(task, tokenizer, start, config.max_source_length, config.on_long)
    splits = {}
    for name, of_split in rows.items():
        layout = plan_split(encoder.encode(of_split, name), config).layout
        if scale != 1:
            length = np.maximum(2, np.round(layout.length * scale)).astype(np.int32)
            layout = plan_parts(length, layout.nodes, config.part_tokens)
        splits[name] = _with_paths(encoder, name, layout)
    return PlannedRows(splits, scale == 1, how)


def relative_tokens(tokenizer: PreTrainedTokenizerBase) -> float:
    """Tokens that a vocabulary makes of English text for each of T5's."""
    return len(tokenizer(PROBE)["input_ids"]) / PROBE_TOKENS


def _with_paths(encoder: Encoder, split: str, layout: Layout) -> SplitRows:
    """Training rows and open targets are one path; evaluation rows hold every path of the label trie."""
    if encoder.trie is None or split == "train":
        return SplitRows(layout)
    paths = node_paths(encoder.trie.parents)
    return SplitRows(layout, len(paths), max(map(len, paths)))


def _estimated(task: Task, tokenizer: PreTrainedTokenizerBase | None, config: ExtractConfig) -> PlannedRows:
    """The rows of a GLUE task as its published sizes and measured lengths have them."""
    scale = 1.0 if tokenizer is None else relative_tokens(tokenizer)
    splits = {}
    for name, by_t5 in estimated_lengths(task).items():
        order = np.random.default_rng(config.seed).permutation(len(by_t5))[: config.max_examples]
        length = np.clip(np.round(by_t5[order] * scale), 2, config.max_source_length).astype(np.int32)
        encoder = tokenizer and Encoder(task, tokenizer, 0, config.max_source_length)
        nodes = _trie_nodes(task, encoder, name, len(order))
        layout = plan_parts(length, nodes, config.part_tokens)
        splits[name] = SplitRows(layout) if encoder is None else _with_paths(encoder, name, layout)
    vocabulary = "" if scale == 1 else f", times {scale:.2f} for this vocabulary"
    return PlannedRows(splits, False, f"{how_estimated(task)}, by T5's vocabulary{vocabulary}")


def _trie_nodes(task: Task, encoder: Encoder | None, split: str, examples: int) -> np.ndarray:
    """Decoder nodes of each row, [examples] int32; labels are taken to be equally frequent."""
    if encoder is None or encoder.trie is None:
        of_evaluation, of_training = TRIE_NODES.get(task.name, (1, 1.0))
    else:
        gold = [len(path) for path in encoder.trie.paths]
        of_evaluation, of_training = len(encoder.trie.prefixes), sum(gold) / len(gold)
    if split != "train":
        return np.full(examples, of_evaluation, np.int32)
    return np.diff(np.floor(np.arange(examples + 1) * of_training)).astype(np.int32)


def plan_manifest(
    task: Task, dataset: str | None, model: PlannedModel, rows: PlannedRows, config: ExtractConfig
) -> Manifest:
    """The manifest of the planned store, as far as its sizes go: digests and label tokens are left out."""
    layouts = {name: split.layout for name, split in rows.splits.items()}
    return make_manifest(config, task, source_name(task, dataset), model.info, "", (), {}, layouts)
