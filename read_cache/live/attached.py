"""Networks of any kind beside a live backbone: one pass of the backbone, then every network.

Shape letters: B example, S position of the first stack, T position of the readout stack, D width, K label, V token.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from read_cache.backbones import Backbone, Source, StackTokens, TokenBatch
from read_cache.errors import UserError
from read_cache.live.formats import live_formats, targets
from read_cache.live.generation import corrected_decoder, generation_cache
from read_cache.live.heads import Classified, classified, load_heads
from read_cache.live.inputs import Row, chain_parents, decoder_tokens, label_tree, padded_left, row_texts, source_tokens
from read_cache.loader.batch import Batch, Positions
from read_cache.networks.ensemble import Ensemble
from read_cache.networks.saved import TrainedNetwork, check_backbone
from read_cache.scoring.evaluator import score_batch
from read_cache.scoring.heads import Scores
from read_cache.store.layout import pad_integers


class Attached:
    """A frozen backbone, and networks of any tasks, kinds and heads beside it, by name.

    Networks compute in float32, as in evaluation; the backbone in the precision that the stores were computed in.
    """

    def __init__(self, backbone: Backbone, trained: Mapping[str, TrainedNetwork]) -> None:
        """Raise UserError for networks that were trained for another backbone or precision."""
        self.backbone, self.spec = backbone, backbone.spec
        self.records = {name: one.record for name, one in trained.items()}
        for name, record in self.records.items():
            check_backbone(record, backbone.digest, f"model {backbone.name}")
            if record.compute_dtype != backbone.dtype:
                raise UserError(
                    f"network {name} was trained on states computed in {record.compute_dtype}, but the backbone runs "
                    f"in {backbone.dtype}: load it in {record.compute_dtype}"
                )
        self.networks = {name: one.network.eval().to(backbone.device) for name, one in trained.items()}
        self._tries = {name: record.trie for name, record in self.records.items() if record.trie}
        self.heads = load_heads(backbone, trained)
        self._formats = live_formats(backbone, trained)

    @torch.inference_mode()
    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return y of every network, [B, T, D] float32, from one pass.

        Args:
            input_ids: [B, S] integers.
            attention_mask: [B, S], not 0 where a token is real; by default all are.
            decoder_input_ids: [B, T] integers, all real; by default the start token alone. For encoder-decoders only.
            token_type_ids: [B, S] integers. For encoders only.

        Raises:
            UserError: a tensor of another shape or dtype, or one that the backbone does not take.
        """
        source = source_tokens(self.backbone, input_ids, attention_mask, token_type_ids)
        if self.spec.language_model and len(self.spec.stacks) == 1:  # its positions count from the first real token
            source = dataclasses.replace(source, parent=chain_parents(source.mask))
        stacks = {self.spec.stacks[0].name: source}
        if decoder_input_ids is not None:
            stacks[self.spec.readout] = decoder_tokens(self.backbone, decoder_input_ids, len(source.ids))
        elif len(self.spec.stacks) > 1:
            start = torch.full_like(source.ids[:, :1], self.backbone.start_token)
            stacks[self.spec.readout] = StackTokens(start, torch.ones_like(start, dtype=torch.bool))
        batches = self._batches(self.networks, TokenBatch(stacks))
        return {name: self.networks[name](batch).float() for name, batch in batches}

    @torch.inference_mode()
    def logits(self, y_BTD: Tensor) -> Tensor:
        """Return [B, T, V] in the backbone's dtype: its own LM head on corrected states. Raises UserError without one.

        Only the corrected states of networks that were trained with the LM head mean anything to it.
        """
        self._check_language_model("has no LM head, so its states have no logits: use classify")
        head = self.backbone.module.get_output_embeddings()  # type: ignore[operator]
        return head(y_BTD.to(head.weight.dtype) * self._head_scale)

    def classify(
        self, rows: Sequence[Row], networks: Collection[str] | None = None, batch_size: int = 32
    ) -> dict[str, list[Classified]]:
        """Return the predictions of every network with a closed label set, or of those named, in the order of the rows.

        `batch_size` rows share a pass, and so do networks that read the same texts of the rows. Raises UserError.
        """
        if isinstance(rows, str | Mapping):
            raise UserError("classify takes a list of rows, found one row: put brackets around it")
        if not rows:
            raise UserError("there are no rows to classify")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, expected at least 1")
        names = [networks] if isinstance(networks, str) else list(self.heads if networks is None else networks)
        self._check_names(names)
        if opened := [name for name in names or self.networks if name not in self.heads]:
            raise UserError(f"{opened[0]}: open targets have no label set to choose from; use generate")
        groups: dict[tuple[Any, ...], list[str]] = {}
        for name in names:
            task = self.records[name].task
            texts = tuple(row_texts(self.backbone, task, row, f"row {index}") for index, row in enumerate(rows))
            groups.setdefault((texts, self.records[name].max_source_length), []).append(name)
        results: dict[str, list[Classified]] = {}
        for (texts, _), group in groups.items():
            predictions = self.classify_sources(self.tokenize(texts, group), group, batch_size)
            results |= {name: [by_name[name] for by_name in predictions] for name in group}
        return {name: results[name] for name in names}

    @torch.inference_mode()
    def classify_sources(
        self, sources: Sequence[Source], networks: Collection[str], batch_size: int
    ) -> list[dict[str, Classified]]:
        """Return each row's predictions by network; rows of like length share a pass. Raises UserError.

        The networks have closed label sets.
        """
        predictions: list[dict[str, Classified]] = [{} for _ in sources]
        for indices in batches_by_length(sources, batch_size):
            for name, scores in self._scores([sources[index] for index in indices], networks).items():
                for index, prediction in zip(indices, classified(self.records[name].task, scores), strict=True):
                    predictions[index][name] = prediction
        return predictions

    def generate_sources(
        self, sources: Sequence[Source], networks: Collection[str], batch_size: int, **options: Any
    ) -> list[dict[str, Classified]]:
        """Return the text that `generate` gives for each row, by network, as a label. Raises UserError."""
        predictions: list[dict[str, Classified]] = [{} for _ in sources]
        for indices in batches_by_length(sources, batch_size):
            tokens = self.backbone.pad([sources[index] for index in indices]).stacks[self.spec.stacks[0].name]
            prompt = tokens.ids.shape[1] if len(self.spec.stacks) == 1 else 0  # a result that repeats its prompt
            if prompt:
                tokens = padded_left(tokens)
            for name in networks:
                ids = self.generate(tokens.ids, tokens.mask, network=name, **options)[:, prompt:]
                texts = self.backbone.tokenizer.batch_decode(ids, skip_special_tokens=True)
                for index, text in zip(indices, texts, strict=True):
                    predictions[index][name] = Classified(text, {})
        return predictions

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, network: str, **options: Any) -> Any:
        """Return the result of transformers' `generate` with the decoder's last state corrected by one network.

        `options` are those of transformers: `max_new_tokens`, `num_beams`, `do_sample` and others. The decoder runs
        over each token once, unless `use_cache` is False. Raises UserError for a network that corrects no decoder.
        """
        self._check_names([network])
        self._check_language_model("cannot generate: it has no LM head")
        if self.networks[network].readout != self.spec.readout or (
            network in self.heads and self.heads[network].pooling
        ):
            raise UserError(f"{network} was trained with a head of its own, so it cannot generate: use classify")
        if isinstance(self.networks[network], Ensemble):
            raise UserError(f"{network} averages the predictions of networks, so it cannot generate: name one of them")
        if "encoder_outputs" in options:
            raise UserError("networks need the encoder's states of every layer: give input_ids, not encoder_outputs")
        source = source_tokens(self.backbone, input_ids, attention_mask)
        model: Any = self.backbone.module
        if options.get("use_cache", True):
            options = {"past_key_values": generation_cache(model)} | options
        with corrected_decoder(self.backbone, self._formats[network], self.networks[network]):
            return model.generate(input_ids=source.ids, attention_mask=source.mask.long(), **options)

    def tokenize(self, texts: Sequence[tuple[str, ...]], networks: Sequence[str]) -> list[Source]:
        """Return the tokens of rows as the networks' stores have them; their length limit is the same.

        `texts` are as `Backbone.texts` makes them. Raises UserError if a network was trained with another tokenizer.
        """
        for name in networks:
            digest = self.records[name].tokenizer_digest
            if digest not in ("", self.backbone.tokenizer_digest):
                raise UserError(
                    f"the tokenizer in {self.backbone.folder} is not the one that network {name} was trained with "
                    f"({digest[:12]}…): put the tokenizer there that its store was made with"
                )
        return self.backbone.tokenize(list(texts), self.records[networks[0]].max_source_length)

    def _scores(self, sources: list[Source], names: Collection[str]) -> dict[str, Scores]:
        """Return each network's scores from one pass, which runs over the nodes of all label tries together."""
        tries = {name: self._tries[name] for name in names if name in self._tries}
        nodes, index = label_tree(tries.values(), self.backbone.start_token)
        first, rows, device = self.spec.stacks[0].name, len(sources), self.backbone.device
        tokens = self.backbone.pad(sources, [nodes] * rows if self.spec.language_model else None)
        root = [len(source.ids) - 1 if first == self.spec.readout else 0 for source in sources]
        places = torch.tensor(root, device=device)[:, None] + torch.arange(len(index), device=device)
        segments = [source.segment for source in sources if source.segment is not None]
        segment = torch.from_numpy(pad_integers(segments, -1)).to(device) if segments else None
        masks = {name: Positions(of.mask, segment if name == first else None) for name, of in tokens.stacks.items()}
        scores = {}
        for name, batch in self._batches(names, tokens):
            network, head = self.networks[name], self.heads[name]
            at_readout = name in tries and network.readout == self.spec.readout
            readout = places[:, [index[prefix] for prefix in tries[name].prefixes]] if at_readout else None
            batch = dataclasses.replace(batch, targets=targets(rows, masks, device, readout))
            scores[name] = score_batch(network, head, batch)
        return scores

    def _batches(self, names: Iterable[str], tokens: TokenBatch) -> Iterator[tuple[str, Batch]]:
        """Yield (name, batch) of each network from one pass; one format's batch at a time is in memory."""
        names = list(names)
        formats = dict.fromkeys(self._formats[name] for name in names)
        trace = self.backbone.forward(tokens, attention=any(format.attention for format in formats))
        for format in formats:
            batch = format.batch(format.arrays(trace), tokens.stacks)
            for name in names:
                if self._formats[name] is format:
                    yield name, batch

    @cached_property
    def _head_scale(self) -> float:
        return self.backbone.head_scale()

    def _check_language_model(self, problem: str) -> None:
        if not self.spec.language_model:
            raise UserError(f"model {self.spec.name} {problem}")

    def _check_names(self, names: Collection[str]) -> None:
        if unknown := [name for name in names if name not in self.networks]:
            raise UserError(f"no network {unknown[0]!r} is attached; attached are: {', '.join(self.networks)}")


def batches_by_length(sources: Sequence[Source], batch_size: int) -> Iterator[list[int]]:
    """Yield indices of rows, the longest first, `batch_size` at a time."""
    order = np.argsort([-len(source.ids) for source in sources], kind="stable").tolist()
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
