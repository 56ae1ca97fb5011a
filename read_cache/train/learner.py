"""One network in training: its weights, its optimiser, its random state, its best epoch. It never sees the others."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from read_cache.loader.batch import Batch
from read_cache.networks.config import BackboneShape
from read_cache.networks.read import build_network
from read_cache.scoring.heads import Head
from read_cache.train.grid import NetworkConfig, TrainConfig


class Learner:
    """Trains one network; what it becomes depends on its configuration and the batches alone."""

    def __init__(
        self, config: NetworkConfig, run: TrainConfig, shape: BackboneShape, steps: int, device: str = "cpu"
    ) -> None:
        self.config, self.run, self.steps = config, run, steps
        self.network = build_network(config.read, shape, config.seed).to(device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=run.weight_decay
        )
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.step, self.loss_sum = 0, 0.0
        self.best: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []
        """One entry an epoch: train_loss, validation_loss, validation."""
        self.best_epoch = -1
        self.stopped = ""
        """Why it stopped; empty while it trains."""

    def rate_factor(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero at the last step."""
        warmup = max(1, round(self.steps * self.run.warmup))
        return min((step + 1) / warmup, max(0.0, (self.steps - step) / max(1, self.steps - warmup)))

    def autocast(self, batch: Batch) -> torch.autocast:
        """The precision of the products in training."""
        return torch.autocast(batch.final.device.type, torch.bfloat16, enabled=self.run.precision == "bf16")

    def train_step(self, batch: Batch, head: Head) -> None:
        """One step on one batch."""
        with self.autocast(batch):
            y = self.network(batch, self.generator)
        loss = head.loss(y.float(), batch)
        loss.backward()
        self.update(loss.item(), len(batch.final))

    def update(self, loss: float, examples: int) -> None:
        """Step along the gradients that the weights hold. A loss that is not finite stops this network and no other."""
        if not math.isfinite(loss):
            self.stopped = f"loss became {loss} at step {self.step}"
            return
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.run.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self.rate_factor(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.loss_sum += loss * examples

    def end_epoch(self, metric: float, validation_loss: float, examples: int) -> None:
        """Record the epoch, keep the weights if they are the best so far, stop if patience is spent."""
        self.history.append(
            {"train_loss": self.loss_sum / examples, "validation_loss": validation_loss, "validation": metric}
        )
        self.loss_sum = 0.0
        if self.best_epoch < 0 or self.score(-1) > self.score(self.best_epoch):
            self.best_epoch = len(self.history) - 1
            self.best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        elif len(self.history) - 1 - self.best_epoch >= self.run.patience:
            self.stopped = f"no better validation metric for {self.run.patience} epochs"

    def score(self, epoch: int) -> tuple[float, float]:
        """What epochs and networks are compared by: the validation metric, then the loss."""
        return epoch_score(self.history[epoch])

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, as tensors by name: what a checkpoint holds."""
        found = {f"network.{name}": value.data for name, value in self.network.named_parameters()}
        found |= {f"best.{name}": value for name, value in self.best.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        return found | {"generator": self.generator.get_state()}

    def facts(self) -> dict[str, Any]:
        """Everything else that training changes, as JSON values."""
        return {
            "step": self.step,
            "loss_sum": self.loss_sum,
            "history": self.history,
            "best_epoch": self.best_epoch,
            "stopped": self.stopped,
        }

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take up what `tensors` and `facts` gave."""
        named: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "optimizer": {}}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind in named:
                named[kind][rest] = value
        self.network.load_state_dict(named["network"], strict=False)  # the statistics are the store's
        self.best = named["best"]
        self.generator.set_state(tensors["generator"].cpu())
        state_dict = copy.copy(self.optimizer.state_dict())
        state_dict["state"] = {}
        for name, value in named["optimizer"].items():
            index, _, key = name.partition(".")
            state_dict["state"].setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(state_dict)
        self.step, self.loss_sum = facts["step"], facts["loss_sum"]
        self.history, self.best_epoch, self.stopped = facts["history"], facts["best_epoch"], facts["stopped"]


def epoch_score(entry: Mapping[str, float]) -> tuple[float, float]:
    """An epoch of a history: its validation metric, then the negative of its validation loss."""
    return entry["validation"], -entry["validation_loss"]
