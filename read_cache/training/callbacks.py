"""Callbacks, which get the results of a training as it goes on, and loggers: callbacks for other programs' logs.

Callbacks run in the process that called `train`, also where workers of the engine ray train. To add a logger, write a
class and put it into `LOGGERS`.
"""

import contextlib
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from read_cache.errors import UserError
from read_cache.training.results import Result, StopReason, read_results
from read_cache.watch import Watch


class Callback(Protocol):
    """Gets the results of a training as it goes on. A subclass defines the methods that it needs.

    A callback cannot change the training. If one of its methods raises an exception, it gets no more calls, a message
    (in Python, a warning) says so, and the training goes on. A run that continues does not report its earlier epochs
    again.
    """

    def on_epoch(self, result: Result) -> None:
        """Take the result of a network that ended an epoch: `history` has that epoch at its end, `test` is None."""

    def on_network_end(self, result: Result) -> None:
        """Take the result of a network whose training ended, as results.jsonl has it."""

    def on_end(self, results: Sequence[Result]) -> None:
        """Take all results in the run's folder. Called once at the end, also after Ctrl-C and after an error."""


Callbacks = Callback | str | Sequence[Callback | str]
"""A callback, the name of one in `LOGGERS`, or several of these."""


@contextlib.contextmanager
def reporting(callbacks: Callbacks, out: Path, watch: Watch) -> Iterator[Watch]:
    """Yield a watch that calls the callbacks of a run with the folder `out`.

    Raises UserError for an unknown logger, and for one that cannot start.
    """
    active: list[Callback] = []
    several = [callbacks] if isinstance(callbacks, str) or not isinstance(callbacks, Sequence) else callbacks
    tell = warnings.warn if watch.say is Watch.say else watch.say  # in Python, messages go nowhere by default

    def call(event: str, value: Any) -> None:
        for callback in [*active]:
            try:
                getattr(callback, event)(value)
            except Exception as error:
                active[:] = [other for other in active if other is not callback]  # equal ones stay
                reason = f"{type(error).__name__}: {error}"
                tell(f"{type(callback).__name__}.{event} failed and gets no more calls ({reason})")

    try:
        for callback in several:
            active.append(open_logger(callback, out) if isinstance(callback, str) else callback)
        yield dataclasses.replace(watch, event=call) if active else watch
    finally:
        if active:
            call("on_end", read_results(out))


def open_logger(name: str, out: Path) -> Callback:
    """Return a logger of a run. Raises UserError if it is unknown, not installed, or cannot start."""
    if name not in LOGGERS:
        raise UserError(f"unknown logger {name!r}; known: {', '.join(LOGGERS)}")
    try:
        return LOGGERS[name](out)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the logger {name} needs {error.name}, which is not installed: run pip install 'read-cache[{name}]'"
        ) from error
    except Exception as error:
        raise UserError(f"the logger {name} cannot start: {error}") from error


def settings_of(result: Result) -> dict[str, Any]:
    """Return the settings of a network by name, those of its head and run after `head.` and `run.`."""
    own = {name: getattr(result, name) for name in ("task", "backbone", "kind", "learning_rate", "seed", "store")}
    nested = {"head": result.head, "run": result.run}
    return (
        own | result.config | {f"{of}.{name}": value for of, values in nested.items() for name, value in values.items()}
    )


def final_metrics(result: Result) -> dict[str, float]:
    """Return the numbers of a network whose training ended, without those that it lacks."""
    names = ("test", "validation_and_test", "best_epoch", "parameters", "parameters_percent")
    metrics = {"best_validation": result.validation} | {name: getattr(result, name) for name in names}
    return {name: value for name, value in metrics.items() if value is not None}


