"""Searching the best network of a store: the grid or an Optuna study, then the best with further seeds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from read_cache.config import Place, RateRange, RunConfig
from read_cache.errors import UserError
from read_cache.training.network_config import NetworkConfig
from read_cache.training.recipe import Sweep
from read_cache.training.results import Result, StopReason
from read_cache.training.run import Setup, train_networks
from read_cache.watch import Watch

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Trainer = Callable[[list[NetworkConfig], RunConfig], list[Result]]
"""Trains networks together on one store and returns one result each, in their order. It trains none twice."""
Trained = dict[NetworkConfig, Result]


def run_sweep(
    setup: Setup, sweep: Sweep, out: Path, place: Place | None = None, watch: Watch = Watch()
) -> tuple[list[Result], list[Result]]:
    """Train the networks of a sweep on one store, then the best of them with the final seeds.

    Returns the results of all networks, and those of the best one with the final seeds, if there are any. Raises
    UserError as `train_networks`, and if every network diverged.
    """

    def train(networks: list[NetworkConfig], run: RunConfig) -> list[Result]:
        return train_networks(setup, networks, run, out, place, watch)

    trained = search_networks(sweep, train)
    results = list(trained.values())
    check_diverged(setup, results)
    final = train_best(sweep, trained, train)
    return results + [result for result in final if result not in results], final


def search_networks(sweep: Sweep, train: Trainer) -> Trained:
    """Return the result of every network that the search tries. Raises UserError."""
    if sweep.search.method == "optuna":
        return run_study(sweep, train)
    networks = sweep.networks()
    return dict(zip(networks, train(networks, sweep.run), strict=True))


def train_best(sweep: Sweep, trained: Trained, train: Trainer) -> list[Result]:
    """Return the results of the best network by validation, one for each of the final seeds.

    The other seeds are trained without halving. Halving never stops the best network.
    """
    scores = {network: result.score for network, result in trained.items() if result.validation is not None}
    seeds = list(dict.fromkeys(sweep.search.final_seeds))
    if not scores or not seeds:
        return []
    best = max(scores, key=lambda network: scores[network])
    others = [best.replaced(seed=seed) for seed in seeds if seed != best.seed]
    results = train(others, sweep.run.replaced(halving=0)) if others else []
    by_seed = {result.seed: result for result in [trained[best], *results]}
    return [by_seed[seed] for seed in seeds]


def run_study(sweep: Sweep, train: Trainer) -> Trained:
    """Ask Optuna for a batch of trials, train their networks together, report their metrics, until all are done.

    Trials depend only on the seed and on what was reported, and `train` returns results of earlier runs at once. So a
    study that was stopped continues where it was. Raises UserError if Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("the recipe's [search] uses optuna, which is not installed: pip install 'optuna>=5'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=sweep.search.seed, constant_liar=True)  # spreads a batch's trials
    study = optuna.create_study(sampler=sampler, direction="maximize")
    space: dict[str, BaseDistribution] = {}
    for name in sweep.varied:
        choice = sweep.choices[name]
        if isinstance(choice, RateRange):
            space[name] = optuna.distributions.FloatDistribution(choice.low, choice.high, log=True)
        else:
            space[name] = optuna.distributions.CategoricalDistribution(choice)
    trained = Trained()
    for start in range(0, sweep.search.trials, sweep.search.batch):
        trials = [study.ask(space) for _ in range(min(sweep.search.batch, sweep.search.trials - start))]
        networks = []
        for trial in trials:
            values = dict(trial.params)
            if isinstance(sweep.choices["learning_rate"], RateRange):
                values["learning_rate"] = float(f"{values['learning_rate']:.6g}")
            networks.append(sweep.network(values))
        distinct = list(dict.fromkeys(networks))
        trained |= zip(distinct, train(distinct, sweep.run), strict=True)
        for trial, network in zip(trials, networks, strict=True):
            metric = trained[network].validation
            if metric is None:  # it diverged; TPE takes a pruned trial without a value for the worst
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, metric)
    return trained


def check_diverged(setup: Setup, results: Sequence[Result]) -> None:
    """Raise UserError, which names the likely cause, if every network's loss became infinite or NaN."""
    if results and all(result.stop is StopReason.diverged and result.validation is None for result in results):
        first = results[0]
        raise UserError(
            f"all {len(results)} networks on {first.task} diverged: of {first.network}, {first.stop_detail}. "
            f"{setup.divergence()}. Results without a metric are in {Path(first.folder).parent.parent}"
        )
