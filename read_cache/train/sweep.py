"""Looking for the best network of a store: the grid or an Optuna study, dropping what loses, and final seeds."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from read_cache.errors import UserError
from read_cache.networks.config import ReadConfig
from read_cache.train.grid import NetworkConfig, TrainConfig
from read_cache.train.recipe import Plan, RateRange, six_digits

if TYPE_CHECKING:
    import optuna

DROPPED = "dropped"
"""How the reason begins for which a network stopped that lost to others."""
Trainer = Callable[[list[NetworkConfig], TrainConfig], list[dict[str, Any]]]
"""Trains networks together on one store; one result a network, at once where it was trained before."""


def dropped_networks(scores: Sequence[tuple[float, float]], epoch: int, run: TrainConfig) -> dict[int, str]:
    """Which of the networks still training stop after `epoch` epochs, by their place in `scores`, and why.

    A score is a network's best epoch so far: its validation metric, then the negative of its validation loss. The
    worse half stops, the smaller half where they are odd; of equals the later. None is dropped after the last epoch.
    """
    if not run.halving or epoch % run.halving or epoch >= run.epochs:
        return {}
    ranked = sorted(range(len(scores)), key=lambda place: scores[place], reverse=True)
    kept = (len(scores) + 1) // 2
    return {
        place: f"{DROPPED} at epoch {epoch}: rank {rank} of {len(scores)}"
        for rank, place in enumerate(ranked, start=1)
        if rank > kept
    }


def search_networks(plan: Plan, train: Trainer) -> list[dict[str, Any]]:
    """Results of every network that the plan's method tries. Raises UserError."""
    return train(plan.networks(), plan.run) if plan.search.method == "grid" else run_study(plan, train)


def train_best(plan: Plan, found: Sequence[dict[str, Any]], train: Trainer) -> list[dict[str, Any]]:
    """Results of the best network of `found`, by validation metric, then loss, one for each of the final seeds.

    The further seeds are trained without halving. The best was not dropped either: halving kept one at least as good.
    """
    trained = [result for result in found if result["validation"] is not None]
    if not trained:
        return []
    best = max(trained, key=best_score)
    read, rate = ReadConfig(**best["read"]), best["learning_rate"]
    others = [NetworkConfig(read, rate, seed) for seed in plan.search.final_seeds if seed != best["seed"]]
    results = train(others, dataclasses.replace(plan.run, halving=0)) if others else []
    by_seed = {result["seed"]: result for result in [best, *results]}
    return [by_seed[seed] for seed in dict.fromkeys(plan.search.final_seeds)]


def best_score(result: dict[str, Any]) -> tuple[float, float]:
    """A result's best epoch, as `dropped_networks` compares them."""
    return result["validation"], -result["history"][result["best_epoch"] - 1]["validation_loss"]


def run_study(plan: Plan, train: Trainer) -> list[dict[str, Any]]:
    """Ask for a batch of trials, train their networks together, tell their validation metrics, until all are done.

    What is asked for follows from the seed and from what was told, and `train` knows the results of earlier runs: a
    study that was stopped is gone through again without training, and goes on where it was. Raises UserError.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "the recipe's [search] asks for optuna, which is not installed: pip install 'optuna>=5'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=plan.search.seed, constant_liar=True)  # spreads a batch's trials
    study = optuna.create_study(sampler=sampler, direction="maximize")
    space = search_space(plan)
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, plan.search.trials, plan.search.batch):
        trials = [study.ask(space) for _ in range(start, min(start + plan.search.batch, plan.search.trials))]
        networks = [network_of(plan, trial.params) for trial in trials]
        found |= {result["network"]: result for result in train(list(dict.fromkeys(networks)), plan.run)}
        for trial, network in zip(trials, networks, strict=True):
            score = found[network.name]["validation"]
            if score is None:  # its loss became infinite; TPE takes a pruned trial without a value for the worst
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, score)
    return list(found.values())


def search_space(plan: Plan) -> "dict[str, optuna.distributions.BaseDistribution]":
    """The options that a study varies: those with several values, and a range of learning rates."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    space: dict[str, BaseDistribution] = {}
    for name, choice in plan.choices.items():
        if isinstance(choice, RateRange):
            space[name] = FloatDistribution(choice.low, choice.high, log=True)
        elif len(choice) > 1:
            space[name] = CategoricalDistribution(choice)
    return space


def network_of(plan: Plan, params: dict[str, Any]) -> NetworkConfig:
    """The network that a trial tries."""
    values = {name: params[name] if name in params else choice[0] for name, choice in plan.choices.items()}
    rate, seed = values.pop("learning_rate"), values.pop("seed")
    if isinstance(plan.choices["learning_rate"], RateRange):
        rate = six_digits(rate)
    return NetworkConfig(ReadConfig(**values), rate, seed)
