"""The ladder's side blocks against transformers' own blocks with the same weights, one unpadded sequence at a time."""

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, LlamaConfig, T5Config
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
from transformers.models.t5.modeling_t5 import T5Block as TransformersBlock

from read_cache.ancestors import ancestors
from read_cache.networks.ladder import SideStack
from read_cache.networks.ladder_blocks import Attention, BertBlock, LlamaBlock, T5Block
from support.ladders import (
    PARENTS,
    SMALL,
    bert_batch,
    bert_shape,
    llama_batch,
    llama_shape,
    scrambled,
    t5_batch,
    t5_shape,
)


def copied(pairs: list[tuple[nn.Module, nn.Module]]) -> None:
    """Copy weights, and biases where there are any, into transformers' modules."""
    for into, source in pairs:
        assert set(dict(into.named_parameters())) == set(dict(source.named_parameters()))
        into.load_state_dict(source.state_dict())


def transformers_t5_block(block: T5Block, position_bias: Tensor | None, config: T5Config) -> TransformersBlock:
    reference = TransformersBlock(config, has_relative_attention_bias=True, layer_idx=0).eval()
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def attention(into: nn.Module, ours: Attention) -> None:
        pairs.extend((getattr(into, name), getattr(ours, name)) for name in "qkvo")

    attention(reference.layer[0].SelfAttention, block.self_attention)
    pairs.append((reference.layer[0].layer_norm, block.self_norm))
    if block.cross_attention is not None and block.cross_norm is not None:
        attention(reference.layer[1].EncDecAttention, block.cross_attention)
        pairs.append((reference.layer[1].layer_norm, block.cross_norm))
    inner = reference.layer[-1].DenseReluDense
    if block.wi_linear is None:
        pairs.append((inner.wi, block.wi))
    else:
        pairs += [(inner.wi_0, block.wi), (inner.wi_1, block.wi_linear)]
    pairs += [(inner.wo, block.wo), (reference.layer[-1].layer_norm, block.feed_forward_norm)]
    copied(pairs)
    reference.layer[0].SelfAttention.relative_attention_bias.weight.data.copy_(position_bias)
    return reference


def gate(side: SideStack, layer: int) -> float:
    return 1 / (1 + float(torch.exp(-side.gates[layer - 1] / side.config.temperature)))


