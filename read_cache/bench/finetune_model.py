"""A backbone whose weights all train, on the rows of a store: final states, loss and metrics without activations.

Shape letters as in `loader/batch.py`.
"""

import numpy as np
import torch
import transformers
from torch import Tensor

from read_cache.backbones.t5 import Backbone
from read_cache.extract.forward import Example, node_paths, pad_ids
from read_cache.loader.batch import Batch, StackBatch
from read_cache.loader.order import store_batches
from read_cache.metrics import detail_metrics, headline
from read_cache.scoring.evaluator import Evaluation, label_values
from read_cache.scoring.heads import Head
from read_cache.store.reader import StoreReader

EVALUATION_BATCH = 64
NOTHING = StackBatch(torch.empty(0), None, torch.empty(0, dtype=torch.bool), ())
"""The activations of a batch of which the head needs the final states alone."""


class SplitRows:
    """One split's rows as the backbone takes them in, in the order of the store."""

    def __init__(self, store: StoreReader, name: str) -> None:
        self.split, self.head_tokens = store.split(name), torch.from_numpy(store.head[0])
        self.tokens, self.nodes = self._slices("token", "length"), self._slices("node", "nodes")

    def _slices(self, axis: str, count: str) -> list[slice]:
        begins, extents = self.split.plan[f"{axis}_offset"].tolist(), self.split.plan[count].tolist()
        return [slice(begin, begin + extent) for begin, extent in zip(begins, extents, strict=True)]

    def examples(self, numbers: np.ndarray) -> list[Example]:
        """Some rows: their tokens, and the decoder's nodes."""
        plan = self.split.plan
        return [
            Example(
                plan["input_ids"][self.tokens[row]],
                plan["node_token"][self.nodes[row]],
                plan["node_parent"][self.nodes[row]],
            )
            for row in numbers
        ]

    def batch(self, numbers: np.ndarray, y_BTD: Tensor) -> Batch:
        """What the head needs of some rows: the states that the backbone gave for them, and their targets."""
        trie, target = self._padded("node_trie", numbers), self._padded("node_target", numbers)
        place = torch.searchsorted(self.head_tokens, target).where(target >= 0, -1)
        return Batch(NOTHING, NOTHING, None, y_BTD, trie, place)

    def _padded(self, name: str, numbers: np.ndarray) -> Tensor:
        """[B, T] int64, padded with -1."""
        rows = [torch.from_numpy(self.split.plan[name][self.nodes[row]].astype(np.int64)) for row in numbers]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


class TunedBackbone:
    """A backbone in float32 that trains whole, its output head over the label trie's tokens included."""

    def __init__(self, backbone: Backbone, store: StoreReader, dropout: float) -> None:
        self.trie, self.head_tokens = store.manifest.trie, torch.from_numpy(store.head[0])
        self.head_scale = backbone.head_scale()
        self.model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
            backbone.folder,
            dtype=torch.float32,
            dropout_rate=dropout,
            attn_implementation="eager",  # faster than sdpa on a processor at these lengths
            use_safetensors=True,
            trust_remote_code=False,
        )

    def head(self) -> Head:
        """The output head's rows for the label tokens, as they are now."""
        return Head(self.model.get_output_embeddings().weight[self.head_tokens] * self.head_scale, self.trie)

    def final_states(self, examples: list[Example]) -> Tensor:
        """[B, T, D] float32: the decoder's last state at every node of every example; padding is zero."""
        ids, mask = pad_ids([example.input_ids for example in examples], "cpu")
        paths = [(row, path) for row, example in enumerate(examples) for path in node_paths(example.node_parent)]
        source = torch.tensor([row for row, _ in paths])
        path_ids, path_mask = pad_ids([examples[row].node_token[path] for row, path in paths], "cpu")
        encoded = self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        states = self.model.get_decoder()(
            input_ids=path_ids,
            attention_mask=path_mask,
            encoder_hidden_states=encoded[source],
            encoder_attention_mask=mask[source],
            use_cache=False,
        ).last_hidden_state.float()
        nodes = max(len(example.node_token) for example in examples)
        y_BTD = states.new_zeros(len(examples), nodes, states.shape[-1])
        node = torch.from_numpy(np.concatenate([path for _, path in paths]))
        y_BTD[source.repeat_interleave(path_mask.sum(1)), node] = states[path_mask.bool()]
        return y_BTD

    def loss(self, rows: SplitRows, numbers: np.ndarray, precision: str) -> Tensor:
        """The mean loss of some training rows; `precision` is that of the products."""
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            y_BTD = self.final_states(rows.examples(numbers))
        return self.head().loss(y_BTD, rows.batch(numbers, y_BTD))

    @torch.inference_mode()
    def evaluate(self, rows: SplitRows) -> Evaluation:
        """Metrics on validation or test rows, which hold every node of the trie; in float32, as READ's are."""
        self.model.eval()
        head, manifest, plan = self.head(), rows.split.manifest, rows.split.plan
        by_length = np.argsort(plan["length"], kind="stable")
        predicted = np.zeros(rows.split.examples, np.int64 if manifest.task.labels else np.float32)
        loss = 0.0
        for places in store_batches(rows.split.examples, EVALUATION_BATCH):
            numbers = by_length[places]
            y_BTD = self.final_states(rows.examples(numbers))
            scores = head.scores(y_BTD, rows.batch(numbers, y_BTD))
            predicted[numbers] = scores.predicted.numpy()
            loss += float(scores.loss.sum())
        details = detail_metrics(manifest.task.metric, plan["score"], label_values(manifest, predicted))
        return Evaluation(headline(details), details, loss / rows.split.examples)
