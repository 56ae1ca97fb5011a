"""`python -m read_cache.cli.forms STORES RUN`: bytes a token and test metric of the same tasks in several forms."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from read_cache.networks.saved import load_network
from read_cache.program import run_program
from read_cache.report.aggregate import spread
from read_cache.scoring.evaluator import check_trained
from read_cache.store.manifest import find_stores
from read_cache.store.reader import StoreReader, array_bytes
from read_cache.store.schema import Form
from read_cache.train.results import Result, read_results
from read_cache.train.run import open_evaluator

REFERENCE = "bf16"
Scores = dict[tuple[str, int], float]
"""Test metric by (task, seed)."""


@dataclasses.dataclass
class FormFound:
    """What is known of one form, over its stores."""

    nbytes: int = 0
    tokens: int = 0
    trained: Scores = dataclasses.field(default_factory=dict)
    """Of networks that were trained on the form."""
    moved: Scores = dataclasses.field(default_factory=dict)
    """Of the networks that were trained on bf16, evaluated on the form."""

    @property
    def bytes_a_token(self) -> float:
        """Over all stores."""
        return self.nbytes / self.tokens


def forms(stores: Path, run: Path) -> None:
    """Print one row a form as Markdown: bytes a token over all tasks, each task's mean ± deviation, their mean.

    Then two differences to bf16 with the standard error of the mean over (task, seed) pairs: of networks trained on the
    form, and of bf16's own networks evaluated on it, which leaves out what training adds to the noise. A form that has
    not been trained on every task is left out.
    """
    results: dict[str, list[Result]] = defaultdict(list)
    for result in read_results(run):
        if result["test"] is not None:
            results[result["store_digest"]].append(result)
    opened = [StoreReader(folder) for folder in find_stores(str(stores))]
    reference = {s.manifest.task.name: s for s in opened if form_name(s.manifest.form) == REFERENCE}
    found: dict[str, FormFound] = defaultdict(FormFound)
    for store in opened:
        manifest = store.manifest
        form, task = found[form_name(manifest.form)], manifest.task.name
        form.nbytes += sum(array_bytes(manifest).values())
        form.tokens += sum(split.tokens for split in manifest.splits.values())
        form.trained |= {(task, result["seed"]): result["test"] for result in results[manifest.digest]}
        if task in reference:
            form.moved |= moved(store, results[reference[task].manifest.digest])
    tasks = sorted({task for form in found.values() for task, _ in form.trained})
    print(f"| form | bytes a token | {' | '.join(tasks)} | mean | trained on it, against bf16 | bf16's on it |")
    print(f"|---|{'---|' * (len(tasks) + 4)}")
    for name, form in sorted(found.items(), key=lambda item: -item[1].bytes_a_token):
        by_task = [[value for (one, _), value in form.trained.items() if one == task] for task in tasks]
        if all(by_task):
            mean = np.mean([np.mean(values) for values in by_task])
            shown = [name, f"{form.bytes_a_token:,.0f}", *(f"{spread(values):.1f}" for values in by_task)]
            against = [difference(scores, found[REFERENCE].trained) for scores in (form.trained, form.moved)]
            print(f"| {' | '.join([*shown, f'{mean:.2f}', *against])} |")


def moved(store: StoreReader, results: Sequence[Result]) -> Scores:
    """Networks that were trained on another form of a store's rows, on its test split."""
    networks = [load_network(result["folder"]) for result in results]
    if not networks:
        return {}
    for one in networks:
        check_trained(one.record, store)
    evaluator = open_evaluator(store, [one.record.read for one in networks], "test")
    scores = evaluator.evaluate([one.network for one in networks])
    return {(one["task"], one["seed"]): score.metric for one, score in zip(results, scores, strict=True)}


def difference(scores: Scores, reference: Scores) -> str:
    """Mean difference over the pairs that both have, and its standard error."""
    change = np.array([value - reference[key] for key, value in scores.items() if key in reference])
    return f"{change.mean():+.2f} ± {np.std(change, ddof=1) / np.sqrt(len(change)):.2f}" if len(change) > 1 else "-"


def form_name(form: Form) -> str:
    """What a store holds, in words."""
    attention = ", uint8 attention" if form.attention_dtype == "uint8" else ""
    return f"{form.dtype}{attention}{f', rank {form.rank}' if form.rank else ''}"


if __name__ == "__main__":
    run_program(forms)