def t5_side_out(side: SideStack, states: Tensor, layers: tuple[int, ...], encoded: Tensor | None) -> Tensor:
    """`out` [S, E] of one unpadded sequence [L+1, S, D], block by block through transformers."""
    config = T5Config(
        d_model=side.width, d_kv=side.width // 4, num_heads=4, d_ff=24, is_decoder=encoded is not None,
        feed_forward_proj="gated-gelu" if side.gated else "relu", attn_implementation="eager",
    )  # fmt: skip
    mask = torch.full((states.shape[1],) * 2, float("-inf")).triu(1)[None, None] if encoded is not None else None
    s = states[0] @ side.down[0].weight.T + side.down[0].bias
    for layer in side.shape.layers:
        number = layers.index(layer) + 1
        down, block = side.down[side.shape.layers.index(layer) + 1], side.blocks[side.shape.layers.index(layer)]
        s = gate(side, layer) * s + (1 - gate(side, layer)) * (states[number] @ down.weight.T + down.bias)
        reference = transformers_t5_block(block, side.position_bias, config)
        s = reference(s[None], attention_mask=mask, encoder_hidden_states=encoded, use_cache=False)[0][0]
    return s * (s.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * side.norm.weight


def paths(parent: list[int], nodes: int) -> list[list[int]]:
    """Of each node its ancestors from the root, and itself."""
    found: list[list[int]] = []
    for node in range(nodes):
        found.append([*(found[parent[node]] if parent[node] >= 0 else []), node])
    return found


@pytest.mark.parametrize("kept", [(1, 2, 3), (1, 3), (3,)])
@pytest.mark.parametrize("gated", [False, True])
@torch.no_grad()
def test_t5_as_transformers_blocks_compute_it_path_by_path(kept, gated) -> None:
    network = scrambled(SMALL.replaced(gated=gated), t5_shape(kept))
    batch = t5_batch(3)
    encoder, decoder = batch.stacks["encoder"], batch.stacks["decoder"]
    y = network(batch)
    context = network.context(batch.of(network.shape.layers))["out"]
    for example, (tokens, nodes) in enumerate(((9, 7), (5, 8))):
        encoded = t5_side_out(network.sides["encoder"], encoder.values[:, example, :tokens], encoder.layers, None)
        torch.testing.assert_close(context[example, :tokens], encoded, atol=1e-5, rtol=1e-4)
        for path in paths(PARENTS[example], nodes):
            states = decoder.values[:, example, path]
            out = t5_side_out(network.sides["decoder"], states, decoder.layers, encoded[None])
            expected = out[-1] @ network.up.weight.T + network.up.bias
            torch.testing.assert_close(y[example, path[-1]], expected, atol=1e-5, rtol=1e-4)


def transformers_bert_layer(block: BertBlock, config: BertConfig) -> BertLayer:
    reference = BertLayer(config).eval()
    attention, ours = reference.attention, block.attention
    copied(
        [
            (attention.self.query, ours.q), (attention.self.key, ours.k), (attention.self.value, ours.v),
            (attention.output.dense, ours.o), (attention.output.LayerNorm, block.attention_norm),
            (reference.intermediate.dense, block.wi), (reference.output.dense, block.wo),
            (reference.output.LayerNorm, block.output_norm),
        ]
    )  # fmt: skip
    return reference


@torch.no_grad()
def test_bert_as_transformers_layers_compute_it() -> None:
    network = scrambled(SMALL, bert_shape((1, 3)))
    batch = bert_batch(3)
    y, side = network(batch), network.sides["encoder"]
    config = BertConfig(hidden_size=16, num_attention_heads=4, intermediate_size=24, attn_implementation="eager")
    for example, tokens in enumerate((9, 5)):
        states = batch.stacks["encoder"].values[:, example, :tokens]
        s = states[0] @ side.down[0].weight.T + side.down[0].bias
        for number, layer in enumerate((1, 3), start=1):
            down = states[layer] @ side.down[number].weight.T + side.down[number].bias
            s = gate(side, layer) * s + (1 - gate(side, layer)) * down
            reference = transformers_bert_layer(side.blocks[number - 1], config)
            result = reference(s[None])
            s = (result[0] if isinstance(result, tuple) else result)[0]
        torch.testing.assert_close(y[example, :tokens], s @ network.up.weight.T + network.up.bias, atol=1e-5, rtol=1e-4)
    assert network.context(batch) == {}


@torch.no_grad()
def test_llama_as_transformers_layers_compute_it_path_by_path() -> None:
    """Two heads of keys and values for four heads; positions are depths in the tree."""
    network, batch = scrambled(SMALL, llama_shape((1, 3))), llama_batch(3)
    y, side = network(batch), network.sides["decoder"]
    config = LlamaConfig(
        hidden_size=16, num_attention_heads=4, num_key_value_heads=2, head_dim=4, intermediate_size=24,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0}, attn_implementation="eager",
    )  # fmt: skip
    rotary = LlamaRotaryEmbedding(config)
    for example, nodes in enumerate((7, 8)):
        for path in paths(PARENTS[example], nodes):
            states = batch.stacks["decoder"].values[:, example, path]
            mask = torch.full((len(path),) * 2, float("-inf")).triu(1)[None, None]
            s = states[0] @ side.down[0].weight.T + side.down[0].bias
            for number, layer in enumerate((1, 3), start=1):
                down = states[layer] @ side.down[number].weight.T + side.down[number].bias
                s = gate(side, layer) * s + (1 - gate(side, layer)) * down
                reference = transformers_llama_layer(side.blocks[number - 1], config)
                angles = rotary(s, torch.arange(len(path))[None])
                result = reference(s[None], attention_mask=mask, position_embeddings=angles)
                s = (result[0] if isinstance(result, tuple) else result)[0]
            out = s * (s.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * side.norm.weight
            expected = out[-1] @ network.up.weight.T + network.up.bias
            torch.testing.assert_close(y[example, path[-1]], expected, atol=1e-5, rtol=1e-4)


def transformers_llama_layer(block: LlamaBlock, config: LlamaConfig) -> LlamaDecoderLayer:
    reference = LlamaDecoderLayer(config, layer_idx=0).eval()
    attention = [(getattr(reference.self_attn, f"{name}_proj"), getattr(block.attention, name)) for name in "qkvo"]
    mlp = [(getattr(reference.mlp, f"{name}_proj"), getattr(block, name)) for name in ("gate", "up", "down")]
    norms = [
        (reference.input_layernorm, block.attention_norm),
        (reference.post_attention_layernorm, block.feed_forward_norm),
    ]
    copied([*attention, *mlp, *norms])
    return reference


def test_ancestors_of_a_tree() -> None:
    attended = ancestors(torch.tensor(PARENTS))
    for example, nodes in ((0, 7), (1, 8)):
        for path in paths(PARENTS[example], nodes):
            assert attended[example, path[-1]].nonzero().flatten().tolist() == sorted(path)
    assert attended[0, 7].nonzero().flatten().tolist() == [7]  # padding attends to itself, so no softmax is empty
