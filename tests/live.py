"""Reference: batches straight from transformers, sharing nothing with the code under test but the Batch type.

One live forward over a whole padded batch; heads averaged, states normalised and positions gathered by other means.
"""

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from read_cache.loader.batch import Batch, StackBatch


def load(folder, dtype=torch.float32):
    """(model, tokenizer) by plain transformers calls."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    return model, AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def live_batch(model, source: list[list[int]], decoder: list[list[int]], target: Tensor, attention: str) -> Batch:
    """The live backbone on one padded batch of token id lists; `target` [B, T] indexes the head's rows, -1 padding."""
    ids, mask = _padded(source)
    decoder_ids, decoder_mask = _padded(decoder)
    out = model(
        input_ids=ids,
        attention_mask=mask,
        decoder_input_ids=decoder_ids,
        decoder_attention_mask=decoder_mask,
        output_hidden_states=True,
        output_attentions=True,
        use_cache=False,
    )
    real, decoder_real = mask.bool(), decoder_mask.bool()

    def states(hidden: tuple[Tensor, ...], keep: Tensor) -> Tensor:
        return torch.stack([(h * keep[..., None]) for h in hidden]).float()

    def weights(layers: tuple[Tensor, ...], to: Tensor, source: Tensor) -> Tensor | None:
        if attention == "none":
            return None
        keep = (to[:, None, :, None] & source[:, None, None, :]).float()
        kept = [layer.float() * keep for layer in layers]
        return torch.stack([k.mean(1) if attention == "mean" else k.transpose(0, 1) for k in kept])

    def stack(hidden: Tensor, attentions: tuple[Tensor, ...], keep: Tensor) -> StackBatch:
        normed = hidden / (hidden.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
        return StackBatch(normed, weights(attentions, keep, keep), keep, tuple(range(1, len(hidden))))

    encoder, dec = states(out.encoder_hidden_states, real), states(out.decoder_hidden_states, decoder_real)
    return Batch(
        encoder=stack(encoder, out.encoder_attentions, real),
        decoder=stack(dec, out.decoder_attentions, decoder_real),
        cross_attention=weights(out.cross_attentions, decoder_real, real),
        final=dec[-1],
        node_trie=torch.where(target >= 0, 0, -1),
        node_target=target,
    )


@torch.no_grad()
def label_log_probabilities(model, source: list[int], labels: list[list[int]], start: int) -> list[float]:
    """Constrained decoding the long way: each label's whole sequence, softmax over the tokens that may follow."""
    found = []
    for label in labels:
        out = model(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[start, *label[:-1]]]), use_cache=False
        )
        total = 0.0
        for depth in range(len(label)):
            allowed = sorted({ids[depth] for ids in labels if len(ids) > depth and ids[:depth] == label[:depth]})
            logp = out.logits[0, depth, allowed].double().log_softmax(0)
            total += float(logp[allowed.index(label[depth])])
        found.append(total)
    return found


def _padded(sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, sequences))
    ids = torch.tensor([s + [0] * (longest - len(s)) for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
    return ids, mask
