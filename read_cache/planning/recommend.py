"""The form of a store that its disk holds, and why."""

import dataclasses

from read_cache.extract.config import ExtractConfig
from read_cache.planning.estimate import Estimate
from read_cache.store.reader import array_bytes

LEFT_FREE = 0.05
"""Share of the free disk that a store should leave."""


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """Options of `read-cache extract`, and the reason for them."""

    options: dict[str, str | int]
    total_bytes: int | None
    """None where no form fits."""
    why: str


def smaller_forms(width: int) -> list[dict[str, str | int]]:
    """Forms of a store, each smaller than the one before."""
    plain: dict[str, str | int] = {"dtype": "bf16", "attention": "mean", "attention_dtype": "fp16", "rank": 0}
    small = plain | {"dtype": "int8", "attention_dtype": "uint8"}
    ranks = [rank for rank in (256, 128, 64) if rank <= width // 2]
    return [plain, plain | {"dtype": "int8"}, small, *(small | {"rank": rank} for rank in ranks)]


def recommend(found: Estimate, config: ExtractConfig) -> Recommendation:
    """The largest form of all layers that the disk holds, from bf16 downwards."""
    manifest = found.manifest
    backbone = manifest.backbone
    room = None if found.free_bytes is None else found.free_bytes * (1 - LEFT_FREE)
    for place, options in enumerate(smaller_forms(backbone.width)):
        settings = dataclasses.replace(config, layers="all", compute_dtype=None, **options)  # type: ignore[arg-type]
        form = settings.form(backbone.encoder_layers, backbone.decoder_layers, backbone.width)
        total = sum(array_bytes(dataclasses.replace(manifest, form=form)).values())
        if room is None or total <= room:
            return Recommendation(options | {"layers": "all"}, total, _why(place, room is None))
    why = "no form of all layers fits: keep fewer --layers, take fewer rows with --max-examples, or use another disk"
    return Recommendation({}, None, why)


def _why(place: int, unknown: bool) -> str:
    known = (
        "bf16 is bit for bit what the backbone says when it runs in bf16, at half of fp32's bytes; the mean over heads "
        "is what the paper's Joiner needs, where every head takes as many times more. "
    )
    unsettled = (
        "int8 states with uint8 attention cost a small backbone nothing that could be measured (docs/performance.md); "
        "what smaller forms cost a wide one is not settled"
    )
    if unknown:
        return f"{known}How much room there is at a URL is not known; {unsettled}"
    if place == 0:
        return f"{known}The disk holds it, so nothing need be given up: {unsettled}"
    return f"{known}The disk does not hold it: this is the largest form that it holds, and {unsettled}"
