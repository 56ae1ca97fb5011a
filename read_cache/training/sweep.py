"""Searching the best network of a store: the grid, then the best with further seeds."""

from collections.abc import Callable
from pathlib import Path

from read_cache.config import Place, RunConfig
from read_cache.errors import UserError
from read_cache.training.network_config import NetworkConfig
from read_cache.training.recipe import Sweep
from read_cache.training.results import Result, StopReason
from read_cache.training.run import Setup, train_networks
from read_cache.watch import Watch

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

    networks = sweep.networks()
    trained = dict(zip(networks, train(networks, sweep.run), strict=True))
    results = list(trained.values())
    if results and all(result.stop is StopReason.diverged and result.validation is None for result in results):
        first = results[0]
        raise UserError(
            f"all {len(results)} networks on {first.task} diverged: of {first.network}, {first.stop_detail}. "
            f"{setup.divergence()}. Results without a metric are in {Path(first.folder).parent.parent}"
        )
    final = train_best(sweep, trained, train)
    return results + [result for result in final if result not in results], final


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