class TensorBoard(Callback):
    """One writer for the run, in the folder `tensorboard` of `out`.

    Tags are METRIC/STORE/NETWORK. The page Custom Scalars has one chart a metric with a line for each network.
    """

    def __init__(self, out: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.out, self.writer = out, SummaryWriter(str(out / "tensorboard"))
        charts = {name: ["Multiline", [f"{name}/.*"]] for name in ("validation", "validation_loss", "train_loss")}
        self.writer.add_custom_scalars({"all networks": charts})

    def on_epoch(self, result: Result) -> None:
        self._add(result, result.history[-1].values())

    def on_network_end(self, result: Result) -> None:
        self._add(result, final_metrics(result))

    def _add(self, result: Result, metrics: dict[str, float]) -> None:
        network = Path(result.folder).relative_to(self.out)
        for name, value in metrics.items():
            self.writer.add_scalar(f"{name}/{network}", value, result.epochs)
        self.writer.flush()

    def on_end(self, results: Sequence[Result]) -> None:
        self.writer.close()


class MLflow(Callback):
    """A parent run for the training, within the active run if there is one, and a child run for each network.

    MLflow's own settings, such as MLFLOW_TRACKING_URI, say where. A training that continues finds its runs by a tag.
    """

    def __init__(self, out: Path) -> None:
        import mlflow

        self.mlflow, self.client, self.children = mlflow, mlflow.MlflowClient(), dict[str, str]()
        tags, run = self._find(out)
        self.parent = mlflow.start_run(run, run_name=str(out), nested=True, tags=tags, log_system_metrics=False).info

    def _find(self, folder: str | Path) -> tuple[dict[str, str], str | None]:
        """Return the tags of a folder's run, and the run's identifier if there is one."""
        address = Path(folder).resolve().as_uri()  # it has no quotes
        wanted = f"tags.`read_cache.folder` = '{address}'"
        runs = self.mlflow.search_runs(filter_string=wanted, max_results=1, output_format="list")
        return {"read_cache.folder": address}, runs[0].info.run_id if runs else None

    def _log(self, result: Result, metrics: dict[str, float]) -> None:
        if result.folder not in self.children:
            tags, run = self._find(result.folder)
            if run is None:
                tags |= {"mlflow.parentRunId": self.parent.run_id}
                made = self.client.create_run(self.parent.experiment_id, run_name=result.network, tags=tags)
                run = made.info.run_id
            self.mlflow.log_params(settings_of(result), run_id=run)
            self.children[result.folder] = run
        self.mlflow.log_metrics(metrics, step=result.epochs, run_id=self.children[result.folder])

    def on_epoch(self, result: Result) -> None:
        self._log(result, result.history[-1].values())

    def on_network_end(self, result: Result) -> None:
        self._log(result, final_metrics(result))
        status = "FAILED" if result.stop is StopReason.diverged else "FINISHED"
        self.client.set_terminated(self.children.pop(result.folder), status)

    def on_end(self, results: Sequence[Result]) -> None:
        for run in self.children.values():
            self.client.set_terminated(run, "KILLED")
        self.mlflow.end_run("KILLED" if self.children else "FINISHED")


class WeightsAndBiases(Callback):
    """A run for each network, in the group of the training's folder.

    The variables of W&B, such as WANDB_PROJECT and WANDB_MODE=offline, say where. A training that continues continues
    its runs, whose identifiers follow from the networks' folders.
    """

    def __init__(self, out: Path) -> None:
        import wandb

        self.wandb, self.out, self.runs = wandb, out, dict[str, Any]()
        wandb.login()  # asks for a key now, not after the first epoch

    def _run(self, result: Result) -> Any:
        if result.folder not in self.runs:
            self.runs[result.folder] = self.wandb.init(
                project=os.environ.get("WANDB_PROJECT", "read-cache"),
                group=str(self.out),
                name=result.network,
                id=hashlib.sha256(Path(result.folder).resolve().as_uri().encode()).hexdigest()[:16],
                resume="allow",
                reinit="create_new",
                config=settings_of(result),
                dir=self.out,
                settings=self.wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True),
            )
            self.runs[result.folder].define_metric("*", step_metric="epoch")
        return self.runs[result.folder]

    def on_epoch(self, result: Result) -> None:
        self._run(result).log(result.history[-1].values() | {"epoch": result.epochs})

    def on_network_end(self, result: Result) -> None:
        self._run(result).summary.update(final_metrics(result))
        self.runs.pop(result.folder).finish(exit_code=int(result.stop is StopReason.diverged))

    def on_end(self, results: Sequence[Result]) -> None:
        for run in self.runs.values():
            run.finish(exit_code=1)


LOGGERS: dict[str, Callable[[Path], Callback]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}
"""Loggers by name: functions of the run's folder."""
