"""Bytes a token of every form, from the layout alone."""

import dataclasses

from read_cache.bench.case import Case
from read_cache.bench.measure import Facts, Result
from read_cache.extract.config import ExtractConfig
from read_cache.store.reader import array_bytes

FP32 = 4
FORMS: dict[str, dict[str, object]] = {
    "fp32": {"dtype": "fp32"},
    "bf16": {},
    "bf16, every head": {"attention": "heads"},
    "int8": {"dtype": "int8"},
    "int8, uint8 attention": {"dtype": "int8", "attention_dtype": "uint8"},
    **{
        f"int8, uint8 attention, rank {rank}": {"dtype": "int8", "attention_dtype": "uint8", "rank": rank}
        for rank in (256, 128, 64)
    },
}


def bench_size(case: Case) -> Result:
    """Every form's bytes over the dataset's rows, against every state and head in fp32, padded to the longest row."""
    layers = case.t5.num_layers
    every_other = ",".join(str(layer) for layer in range(2, layers + 1, 2))
    forms = FORMS | {
        "bf16, every other layer": {"layers": every_other},
        "int8, uint8 attention, every other layer": FORMS["int8, uint8 attention"] | {"layers": every_other},
        "int8, uint8 attention, last third": FORMS["int8, uint8 attention"]
        | {"layers": f"{layers - layers // 3 + 1}-{layers}"},
    }
    rows: list[Facts] = []
    padded = padded_bytes(case)
    for name, settings in forms.items():
        config = dataclasses.replace(ExtractConfig(), **settings)  # type: ignore[arg-type]
        manifest, _ = case.plan(case.encoded, config)
        tokens = sum(split.tokens for split in manifest.splits.values())
        found = array_bytes(manifest)
        total = sum(found.values())
        shown = {"states": found["encoder/hidden"] + found.get("encoder/rms", 0)}
        shown |= {"attention": found["encoder/attention"]}
        shown |= {"decoder": total - sum(shown.values()), "together": total}
        row: Facts = {"form": name, **{f"{array}, bytes a token": count / tokens for array, count in shown.items()}}
        rows.append(row | {"padded fp32 / this": padded / total})
    lengths = [len(ids) for split in case.encoded.values() for ids in split.input_ids]
    return Result(
        "size",
        {
            "shape": case.config.shape,
            "rows": len(lengths),
            "tokens": tokens,
            "mean_tokens": tokens / len(lengths),
            "longest_tokens": max(lengths),
            "padded_fp32_bytes_per_token": padded / tokens,
        },
        table=tuple(rows),
    )


def padded_bytes(case: Case) -> int:
    """fp32, every state and head of both stacks, every row padded to the longest of its split."""
    width, layers, heads, total = case.t5.d_model, case.t5.num_layers, case.t5.num_heads, 0
    for split in case.encoded.values():
        tokens = max(len(ids) for ids in split.input_ids)
        nodes = max(len(nodes.token) for nodes in split.nodes)
        states = (layers + 1) * width * (tokens + nodes)
        weights = layers * heads * (tokens * tokens + nodes * nodes + nodes * tokens)
        total += len(split.input_ids) * FP32 * (states + weights)
    return total
