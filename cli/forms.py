"""`python -m read_cache.cli.forms STORES RUN`: bytes a token and test metric of the same tasks in several forms."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from read_cache.program import run_program
from read_cache.store.manifest import find_stores
from read_cache.store.reader import array_bytes
from read_cache.store.schema import Form
from read_cache.train.results import read_results


def forms(stores: Path, run: Path) -> None:
    """Print one row a form as Markdown: bytes a token over all tasks, each task's mean ± deviation, their mean.

    The last column is the difference to bf16 with the standard error of the mean over (task, seed) pairs. A form that
    has not been trained on every task is left out.
    """
    tests: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
    sizes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    results = read_results(run)
    for folder in find_stores(str(stores)):
        manifest = folder.read_manifest()
        form = form_name(manifest.form)
        tokens = sum(split.tokens for split in manifest.splits.values())
        sizes[form].append((sum(array_bytes(manifest).values()), tokens))
        for result in results:
            if result["store_digest"] == manifest.digest and result["test"] is not None:
                tests[form][manifest.task.name, result["seed"]] = result["test"]
    tasks = sorted({task for by_seed in tests.values() for task, _ in by_seed})
    print(f"| form | bytes a token | {' | '.join(tasks)} | mean | against bf16 |\n|---|{'---|' * (len(tasks) + 3)}")
    for form in sorted(sizes, key=lambda form: -bytes_a_token(sizes[form])):
        found = tests[form]
        by_task = [[value for (name, _), value in found.items() if name == task] for task in tasks]
        if not all(by_task):
            continue
        shown = [f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" for values in by_task]
        mean = np.mean([np.mean(values) for values in by_task])
        change = np.array([value - tests["bf16"][key] for key, value in found.items() if key in tests["bf16"]])
        error = np.std(change, ddof=1) / np.sqrt(len(change))
        size, against = f"{bytes_a_token(sizes[form]):,.0f}", f"{change.mean():+.2f} ± {error:.2f}"
        print(f"| {' | '.join([form, size, *shown, f'{mean:.2f}', against])} |")


def form_name(form: Form) -> str:
    """What a store holds, in words."""
    attention = ", uint8 attention" if form.attention_dtype == "uint8" else ""
    return f"{form.dtype}{attention}{f', rank {form.rank}' if form.rank else ''}"


def bytes_a_token(sizes: list[tuple[int, int]]) -> float:
    """Over several stores, each (bytes, tokens)."""
    return sum(count for count, _ in sizes) / sum(tokens for _, tokens in sizes)


if __name__ == "__main__":
    run_program(forms)
