"""T5, mT5, UMT5, ByT5 and FLAN-T5: an encoder, a decoder that runs over label tries, and a language model's head."""

import contextlib
from typing import Any

import numpy as np
import torch
import transformers

from read_cache.backbones.base import Backbone, Block, Source, Trace, run_stack
from read_cache.backbones.tokens import TokenBatch, additive_mask, at_depths, attended_positions, is_chain
from read_cache.store.spec import BlockSpec, StackSpec
from read_cache.tasks import Task


class T5(Backbone):
    """Any T5."""

    family = "t5"
    language_model = True
    auto = transformers.AutoModelForSeq2SeqLM

    @property
    def stacks(self) -> tuple[StackSpec, ...]:
        config = self.config
        block = BlockSpec(head_size=config.d_kv, feed_forward=config.d_ff, gated=config.is_gated_act)
        shape: dict[str, Any] = {"width": config.d_model, "heads": config.num_heads, "final_norm": True, "block": block}
        return (
            StackSpec(name="encoder", layers=config.num_layers, **shape),
            StackSpec(name="decoder", layers=config.num_decoder_layers, causal=True, attends_to="encoder", **shape),
        )

    @property
    def encoder(self) -> Any:
        return self.module.get_encoder()  # type: ignore[operator]

    @property
    def decoder(self) -> Any:
        return self.module.get_decoder()  # type: ignore[operator]

    def blocks(self) -> dict[str, list[Block]]:
        """Return the blocks of both stacks; cross-attention is not among their sublayers."""
        stacks = {"encoder": self.encoder.block, "decoder": self.decoder.block}
        return {
            name: [Block(one, one.layer[0].SelfAttention.o, one.layer[-1].DenseReluDense.wo) for one in blocks]
            for name, blocks in stacks.items()
        }

    @property
    def start_token(self) -> int:
        return int(self.config.decoder_start_token_id or 0)

    def tokenize(self, texts: list[tuple[str, ...]], limit: int) -> list[Source]:
        """Return each text's tokens, end token last, cut to at most `limit` before it."""
        sources = []
        for ids in self.target_ids([text for (text,) in texts]):
            cut = len(ids) > limit
            kept = [*ids[: limit - 1], ids[-1]] if cut else ids
            sources.append(Source(np.array(kept, dtype=np.int32), cut=cut))
        return sources

    def label_ids(self, task: Task) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(ids) for ids in self.target_ids(list(task.labels))) if task.labels else ()

    def target_ids(self, texts: list[str]) -> list[list[int]]:
        ids = self.tokenizer(texts, verbose=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        return [tokens if tokens and tokens[-1] == end else [*tokens, end] for tokens in ids]

    def forward(self, tokens: TokenBatch, attention: bool = False, states: bool = True) -> Trace:
        """Run the encoder, then the decoder over each example's tree of positions as one sequence."""
        source = tokens.stacks["encoder"]
        mask = source.mask.long()
        encoder = run_stack(
            self.encoder, self.encoder.final_layer_norm, attention, states, input_ids=source.ids, attention_mask=mask
        )
        if "decoder" not in tokens.stacks:
            return {"encoder": encoder}
        nodes = tokens.stacks["decoder"]
        inputs = {"input_ids": nodes.ids, "attention_mask": nodes.mask.long(), "use_cache": False}
        inputs |= {"encoder_hidden_states": encoder.hidden[-1], "encoder_attention_mask": mask}
        with contextlib.ExitStack() as stack:
            if not is_chain(nodes):
                attended = attended_positions(nodes)
                inputs["attention_mask"] = additive_mask(attended, self.module.dtype)  # type: ignore[arg-type]
                stack.enter_context(at_depths(self.decoder, attended.sum(-1) - 1))
            decoder = run_stack(self.decoder, self.decoder.final_layer_norm, attention, states, **inputs)
        return {"encoder": encoder, "decoder": decoder}

    @torch.inference_mode()
    def head_scale(self) -> float:
        """Return 1, or d^-0.5 where the model scales its last state; measured, as the rule differs by family."""
        self.module.eval()  # a live method may have trained it, and dropout would differ between the two passes
        token = torch.tensor([[self.start_token]], device=self.device)
        logits = self.module(input_ids=token, decoder_input_ids=token).logits.double()
        encoded = self.encoder(input_ids=token).last_hidden_state
        state = self.decoder(input_ids=token, encoder_hidden_states=encoded).last_hidden_state
        unscaled = self.module.get_output_embeddings()(state).double()  # type: ignore[operator]
        ratio = float((logits * unscaled).sum() / unscaled.square().sum())
        candidates = (1.0, self.config.d_model**-0.5)
        return min(candidates, key=lambda scale: abs(scale - ratio))

    @property
    def final_norms(self) -> dict[str, Any]:
        return {"encoder": self.encoder.final_layer_norm, "decoder": self.decoder.final_layer_norm}
