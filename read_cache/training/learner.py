"""One network in training: weights, optimiser, random state, best epoch. It depends on no other network."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from read_cache.config import RunConfig
from read_cache.errors import UserError
from read_cache.scoring.heads import Head
from read_cache.settings import Settings
from read_cache.training.compiled import Loss
from read_cache.training.network_config import NetworkConfig
from read_cache.training.results import Epoch, StopReason


class Candidate(nn.Module):
    """A network and its head: a batch's loss."""

    def __init__(self, network: nn.Module, head: Head, precision: str = "fp32") -> None:
        """`precision` is that of the network's products, fp32 or bf16. The head computes in fp32."""
        super().__init__()
        self.network, self.head, self.precision = network, head, precision

    def forward(self, batch: Any, generator: torch.Generator | None = None) -> Tensor:
        """Return the loss of a batch, a scalar. `generator` draws the dropout; None outside training."""
        with torch.autocast(batch.targets.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            y_BTD = self.network(batch, generator)
        loss: Tensor = self.head.loss(y_BTD.float(), batch.targets, generator)
        return loss


class Learner:
    """Trains one candidate. The result depends on its configuration and the batches alone."""

    def __init__(
        self, model: Candidate, config: NetworkConfig, run: RunConfig, steps: int, settings: Settings | None = None
    ) -> None:
        """Make a learner before its first step. Raises UserError if no parameter is trainable.

        Args:
            model: network and head, on their device. Parameters that require a gradient now are trained.
            config: the network's configuration as it was asked for.
            run: settings of the run.
            steps: steps in all epochs; decides the learning rate's schedule.
            settings: the network's settings as the store completes them; by default those of `config`.
        """
        self.model, self.config, self.run, self.steps = model, config, run, steps
        self.loss: Loss = model
        """The model, or the model as it was compiled."""
        self.settings = settings or config.settings
        self.parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if not self.parameters:
            raise UserError(f"network {config.name} has nothing to train: it needs a trainable head")
        groups: list[dict[str, Any]] = []
        for prefix, rate in (("network.", None), ("head.", config.head.learning_rate)):
            weights = [weight for name, weight in self.parameters.items() if name.startswith(prefix)]
            if weights:
                groups.append({"params": weights, "peak": rate or config.learning_rate})
        device = next(iter(self.parameters.values())).device
        fused = device.type in ("cpu", "cuda")  # three to seven times faster
        self.optimizer = torch.optim.AdamW(groups, weight_decay=run.weight_decay, fused=fused)
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.step, self.loss_sum = 0, 0.0
        self.unread: list[tuple[Tensor, int]] = []
        """Losses of the last steps, still on the device, and the examples of each."""
        self.average = {name: weight.detach().clone() for name, weight in self.parameters.items() if run.ema}
        """Moving average of the trained weights; empty without `run.ema`."""
        self.best: dict[str, Tensor] = {}
        """Trained weights of the best epoch."""
        self.best_epoch = -1
        self.history: list[Epoch] = []
        self.stop: StopReason | None = None
        """Why it stopped; None while it trains."""
        self.stop_detail = ""

    def rate_factor(self, step: int) -> float:
        """Return the factor of the learning rate: linear warm-up, then linear decay to zero at the last step."""
        warmup = max(1, round(self.steps * self.run.warmup))
        return min((step + 1) / warmup, max(0.0, (self.steps - step) / max(1, self.steps - warmup)))

    def peak(self, weight: Tensor) -> float:
        """Return the peak learning rate of a trained weight."""
        groups = self.optimizer.param_groups
        return next(group["peak"] for group in groups if any(weight is own for own in group["params"]))

    def train_step(self, batch: Any) -> None:
        loss = self.loss(batch, self.generator)
        loss.backward()
        self.update(loss.detach(), len(batch.targets))

    def update(self, loss: Tensor, examples: int) -> None:
        """Step along the gradients that the weights hold. `loss` is a scalar of that many examples."""
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.run.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.rate_factor(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        average_weights([self])
        self.count_step(loss, examples)

    def count_step(self, loss: Tensor, examples: int) -> None:
        """Count a step that was taken. `loss` is a scalar of that many examples."""
        self.step += 1
        self.unread.append((loss, examples))
        if len(self.unread) >= 1024:  # reading waits for the device
            self.read_losses()

    def read_losses(self) -> None:
        """Add the losses of the last steps up. One that is not finite stops this network and no other."""
        if not self.unread:
            return
        losses = torch.stack([loss for loss, _ in self.unread]).tolist()
        for step, (loss, (_, examples)) in enumerate(zip(losses, self.unread, strict=True), self.step - len(losses)):
            if not math.isfinite(loss):
                self.diverge(f"the loss became {loss} at step {step}")
                break
            self.loss_sum += loss * examples
        self.unread.clear()

    def swap_average(self) -> None:
        """Exchange the weights for their moving average, or back; without `run.ema` nothing changes."""
        for name, average in self.average.items():
            weight = self.parameters[name].data
            value = weight.clone()
            weight.copy_(average)
            average.copy_(value)

    def diverge(self, detail: str) -> None:
        self.stop, self.stop_detail = StopReason.diverged, detail

    def check_finite(self) -> None:
        """Stop this network if a loss or a weight is infinite or NaN. A step can spoil weights after a finite loss."""
        self.read_losses()
        if self.stop is None and not torch.stack([w.isfinite().all() for w in self.parameters.values()]).all():
            self.diverge(f"the weights became infinite or NaN at step {self.step}")

    def end_epoch(self, metric: float, validation_loss: float, examples: int) -> None:
        """Record an epoch of `examples`, keep the weights if they are the best so far, stop if patience is spent."""
        epoch = Epoch(train_loss=self.loss_sum / examples, validation_loss=validation_loss, validation=metric)
        self.loss_sum = 0.0
        if not math.isfinite(validation_loss):
            self.diverge(f"the validation loss became {validation_loss} in epoch {len(self.history) + 1}")
            return
        self.history.append(epoch)
        last = len(self.history) - 1
        if self.best_epoch < 0 or epoch.score > self.best_score:
            self.best_epoch = last
            self.best = {name: weight.detach().clone() for name, weight in self.parameters.items()}
        elif last - self.best_epoch >= self.run.patience:
            self.stop = StopReason.patience
            unimproved = "no better validation metric, nor an equal one with a smaller loss,"
            self.stop_detail = f"{unimproved} for {self.run.patience} epochs"

    def change(self, epoch: int, batches: Any) -> None:
        """Let the network change itself between two epochs: `epoch` are done, `batches` are those of training.

        The optimiser's state of parameters that it froze is dropped.
        """
        end_epoch = getattr(self.model.network, "end_epoch", None)
        if end_epoch is None:
            return
        end_epoch(epoch, self.run.epochs, batches)
        for weight in self.parameters.values():
            if not weight.requires_grad:
                self.optimizer.state.pop(weight, None)

    @property
    def best_score(self) -> tuple[float, float]:
        return self.history[self.best_epoch].score

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that training changes and is a tensor, by name, for a checkpoint."""
        tensors = {f"model.{name}": weight.data for name, weight in self.parameters.items()}
        states = self.model.state_dict().items()  # with the results of `get_extra_state`
        tensors |= {f"model.{name}": value for name, value in states if name.endswith("_extra_state")}
        for kind, weights in (("average", self.average), ("best", self.best)):
            tensors |= {f"{kind}.{name}": value for name, value in weights.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        return tensors | {"generator": self.generator.get_state()}

    def facts(self) -> dict[str, Any]:
        """Return everything else that training changes, as JSON values."""
        self.read_losses()
        names = ("step", "loss_sum", "best_epoch", "stop", "stop_detail")
        return {name: getattr(self, name) for name in names} | {"history": [epoch.values() for epoch in self.history]}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take the state that `tensors` and `facts` returned."""
        named: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "best": {}, "optimizer": {}, "generator": {}}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            named[kind][rest] = value
        self.model.load_state_dict(named["model"], strict=False)  # statistics and frozen weights are not trained
        for name, value in named["average"].items():
            self.average[name].copy_(value)
        self.best = {name: value.to(self.parameters[name].device) for name, value in named["best"].items()}
        self.generator.set_state(tensors["generator"].cpu())
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in named["optimizer"].items():
            index, _, key = name.partition(".")
            states.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": states})
        self.step, self.loss_sum, self.best_epoch = facts["step"], facts["loss_sum"], facts["best_epoch"]
        self.history = [Epoch(**epoch) for epoch in facts["history"]]
        self.stop = None if facts["stop"] is None else StopReason(facts["stop"])
        self.stop_detail = facts["stop_detail"]


def average_weights(learners: Sequence[Learner]) -> None:
    """Move the averages of learners that took the same step towards their weights, if their run has an EMA.

    The decay is (1 + t) / (10 + t) in step t until it reaches that of the run, so that the first weights are forgotten.
    """
    first = next(learner for learner in learners if not learner.stop)
    if first.run.ema:
        decay = min(first.run.ema, (1 + first.step) / (10 + first.step))
        averages = [average for learner in learners for average in learner.average.values()]
        weights = [weight.data for learner in learners for weight in learner.parameters.values()]
        torch._foreach_lerp_(averages, weights, 1 - decay)


@contextlib.contextmanager
def averaged(learners: Sequence[Learner]) -> Iterator[None]:
    """In this block, learners whose run has an EMA have the average in place of their weights."""
    for learner in learners:
        learner.swap_average()
    yield
    for learner in learners:
        learner.swap_average()
