"""A run folder in, a page and its pictures out."""

import dataclasses
from pathlib import Path

from read_cache.errors import UserError
from read_cache.networks.saved import writing
from read_cache.report.aggregate import StoreResults, by_store
from read_cache.report.curves import curves_figure
from read_cache.report.page import curves_name, page, rates_name
from read_cache.report.rates import rates_figure
from read_cache.report.style import png
from read_cache.train.results import read_results


@dataclasses.dataclass(frozen=True)
class Report:
    """What a run came to."""

    stores: list[StoreResults]
    unfinished: list[str]
    """Folders of stores that have a checkpoint: their networks are in training, or were stopped."""


def read_report(run: Path) -> Report:
    """What a run folder holds so far. Raises UserError where no network has finished."""
    if not run.is_dir():
        raise UserError(f"{run} is no folder: expected one that read-cache train --out wrote")
    unfinished = sorted(path.parent.name for path in run.glob("*/checkpoint.safetensors"))
    stores = by_store(read_results(run))
    if not stores:
        begun = f"training has begun on {', '.join(unfinished)}, and results come" if unfinished else "they come"
        raise UserError(f"{run} holds no results yet: {begun} when all networks of a store have finished")
    return Report(stores, unfinished)


def write_report(run: Path, out: Path, report: Report) -> Path:
    """Write index.html and its pictures as PNGs; returns the page's path. The same run gives the same bytes."""
    pictures = {}
    for store in report.stores:
        pictures[curves_name(store)] = png(curves_figure(store))
        if figure := rates_figure(store):
            pictures[rates_name(store)] = png(figure)
    text = page(run.resolve().name, report.stores, report.unfinished, pictures)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, image in pictures.items():
            (out / name).write_bytes(image)
        (out / "index.html").write_text(text, encoding="utf-8")
    return out / "index.html"
