"""A headless Chromium that opens a page, and a script in the page that does what a person would."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
DARK = "--blink-settings=preferredColorScheme=0"
ANSWER = re.compile(r'<script type="application/json" id="answer">(.*?)</script>', re.S)
ASK = """<script type="module">
const answer = document.createElement("script");
answer.type = "application/json";
answer.id = "answer";
answer.textContent = JSON.stringify(await (async () => {{ {script} }})());
document.head.append(answer);
</script></body>"""


def run_browser(page: Path, *options: str, width: int = 1280) -> tuple[str, list[str]]:
    """Return (what the browser prints, messages on the page's console). Skips the test where there is no Chromium."""
    name = next((name for name in NAMES if shutil.which(name)), None)
    if name is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on the path")
    fixed = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={width},900")
    done = subprocess.run(
        [name, *fixed, f"--user-data-dir={page.parent / 'profile'}", *options, page.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def ask(page: Path, script: str, *options: str, width: int = 1280) -> tuple[Any, list[str]]:
    """Return (what a JavaScript function body returns in a page, messages on its console)."""
    asking = page.with_name("asking.html")
    asking.write_text(page.read_text(encoding="utf-8").replace("</body>", ASK.format(script=script)), encoding="utf-8")
    printed, messages = run_browser(asking, "--dump-dom", "--virtual-time-budget=5000", *options, width=width)
    found = ANSWER.search(printed)
    assert found, (printed[-2000:], messages)
    return json.loads(found[1]), messages
