"""What networks cost beside a live backbone: a pass with none, with one, and with seven of them."""

import dataclasses
from functools import partial
from statistics import median

import torch

from read_cache.bench.case import Case
from read_cache.bench.measure import Facts, Ratio, Result, Seconds, alternate, ratio
from read_cache.extract.forward import Example, pad_ids, run_backbone
from read_cache.live.attached import Attached
from read_cache.networks.config import Cell, ReadConfig
from read_cache.networks.read import build_network
from read_cache.networks.saved import TrainedNetwork
from read_cache.planning.timing import clock
from read_cache.store.manifest import Manifest
from read_cache.train.grid import backbone_shape
from read_cache.train.results import bound_record

CELLS: tuple[Cell, ...] = ("rnn", "gru")
MANY = 7
BATCH_ROWS = 32


def bench_attach(case: Case) -> Result:
    """Label probabilities of every row, against the forward pass alone with the same outputs asked for and dropped."""
    encoded = case.encoded
    rows = [(ids, nodes) for split in encoded.values() for ids, nodes in zip(split.input_ids, split.nodes, strict=True)]
    rows = sorted(rows[: case.config.rows], key=lambda row: -len(row[0]))
    nodes = case.encoder.evaluation_nodes(0)
    examples = [Example(ids, nodes.token, nodes.parent) for ids, _ in rows]
    batches = [examples[start : start + BATCH_ROWS] for start in range(0, len(examples), BATCH_ROWS)]
    manifest, _ = case.plan(encoded, case.extract)

    def forward() -> None:
        for batch in batches:
            run_backbone(case.backbone, batch, attention=True)

    def classify(attached: Attached) -> None:
        for batch in batches:
            attached.label_probabilities(*pad_ids([example.input_ids for example in batch], case.backbone.device))

    sides = {"forward": partial(clock, forward)}
    for cell in CELLS:
        for count in (1, MANY):
            attached = Attached(case.backbone, random_networks(manifest, case.backbone.digest, cell, count))
            sides[f"{cell}, {count}"] = partial(clock, partial(classify, attached))
    seconds: Seconds = alternate(sides, case.config.repeats)
    ratios: list[Ratio] = []
    for cell in CELLS:
        one, many = seconds[f"{cell}, 1"], seconds[f"{cell}, {MANY}"]
        ratios.append(ratio(f"{cell}, {MANY} networks / 1", many, one, "at most 1.15"))
        ratios.append(ratio(f"{cell}, 1 network / forward", one, seconds["forward"]))
    facts: Facts = {
        "shape": case.config.shape,
        "dtype": case.backbone.dtype,
        "rows": len(rows),
        "tokens": sum(len(ids) for ids, _ in rows),
        "batch_rows": BATCH_ROWS,
        "decoder_nodes": len(nodes.token),
        "forward_rows_per_second": len(rows) / median(seconds["forward"]),
    }
    return Result("attach", facts, seconds, tuple(ratios))


def random_networks(manifest: Manifest, digest: str, cell: Cell, count: int) -> dict[str, TrainedNetwork]:
    """Networks of the default shape, of other seeds, that change what the backbone says."""
    read, shape = ReadConfig(cell), backbone_shape(manifest)
    found = {}
    for seed in range(count):
        network = build_network(read, shape, seed)
        torch.nn.init.normal_(network.U, std=0.01)
        record = dataclasses.replace(bound_record(f"{cell}-{seed}", read, manifest, {}), backbone_digest=digest)
        found[record.name] = TrainedNetwork(network, record, None)
    return found
