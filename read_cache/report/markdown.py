"""Tables as Markdown."""

from collections.abc import Sequence
from typing import Any

from read_cache.meters.readings import Missing
from read_cache.report.aggregate import Spread


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table with a head; what is missing is a dash."""
    head, *body = ["| " + " | ".join(map(_cell, row)) + " |" for row in (columns, *rows)]
    return "\n".join([head, "|" + "---|" * len(columns), *body])


def three_digits(value: float | Missing) -> str:
    """Of a quantity, or a dash."""
    if isinstance(value, Missing):
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cell(value: Any) -> str:
    match value:
        case None:
            return "–"
        case float() | Spread():
            return f"{value:.2f}"
        case int():
            return f"{value:,}"
        case _:
            return str(value).replace("|", "\\|")
