"""Full fine-tuning of a store's backbone on the store's own rows: what READ is measured against.

`python -m read_cache.bench.finetune STORES --out RUN`: a plain loop in which every weight of the backbone trains.
Rows, tokens, targets, the batches of each epoch, the schedule, the choice of the epoch on validation and the metric are
those of `read-cache train` on the same store, and RUN/results.jsonl has the same fields. The learning rate that is best
on validation with the first seed is trained with the others as well. What RUN holds already is not trained again.
"""

import copy
import dataclasses
import math
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import transformers
import typer

from read_cache.backbones.t5 import Backbone
from read_cache.bench.finetune_model import SplitRows, TunedBackbone
from read_cache.errors import UserError
from read_cache.loader.order import epoch_batches
from read_cache.networks.saved import writing
from read_cache.program import run_program
from read_cache.store.manifest import Manifest, find_stores
from read_cache.store.reader import StoreReader
from read_cache.train.grid import TrainConfig, check_rate_and_seed
from read_cache.train.learner import epoch_score
from read_cache.train.results import Result, append_results, read_results, run_settings
from read_cache.train.sweep import best_score


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuned backbone. Raises UserError."""

    learning_rate: float
    """The peak, after the warm-up."""
    seed: int = 0
    """Decides the dropout; the order of the rows is the run's, as READ's is."""
    dropout: float = 0.1
    """In every layer of the backbone, in training."""

    def __post_init__(self) -> None:
        check_rate_and_seed(self.learning_rate, self.seed)
        if not 0 <= self.dropout < 1:
            raise UserError(f"--dropout is {self.dropout}, expected 0 or more and under 1")

    @property
    def name(self) -> str:
        """What tells the runs on one store apart."""
        dropout = f"-dropout{self.dropout}" if self.dropout else ""
        return f"full{dropout}-lr{self.learning_rate}-seed{self.seed}"


def finetune(store: StoreReader, backbone: Backbone, config: FinetuneConfig, run: TrainConfig) -> Result:
    """Train every weight of the backbone on a store's rows; the result of the best epoch by validation metric."""
    started = time.monotonic()
    torch.manual_seed(config.seed)
    tuned = TunedBackbone(backbone, store, config.dropout)
    splits = {name: SplitRows(store, name) for name in store.manifest.splits}
    layout = splits["train"].split.layout
    steps = -(-splits["train"].split.examples // run.batch_size) * run.epochs
    optimizer = torch.optim.AdamW(
        tuned.model.parameters(), lr=config.learning_rate, weight_decay=run.weight_decay, fused=True
    )
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, max(1, round(steps * run.warmup)), steps)
    history: list[dict[str, float]] = []
    best, weights, stopped = -1, {}, "all epochs done"
    for epoch in range(run.epochs):
        batches = epoch_batches(layout.part_start, layout.length, run.batch_size, run.window, run.order_seed, epoch)
        loss = train_epoch(tuned, splits["train"], batches, optimizer, schedule, run)
        if not math.isfinite(loss):
            stopped = f"loss became {loss} in epoch {epoch + 1}"
            break
        found = tuned.evaluate(splits["validation"])
        history.append({"train_loss": loss, "validation_loss": found.loss, "validation": found.metric})
        if best < 0 or epoch_score(history[epoch]) > epoch_score(history[best]):
            best, weights = epoch, copy.deepcopy(tuned.model.state_dict())
        elif epoch - best >= run.patience:
            stopped = f"no better validation metric for {run.patience} epochs"
            break
    test = None
    if history and "test" in splits:
        tuned.model.load_state_dict(weights)
        test = tuned.evaluate(splits["test"])
    return {
        "task": store.manifest.task.name,
        "metric": store.manifest.task.metric,
        "backbone": store.manifest.backbone.name,
        "network": config.name,
        "validation": history[best]["validation"] if history else None,
        "test": test.metric if test else None,
        "test_details": test.details if test else {},
        "best_epoch": best + 1,
        "epochs": len(history),
        "stopped": stopped,
        "parameters": store.manifest.backbone.parameters,
        "parameters_percent": 100.0,
        "learning_rate": config.learning_rate,
        "seed": config.seed,
        "read": {},
        "run": dataclasses.asdict(run),
        "history": history,
        "seconds": round(time.monotonic() - started, 1),
        "folder": "",
        "store": str(store.folder.path),
        "store_digest": store.manifest.digest,
    }


