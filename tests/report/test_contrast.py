"""Text on the page can be read: WCAG 2 asks for a contrast of 4.5."""

import re
from pathlib import Path

import numpy as np

from read_cache.report import page


def luminance(colour: str) -> float:
    """The relative luminance of #rrggbb, as WCAG 2 defines it."""
    shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_text_has_enough_contrast_in_every_scheme() -> None:
    css = Path(page.__file__).with_name("page.css.j2").read_text()
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{([^}]*)\}", css)]
    assert len(schemes) == 3, "light, dark, print"
    for colours in schemes:
        for front, backs in (
            ("ink", ("paper", "raised", "bar")),
            ("quiet", ("paper", "raised")),
            ("accent", ("paper",)),
        ):
            for back in backs:
                dark, light = sorted((luminance(colours[front]), luminance(colours[back])))
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back)
