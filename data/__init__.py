"""What comes with read-cache: a tiny pretrained T5 and the sample tasks, so that everything runs with no network."""

from pathlib import Path

BUNDLED_BACKBONE = "t5-tiny-wiki"


def bundled_backbone(name: str) -> Path | None:
    """The folder of the bundled backbone of that name, or None."""
    return Path(__file__).parent / "backbone" if name == BUNDLED_BACKBONE else None
