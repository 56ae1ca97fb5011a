"""READ networks beside a live T5: one pass of the backbone, then every network on what it said.

Shape letters as in `loader/batch.py`; V token of the vocabulary.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from read_cache.backbones.t5 import Backbone
from read_cache.errors import UserError
from read_cache.extract.encode import Encoder
from read_cache.extract.forward import pad_ids
from read_cache.live.forms import LiveForm
from read_cache.live.generation import PrefixCache, corrected_decoder
from read_cache.live.tree import PrefixTree
from read_cache.loader.batch import Batch
from read_cache.networks.read import Read
from read_cache.networks.saved import TrainedNetwork, check_backbone
from read_cache.scoring.heads import Head
from read_cache.tasks import Task
from read_cache.trie import LabelTrie

Row = str | Mapping[str, Any]
"""A task's fields by name, or the text itself where a task has one field."""


BATCH_SIZE = 32
"""Rows of a pass, unless another number is given."""


@dataclasses.dataclass(frozen=True)
class Classified:
    """What one network says of one row."""

    label: str
    probabilities: dict[str, float]
    """By label; they sum to one."""


class Attached:
    """A frozen backbone and networks of any tasks beside it, by name. Raises UserError for another backbone's."""

    def __init__(self, backbone: Backbone, trained: Mapping[str, TrainedNetwork]) -> None:
        if not trained:
            raise UserError("there is no network to attach: give at least one folder or loaded network")
        self.backbone = backbone
        self.records = {name: one.record for name, one in trained.items()}
        for name, record in self.records.items():
            check_backbone(record, backbone.digest, f"model {backbone.name}")
            if record.compute_dtype != backbone.dtype:
                raise UserError(
                    f"network {name} was trained on states computed in {record.compute_dtype}, but the backbone runs "
                    f"in {backbone.dtype}: load it in {record.compute_dtype}"
                )
        self.networks = {name: one.network.eval().to(backbone.device) for name, one in trained.items()}
        share_statistics(self.networks.values())
        self.joined = any(record.read.attention != "none" for record in self.records.values())
        self._forms = self._share_forms(trained)
        self._tries = {name: LabelTrie(record.label_ids) for name, record in self.records.items() if record.label_ids}
        self._heads = {trie: self._head(trie) for trie in self._tries.values()}
        self._encoders: dict[tuple[Task, int], Encoder] = {}

    def _share_forms(self, trained: Mapping[str, TrainedNetwork]) -> dict[str, LiveForm]:
        """By network; those that see a store's states in the same form see the same batch."""
        forms: dict[tuple[object, ...], LiveForm] = {}
        by_name = {}
        for name, one in trained.items():
            form = one.record.form if self.joined else dataclasses.replace(one.record.form, attention="none")
            key = (form, one.record.store_digest if form.calibrated else "")
            if key not in forms:
                forms[key] = LiveForm(form, one.calibration, self.backbone.device)
            by_name[name] = forms[key]
        return by_name

    @torch.inference_mode()
    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, decoder_input_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """y of every network at every place of the decoder's input, [B, T, D] float32, from one pass.

        Without `decoder_input_ids` the decoder sees its start token alone. `logits` makes logits of y.
        """
        input_ids, mask = self._inputs(input_ids, attention_mask)
        if decoder_input_ids is None:
            decoder_input_ids = torch.full((len(input_ids), 1), self.backbone.start_token)
        encoder_out = self._encode(input_ids, mask)
        decoder_out = self._decode(decoder_input_ids, encoder_out.last_hidden_state, mask)
        return {name: y for name, y, _ in self._corrected(self.networks, encoder_out, mask, decoder_out)}

    @torch.inference_mode()
    def logits(self, y_BTD: Tensor) -> Tensor:
        """[B, T, V] in the backbone's dtype: its own head on corrected states."""
        head = self.backbone.model.get_output_embeddings()  # type: ignore[operator]
        return head(y_BTD.to(head.weight.dtype) * self._head_scale)

    @cached_property
    def _head_scale(self) -> float:
        return self.backbone.head_scale()

    @torch.inference_mode()
    def label_probabilities(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, networks: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """[B, labels] of every network with a closed label set, or of those named, from one pass: exact over the trie.

        Raises UserError where there is no such network.
        """
        names = self._closed(networks)
        tree = PrefixTree({self._tries[name] for name in names})
        input_ids, mask = self._inputs(input_ids, attention_mask)
        encoder_out = self._encode(input_ids, mask)
        path_ids, _ = pad_ids(tree.path_ids(self.backbone.start_token), self.backbone.device)
        of_path = torch.arange(len(input_ids), device=self.backbone.device).repeat_interleave(len(path_ids))
        encoded = encoder_out.last_hidden_state.index_select(0, of_path)
        decoder_out = self._decode(path_ids.repeat(len(input_ids), 1), encoded, mask.index_select(0, of_path))
        found = {}
        for name, y, batch in self._corrected(names, encoder_out, mask, decoder_out, tree):
            trie = self._tries[name]
            nodes = tree.nodes(trie.prefixes)
            own = torch.arange(len(nodes), device=y.device).expand(len(y), -1)
            batch = dataclasses.replace(batch, node_trie=own, node_target=torch.full_like(own, -1))
            probabilities = self._heads[trie].scores(y[:, nodes], batch).probabilities
            assert probabilities is not None
            found[name] = probabilities
        return found

    def classify(
        self, rows: Sequence[Row], networks: Collection[str] | None = None, batch_size: int = BATCH_SIZE
    ) -> dict[str, list[Classified]]:
        """Labels of every network with a closed label set, or of those named; `batch_size` rows share a pass.

        So do networks whose tasks make the same text of a row. Raises UserError for rows without a field.
        """
        if isinstance(rows, str | Mapping):
            raise UserError("classify takes a list of rows, found one row: put brackets around it")
        if not rows:
            raise UserError("there are no rows to classify")
        names = self._closed(networks)
        alike: dict[tuple[str, int], list[str]] = {}
        for name in names:
            alike.setdefault((self.records[name].task.template, self.records[name].max_source_length), []).append(name)
        found: dict[str, list[Classified]] = {}
        for group in alike.values():
            texts = [self._text(group[0], row, i) for i, row in enumerate(rows)]
            said = self.classify_texts(texts, group, batch_size)
            found |= {name: [one[name] for one in said] for name in group}
        return {name: found[name] for name in names}

    def classify_texts(
        self, texts: Sequence[str], networks: Collection[str], batch_size: int = BATCH_SIZE
    ) -> list[dict[str, Classified]]:
        """What networks of one template say of its texts, in their order; texts of like length share a pass."""
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, expected at least 1")
        names = self._closed(networks)
        ids = self.encoder(names[0]).encode_texts(list(texts))
        by_length = np.argsort([-len(tokens) for tokens in ids], kind="stable").tolist()
        found: list[dict[str, Classified]] = [{} for _ in texts]
        for start in range(0, len(ids), batch_size):
            batch = by_length[start : start + batch_size]
            inputs = pad_ids([ids[place] for place in batch], self.backbone.device)
            for name, probabilities in self.label_probabilities(*inputs, names).items():
                for place, one in zip(batch, classified(self.records[name].task, probabilities), strict=True):
                    found[place][name] = one
        return found

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, network: str, **options: Any) -> Any:
        """What transformers' `generate` gives with the decoder's last state corrected by one network.

        `options` are its own: `max_new_tokens`, `num_beams`, `do_sample` and others. The decoder runs over each token
        once, unless `use_cache` is False.
        """
        self._check_names([network])
        if "encoder_outputs" in options:
            raise UserError("networks need what the encoder says of every layer: give input_ids, not encoder_outputs")
        input_ids, mask = self._inputs(input_ids, attention_mask)
        model: Any = self.backbone.model
        if options.get("use_cache", True):
            options = {"past_key_values": PrefixCache(model.config.get_text_config(decoder=True))} | options
        form, read = self._forms[network], self.networks[network]
        with corrected_decoder(self.backbone, form, read, self._precision, self._wanted):
            return model.generate(input_ids=input_ids, attention_mask=mask, **options)

    def encoder(self, network: str) -> Encoder:
        """Makes a network's encoder tokens of rows. Raises UserError for another tokenizer than the store's."""
        record = self.records[network]
        key = (record.task, record.max_source_length)
        if key not in self._encoders:
            found = Encoder(record.task, self.backbone.tokenizer, self.backbone.start_token, record.max_source_length)
            if found.label_ids != record.label_ids:
                raise UserError(
                    f"the tokenizer in {self.backbone.folder} makes other tokens of the labels of {record.task.name} "
                    f"than network {network} was trained with: put the one there that its store was made with"
                )
            self._encoders[key] = found
        return self._encoders[key]

    def _y(self, name: str, batch: Batch) -> Tensor:
        """A network's y, [B, T, D] float32."""
        with self._precision:
            return self.networks[name](batch)

    @property
    def _precision(self) -> torch.autocast:
        """The precision of networks' products: that of the backbone, whose noise is larger."""
        device = torch.device(self.backbone.device).type
        return torch.autocast(device, torch.bfloat16, enabled=self.backbone.dtype == "bf16")

    @property
    def _wanted(self) -> dict[str, bool]:
        return {"output_hidden_states": True, "output_attentions": self.joined}

    def _encode(self, input_ids: Tensor, mask: Tensor) -> Any:
        return self.backbone.encoder(input_ids=input_ids, attention_mask=mask, **self._wanted)

    def _decode(self, decoder_ids: Tensor, encoded: Tensor, mask: Tensor) -> Any:
        return self.backbone.decoder(
            input_ids=decoder_ids.to(encoded.device),
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            use_cache=False,
            **self._wanted,
        )

    def _corrected(
        self, names: Iterable[str], encoder_out: Any, mask: Tensor, decoder_out: Any, tree: PrefixTree | None = None
    ) -> Iterator[tuple[str, Tensor, Batch]]:
        """(name, y, batch) of each network; a place of the decoder is a node of the tree where there is one."""
        names, final = list(names), decoder_out.last_hidden_state
        if tree is not None:
            final = tree.gather(final)
        for form in dict.fromkeys(self._forms[name] for name in names):
            decoder = form.decoder_arrays(decoder_out)
            arrays = form.encoder_arrays(encoder_out) | (decoder if tree is None else tree.gather_arrays(decoder))
            batch = form.batch(arrays, mask, final)
            for name in names:
                if self._forms[name] is form:
                    yield name, self._y(name, batch), batch

    def _inputs(self, input_ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both on the backbone's device; without a mask everything is real."""
        input_ids = input_ids.to(self.backbone.device)
        return input_ids, torch.ones_like(input_ids) if mask is None else mask.to(self.backbone.device)

    def _head(self, trie: LabelTrie) -> Head:
        return Head(self.backbone.head_rows(torch.from_numpy(trie.tokens)).to(self.backbone.device), trie)

    def _check_names(self, names: Collection[str]) -> None:
        if unknown := [name for name in names if name not in self.networks]:
            raise UserError(f"no network {unknown[0]!r} is attached; there are: {', '.join(self.networks)}")

    def _closed(self, names: Collection[str] | None) -> list[str]:
        """The names given, or every network with a closed label set."""
        wanted = [names] if isinstance(names, str) else list(self._tries if names is None else names)
        self._check_names(wanted)
        if not wanted or (opened := [name for name in wanted if name not in self._tries]):
            who = opened[0] if wanted else ", ".join(self.networks)
            raise UserError(f"{who}: open targets have no label set to choose from; use generate")
        return wanted

    def _text(self, network: str, row: Row, index: int) -> str:
        task = self.records[network].task
        fields = task.text_fields
        if isinstance(row, str) and len(fields) == 1:
            row = {fields[0]: row}
        if isinstance(row, str) or any(field not in row for field in fields):
            found = "a text" if isinstance(row, str) else f"fields {', '.join(row)}"
            raise UserError(f"row {index} is {found}, but task {task.name} needs a dict with {', '.join(fields)}")
        return self.encoder(network).source_text(dict(row), f"row {index}")


def share_statistics(networks: Iterable[Read]) -> None:
    """Let networks of equal statistics hold the same tensors: then a batch is standardised once for all of them."""
    known: list[Tensor] = []
    for module in (module for network in networks for module in network.modules()):
        for name, values in list(module.named_buffers(recurse=False)):
            twin = next((one for one in known if torch.equal(one, values)), None)
            if twin is None:
                known.append(values)
            else:
                setattr(module, name, twin)


def classified(task: Task, probabilities_BK: Tensor) -> list[Classified]:
    """Each row's most probable label and all labels' shares."""
    rows = [dict(zip(task.labels, shares, strict=True)) for shares in probabilities_BK.tolist()]
    return [Classified(max(shares, key=shares.__getitem__), shares) for shares in rows]
