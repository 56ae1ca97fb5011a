"""First weights of side networks, pruned from a T5: the initialisation of LST.

"LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning" (Sung et al., 2022), like
"fisher-v2" in its code. Each block keeps other residual channels: these are first weights, not a sub-network.
"""

import json
import math

import safetensors.torch
import torch
from torch import Tensor, nn

from read_cache.backbones.base import Backbone
from read_cache.backbones.t5 import T5
from read_cache.config import ExtractConfig
from read_cache.errors import UserError
from read_cache.extraction.plan import Plan
from read_cache.layers import format_layers

FISHER_ROWS = 1024
"""The Fisher importance comes from the gradients of this many training rows, the first of the store."""
SUBLAYERS = {
    "SelfAttention": ("self_norm", "self_attention."),
    "EncDecAttention": ("cross_norm", "cross_attention."),
    "DenseReluDense": ("feed_forward_norm", ""),
}
"""Names of a side block's norm and of its sublayer, by transformers' name of the sublayer."""
GATED = {"wi_0": "wi", "wi_1": "wi_linear"}
"""Names of a side block's weights where they differ from transformers'."""

Importance = dict[Tensor, Tensor]
"""A tensor of the weight's shape, by weight."""


def check_side_init(backbone: Backbone, config: ExtractConfig) -> None:
    """Raise UserError if no side network of this reduction can be pruned from the backbone."""
    if config.side_init is None:
        return
    if not isinstance(backbone, T5):
        raise UserError(f"side_init prunes a T5, and model {backbone.name} is a {backbone.family}: leave side_init out")
    sizes = backbone.config.d_model, backbone.config.d_kv, backbone.config.d_ff
    if any(size % config.side_reduction for size in sizes):
        raise UserError(
            f"side_reduction is {config.side_reduction}, expected a divisor of the width, head size and feed-forward "
            f"width of model {backbone.name}, {sizes[0]}, {sizes[1]} and {sizes[2]}"
        )


def side_init(backbone: Backbone, plan: Plan, config: ExtractConfig) -> bytes:
    """Return a safetensors file: pruned weights of every layer of both stacks, and of the norms after the last layers.

    The same backbone, rows, settings and device give the same bytes. The backbone computes in float32.
    """
    count = min(FISHER_ROWS, plan.manifest.splits["train"].examples) if config.side_init == "fisher" else 0
    importance = fisher(backbone, plan, count) if count else magnitude(backbone)
    facts = {
        "kind": config.side_init,
        "reduction": config.side_reduction,
        "layers": {stack.name: format_layers(tuple(range(1, stack.layers + 1))) for stack in backbone.stacks},
        "rows": count,
        "seed": config.seed,
        "backbone": backbone.digest,
    }
    tensors = {name: weight.cpu().contiguous() for name, weight in prune(backbone, importance, config.side_reduction)}
    return safetensors.torch.save(
        tensors, {"side_init": json.dumps(facts)}
    )  # one entry: safetensors does not sort them


def magnitude(backbone: Backbone) -> Importance:
    """Return each weight as its own importance."""
    return {weight: weight.detach() for weight in backbone.module.parameters()}


def fisher(backbone: Backbone, plan: Plan, count: int) -> Importance:
    """Return sums over the first `count` rows of squared gradients of each row's loss, float32.

    The loss is the mean cross entropy of the label's tokens over the whole vocabulary.
    """
    module, arrays = backbone.module.requires_grad_(), plan.splits["train"].arrays
    sums: Importance = {weight: torch.zeros_like(weight, requires_grad=False) for weight in module.parameters()}
    for row in range(count):
        ids, target = (
            arrays[f"{stack}/{name}"][start : start + arrays[f"{stack}/length"][row]]
            for stack, name in (("encoder", "token"), ("decoder", "target"))
            for start in [arrays[f"{stack}/token_offset"][row]]
        )
        label = arrays["label"][row]  # the targets of a label lack tokens without an alternative
        labels = plan.manifest.label_ids[label] if label >= 0 else target[target >= 0]
        tokens, gold = (torch.as_tensor(values, device=backbone.device).long()[None] for values in (ids, labels))
        module(input_ids=tokens, labels=gold).loss.backward()
        for weight, total in sums.items():
            assert weight.grad is not None
            total.addcmul_(weight.grad, weight.grad)
            weight.grad = None
    module.requires_grad_(False)
    return sums


@torch.no_grad()
def prune(backbone: Backbone, importance: Importance, reduction: int) -> list[tuple[str, Tensor]]:
    """Return the side networks' weights by name, such as encoder.1.wi.weight for the first layer.

    A sublayer's inputs (q, k and v; wi, or both wi of a gated one) share one choice of rows; its output has another,
    which decides the channels of the next sublayer. Rows are chosen without regard to heads.
    """
    module, pruned = backbone.module, list[tuple[str, Tensor]]()
    kept = largest_rows([importance[module.shared.weight].T], reduction)  # type: ignore[index, union-attr]
    for stack in backbone.stacks:
        t5 = getattr(module, stack.name)
        pruned.append(
            (f"{stack.name}.position_bias", t5.block[0].layer[0].SelfAttention.relative_attention_bias.weight)
        )
        for number, block in enumerate(t5.block, start=1):
            for layer in block.layer:
                sublayer = next(name for name, _ in layer.named_children() if name in SUBLAYERS)
                norm, prefix = SUBLAYERS[sublayer]
                *inputs, (output, weight_out) = (
                    (GATED.get(name, name), part.weight)
                    for name, part in getattr(layer, sublayer).named_children()
                    if isinstance(part, nn.Linear)
                )
                rows = largest_rows([importance[weight][:, kept] for _, weight in inputs], reduction)
                made = {norm: layer.layer_norm.weight[kept]}
                made |= {f"{prefix}{name}": weight[rows][:, kept] for name, weight in inputs}
                kept = largest_rows([importance[weight_out][:, rows]], reduction)
                made[f"{prefix}{output}"] = weight_out[kept][:, rows]
                pruned += [(f"{stack.name}.{number}.{name}.weight", weight) for name, weight in made.items()]
        pruned.append((f"{stack.name}.norm.weight", t5.final_layer_norm.weight[kept]))
    return pruned


def largest_rows(importances: list[Tensor], reduction: int) -> Tensor:
    """Return the ascending indices of one in `reduction` rows: those with the largest sum of |product of importances|.

    Products are float64, since those of three Fisher importances are too small for float32. Of equal rows, the first is
    kept.
    """
    score = math.prod((each.double() for each in importances), start=1.0).abs().sum(1)  # type: ignore[union-attr]
    return score.argsort(descending=True, stable=True)[: len(score) // reduction].sort().values
