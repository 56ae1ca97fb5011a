"""Tables and pictures as HTML that needs nothing else; every text is escaped."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from read_cache.report.aggregate import Spread
from read_cache.report.style import DPI, SCREEN_DPI

NUMBERS = (int, float, Spread, type(None))


def paragraph(text: str, kind: str = "") -> str:
    """One paragraph, of a class of the style sheet or none."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def heading(level: int, text: str, anchor: str = "") -> str:
    """A heading, and where a link leads to."""
    where = f' id="{escape(anchor)}"' if anchor else ""
    return f"<h{level}{where}>{escape(text)}</h{level}>"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table with a head; numbers stand to the right."""
    kinds = ["number" if all(isinstance(row[i], NUMBERS) for row in rows) else "text" for i in range(len(columns))]
    head = "".join(f'<th scope="col" class="{k}">{escape(c)}</th>' for k, c in zip(kinds, columns, strict=True))
    lines = [
        "".join(f'<td class="{kind}">{escape(_cell(value))}</td>' for kind, value in zip(kinds, row, strict=True))
        for row in rows
    ]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table without a head: names and values."""
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>\n' for name, value in rows)
    return f'<div class="wide"><table class="facts"><tbody>\n{body}</tbody></table></div>'


def picture(png: bytes, alt: str) -> str:
    """A PNG within the page, all at one scale."""
    width = int.from_bytes(png[16:20], "big") * SCREEN_DPI // DPI
    data = base64.b64encode(png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}" width="{width}">'


def folded(summary: str, body: str) -> str:
    """What is shown on a click."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}\n</details>"


def _cell(value: Any) -> str:
    match value:
        case None:
            return "–"
        case float():
            return f"{value:,.2f}"
        case int():
            return f"{value:,}"
        case _:
            return str(value)
