"""The page in a real browser: sorting, searching, a phone, a dark screen, paper, and nothing on the console."""

from pathlib import Path

import pytest

from read_cache.report.page import Report
from support.browser import DARK, ask, run_browser
from support.results import result

pytestmark = pytest.mark.slow
TABLE = """
const tables = [...document.querySelectorAll("table")];
const table = tables.find((one) => one.caption.textContent.startsWith("configurations"));
const column = (name) => [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === name);
const rows = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
const shown = (name) => rows().map((row) => row.cells[column(name)].textContent);
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of twelve configurations with long names, one of which failed, and a task with a long name."""
    rates = [0.0001 * 3**power for power in range(6)]
    values = [50.0, 9.5, 100.0, -3.0, 61.0, None]
    results = [
        result(
            "a-task-with-a-long-name", kind, validation=value, rate=rate, config={"layers": "1-3,5,8", "hidden": 128}
        )
        for kind in ("read", "probe")
        for rate, value in zip(rates, values, strict=True)
    ]
    folder = tmp_path_factory.mktemp("page")
    return Report(results, {"a-task-with-a-long-name0123456789": {"majority class": {"test": 50.0}}}).write(
        folder, "run"
    )


def test_a_click_on_a_header_sorts_numbers_as_numbers_and_names_as_names(page: Path) -> None:
    script = f"""{TABLE}
    const button = (name) => table.tHead.rows[0].cells[column(name)].querySelector("button");
    const found = [];
    for (const name of ["validation", "validation", "kind"]) {{
      button(name).focus();
      button(name).click();
      found.push([document.activeElement === button(name), button(name).parentNode.ariaSort, shown(name)]);
    }}
    return [...found, table.querySelectorAll("[aria-sort]").length];"""
    (rising, falling, names, sorted_by), messages = ask(page, script)
    numbers = [value for value in ("-3.00", "9.50", "50.00", "61.00", "100.00") for _ in range(2)]
    assert rising == [True, "ascending", [*numbers, "–", "–"]]
    assert falling == [True, "descending", [*numbers[::-1], "–", "–"]]
    assert names == [True, "ascending", ["probe"] * 6 + ["read"] * 6]
    assert sorted_by == 1
    assert not messages


def test_a_search_keeps_the_rows_with_all_words_and_counts_them(page: Path) -> None:
    script = f"""{TABLE}
    const label = table.closest(".wide").previousElementSibling, input = label.querySelector("input");
    const found = [label.control === input];
    for (const words of ["PROBE lr0.0001", "nothing", ""]) {{
      input.value = words;
      input.dispatchEvent(new Event("input"));
      found.push([shown("kind").length, label.querySelector("output").textContent]);
    }}
    return found;"""
    found, messages = ask(page, script)
    assert found == [True, [1, "1 of 12 rows"], [0, "0 of 12 rows"], [12, ""]]
    assert not messages


def test_a_phone_scrolls_tables_and_not_the_page(page: Path) -> None:
    script = """await document.fonts.ready;
    const root = document.documentElement, image = document.querySelector("figure img");
    const tables = [...document.querySelectorAll(".wide")];
    return {width: innerWidth, page: root.scrollWidth, picture: image.getBoundingClientRect().width,
      portrait: image.naturalHeight > image.naturalWidth,
      wide: tables.some((one) => one.scrollWidth > one.clientWidth)};"""
    found, messages = ask(page, script, width=390)
    if found["width"] != 390:
        pytest.skip(f"this browser has no window of 390 pixels: {found['width']}")
    assert found["page"] <= 390
    assert found["picture"] <= 390
    assert found["portrait"], "the picture for narrow screens"
    assert found["wide"]
    assert not messages


def test_a_dark_screen_gets_a_dark_page(page: Path) -> None:
    script = "return getComputedStyle(document.body).backgroundColor"
    assert ask(page, script)[0] == "rgb(255, 255, 255)"
    assert ask(page, script, DARK)[0] == "rgb(24, 24, 27)"


def test_it_prints(page: Path) -> None:
    printed = page.with_name("page.pdf")
    _, messages = run_browser(page, f"--print-to-pdf={printed}")
    assert printed.read_bytes().startswith(b"%PDF")
    assert 2 <= printed.read_bytes().count(b"/Type /Page\n") <= 8
    assert not messages


def test_the_browser_hears_of_errors_and_lets_the_page_fetch_nothing(page: Path) -> None:
    script = """const image = new Image();
    const loaded = new Promise((done) => { image.onload = image.onerror = (event) => done(event.type); });
    image.src = "picture.png";
    console.error("heard");
    return loaded;"""
    found, messages = ask(page, script)
    assert found == "error"
    assert any("heard" in message for message in messages)
    assert any("Content Security Policy" in message for message in messages)
