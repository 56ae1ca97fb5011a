"""The page: a summary over tasks, then each task with its choice, pictures and troubles."""

from collections.abc import Mapping, Sequence
from html import escape

from read_cache.report.aggregate import Configuration, Spread, StoreResults, average_test, best_first
from read_cache.report.html import facts, folded, heading, paragraph, picture, table
from read_cache.report.measured import measured
from read_cache.report.rates import by_shape
from read_cache.report.tables import (
    CONFIGURATIONS,
    STOPPED,
    SUMMARY,
    configuration_rows,
    setting_rows,
    stop_counts,
    stopped_rows,
    summary_rows,
)

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --quiet: #5b5b62; --line: #d9d9de; --paper: #ffffff; --tint: #f4f4f7 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --quiet: #a5a5ad; --line: #3d3d44; --paper: #18181b; --tint: #232328 }
}
body { max-width: 66rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif }
h2 { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line) }
h3 { margin: 2rem 0 .5rem }
.quiet { color: var(--quiet) }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: .5rem 0; font-size: .92rem }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
thead th { color: var(--quiet); font-weight: 600 }
.facts th { font-weight: 400; color: var(--quiet); white-space: nowrap }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
img { max-width: 100%; height: auto; margin: .5rem 0; background: #ffffff; border-radius: 4px }
summary { cursor: pointer; color: var(--quiet); margin: .5rem 0 }
nav a { margin-right: 1rem }
"""
SHOWN = 20
"""Longer tables of troubles are folded."""
PROTOCOL = (
    "A configuration is everything but the seed. Of each task's configurations, the one with the best mean validation "
    "metric over its seeds is chosen, among those with the most seeds; the test metric is given for it alone, as mean "
    "± sample deviation over the seeds. Every metric is times 100."
)


def page(run: str, stores: Sequence[StoreResults], unfinished: Sequence[str], pictures: Mapping[str, bytes]) -> str:
    """One HTML document that needs no other file; `pictures` are PNGs by the names of `curves_name`, `rates_name`."""
    results = [result for store in stores for result in store.results]
    anchors = {store.digest: store.title for store in stores} | {"settings": "settings"}
    links = "".join(f'<a href="#{escape(anchor)}">{escape(text)}</a> ' for anchor, text in anchors.items())
    parts = [
        heading(1, f"read-cache: {run}"),
        paragraph(f"{len(results)} networks on {len(stores)} {'stores' if len(stores) > 1 else 'store'}.", "quiet"),
        f"<nav>{links}</nav>",
        table(SUMMARY, summary_rows(stores)),
        paragraph(PROTOCOL, "quiet"),
        _no_average(stores),
        paragraph(f"Begun, but without results yet: {', '.join(unfinished)}.") if unfinished else "",
        *(_task(store, pictures) for store in stores),
        heading(2, "Settings", "settings"),
        facts(setting_rows(results)),
    ]
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(run)} · read-cache</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    )
    return head + "\n".join(part for part in parts if part) + "\n</body>\n</html>\n"


def curves_name(store: StoreResults) -> str:
    """File name of a store's learning curves."""
    return f"{_file_stem(store)}-curves.png"


def rates_name(store: StoreResults) -> str:
    """File name of a store's metric against learning rate."""
    return f"{_file_stem(store)}-learning-rates.png"


def _file_stem(store: StoreResults) -> str:
    task = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in store.task)
    return f"{task}-{store.digest[:8]}"


def _no_average(stores: Sequence[StoreResults]) -> str:
    if len(stores) < 2 or average_test(stores) is not None:
        return ""
    return paragraph("No average: it needs one store a task, and a test metric of each.")


def _task(store: StoreResults, pictures: Mapping[str, bytes]) -> str:
    return "\n".join(
        [
            heading(2, store.title, store.digest),
            paragraph(f"Metric: {store.metric}. Store {store.store}, digest {store.digest[:12]}.", "quiet"),
            heading(3, "The chosen configuration"),
            _chosen(store.chosen) if store.chosen else paragraph("None: no network finished an epoch."),
            _passed_over(store.passed_over),
            folded("Every configuration, by validation", table(CONFIGURATIONS, configuration_rows(store))),
            heading(3, "Learning curves"),
            picture(pictures[curves_name(store)], f"{store.title}: losses and validation metric by epoch"),
            heading(3, "Learning rate"),
            _rates(store, pictures.get(rates_name(store))),
            heading(3, "How networks stopped"),
            _stops(store),
            heading(3, "Time, memory, energy"),
            facts(measured(store.results)),
        ]
    )


def _chosen(chosen: Configuration) -> str:
    best = best_first(chosen.results)[0]
    epochs = [f"{r['best_epoch']} of {len(r['history'])}" if r["best_epoch"] else "none" for r in chosen.results]
    rows = [
        ("configuration", chosen.label),
        ("validation", _over_seeds(chosen.validation)),
        ("test", _over_seeds(chosen.test)),
        *((f"test, {name}", str(value)) for name, value in chosen.test_details.items() if len(chosen.test_details) > 1),
        ("best epoch, by seed", ", ".join(epochs)),
        ("trainable parameters", f"{best['parameters']:,} ({best['parameters_percent']:.2f}% of the backbone's)"),
        ("best seed's network", best["folder"]),
    ]
    if lost := len(chosen.results) - chosen.seeds:
        rows.append(("seeds that finished no epoch", str(lost)))
    return facts(rows)


def _over_seeds(value: Spread | None) -> str:
    if value is None:
        return "not measured: the store has no test split"
    return f"{value}, over {value.n} seeds" if value.n > 1 else f"{value}, of one seed, so without a deviation"


def _passed_over(configuration: Configuration | None) -> str:
    if configuration is None:
        return ""
    return paragraph(
        f"Not compared, because it has fewer seeds: {configuration.label}, with a better validation metric "
        f"({_over_seeds(configuration.validation)}). Train it with the same seeds to compare."
    )


def _rates(store: StoreResults, png: bytes | None) -> str:
    if png:
        return picture(png, f"{store.title}: validation metric by learning rate, for each shape of network")
    tried = ", ".join(f"{rate:g}" for rate in dict.fromkeys(c.learning_rate for c in store.configurations))
    shapes = len(by_shape(store))
    who = "The one shape of network" if shapes == 1 else f"Each of {shapes} shapes of network"
    return paragraph(f"{who} was tried with one learning rate ({tried}), so there is nothing to compare.")


def _stops(store: StoreResults) -> str:
    done, patient, other = stop_counts(store)
    told = paragraph(f"{done} ran all epochs, {patient} stopped early by patience, {other} for another reason.")
    if not other:
        return told
    stopped = table(STOPPED, stopped_rows(store))
    return told + (stopped if other <= SHOWN else folded("Which, and why", stopped))
