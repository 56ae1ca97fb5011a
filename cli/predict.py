"""`read-cache predict`: texts to labels, scores or text."""

import dataclasses
import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from read_cache.cli.output import watching
from read_cache.cli.settings import SetOption, options, parse_set, takes
from read_cache.config import PredictConfig
from read_cache.errors import UserError

if TYPE_CHECKING:
    from read_cache.live.predict import Prediction

NetworksOption = Annotated[
    list[Path],
    typer.Option(
        metavar="<path>", help="A network or live method, a folder of them, or OWNER/NAME on the hub; may be repeated."
    ),
]
BackboneOption = Annotated[str, typer.Option(help="The backbone that the networks were trained for.")]


@takes(options(PredictConfig, "batch_size", "device"))
def predict(
    network: NetworksOption,
    model: BackboneOption,
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...", help="Texts; a tab separates the two texts of a pair. [default: --file or stdin]"
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A text or jsonl file, plain or .gz, one example a line.")] = None,
    settings: SetOption = [],  # noqa: B006
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each text and network.")] = False,
    **chosen: Any,
) -> None:
    """Predict labels, scores or text.

    One pass of the backbone serves all side networks; each live method takes a pass of its own. A file may be larger
    than memory.
    """
    from read_cache.api.prediction import predict_lines

    if text and file:
        raise UserError("give texts as arguments or with --file, not both")
    chosen |= parse_set(settings, [PredictConfig])
    lines = file or text or sys.stdin.buffer
    if not file:  # a person or a program may wait for each answer on standard input
        chosen.setdefault("look_ahead", 1)
    with watching() as watch:
        for prediction in predict_lines(model, network, lines, watch=watch, **chosen):
            if json:
                print(json_module.dumps(dataclasses.asdict(prediction), ensure_ascii=False), flush=True)
            else:
                print(as_text(prediction), flush=True)


def as_text(prediction: "Prediction") -> str:
    """Return one line, separated by tabs: network, label, the three largest probabilities or the score, and text."""
    likely = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:3]
    details = ", ".join(f"{label} {share:.3f}" for label, share in likely)
    if not likely and prediction.value is not None:
        details = f"{prediction.value:.3f}"
    return "\t".join(
        [prediction.network, prediction.label, f"({details})" if details else "", prediction.text.replace("\n", " ")]
    )