def train_epoch(
    tuned: TunedBackbone,
    rows: SplitRows,
    batches: list[np.ndarray],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    run: TrainConfig,
) -> float:
    """One step on every batch; the mean loss, or what it became where it is not finite."""
    tuned.model.train()
    total = 0.0
    for numbers in batches:
        loss = tuned.loss(rows, numbers, run.precision)
        if not math.isfinite(loss.item()):
            return loss.item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tuned.model.parameters(), run.clip)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        total += loss.item() * len(numbers)
    return total / rows.split.examples


def load_backbone(manifest: Manifest) -> Backbone:
    """The backbone that a store was made with. Raises UserError where it is another by now."""
    info = manifest.backbone
    backbone = Backbone(info.name, revision=None if info.revision in ("bundled", "local") else info.revision)
    if backbone.digest != info.digest:
        raise UserError(
            f"model {info.name} in {backbone.folder} is not the one that the store of {manifest.task.name} was made "
            "with: put that one back, or extract the store again"
        )
    return backbone


def finetune_store(
    store: StoreReader, out: Path, rates: list[float], seeds: list[int], dropout: float, run: TrainConfig
) -> None:
    """Every rate with the first seed, then the best of them with the others; results go to `out`. Raises UserError."""
    backbone = load_backbone(store.manifest)

    def trained(config: FinetuneConfig) -> Result:
        for known in read_results(out, store.manifest.digest):
            if known["network"] == config.name:
                if run_settings(known) != dataclasses.asdict(run):
                    raise UserError(
                        f"{out} holds {config.name} on {known['task']}, trained with other settings ({known['run']}): "
                        "give another --out, or the same settings"
                    )
                return known
        result = finetune(store, backbone, config, run)
        append_results(out, [result])
        print(
            f"{result['task']}: {config.name}, epoch {result['best_epoch']} of {result['epochs']}: validation "
            f"{result['validation']}, test {result['test']}; {result['stopped']}, {result['seconds']} s",
            flush=True,
        )
        return result

    configs = [FinetuneConfig(rate, seed, dropout) for rate in rates for seed in seeds]
    found = [trained(config) for config in configs if config.seed == seeds[0]]
    finished = [result for result in found if result["validation"] is not None]
    if not finished:
        print(f"{store.manifest.task.name}: no rate gave a finite loss", flush=True)
        return
    best = max(finished, key=best_score)
    for config in configs:
        if config.learning_rate == best["learning_rate"] and config.seed != seeds[0]:
            trained(config)


def main(
    stores: Annotated[str, typer.Argument(help="A store, or a folder of them.")],
    out: Annotated[Path, typer.Option(help="Where results.jsonl goes.")],
    lr: Annotated[list[float], typer.Option(help="Learning rates tried.")] = [3e-4, 1e-3, 3e-3],  # noqa: B006
    seed: Annotated[list[int], typer.Option(help="The first tries the rates; all train the best.")] = [0, 1, 2],  # noqa: B006
    dropout: Annotated[float, typer.Option(help="In every layer of the backbone.")] = FinetuneConfig.dropout,
    epochs: Annotated[int, typer.Option(help="At most this many.")] = 8,
    patience: Annotated[int, typer.Option(help="Epochs without a better validation metric.")] = TrainConfig.patience,
    batch_size: Annotated[int, typer.Option(help="Examples in a batch.")] = 64,
) -> None:
    """Fine-tune the backbone of every store; what RUN holds already is not trained again."""
    run = TrainConfig(epochs=epochs, patience=patience, batch_size=batch_size)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    for folder in find_stores(stores):
        finetune_store(StoreReader(folder), out, lr, seed, dropout, run)


if __name__ == "__main__":
    run_program(main)
