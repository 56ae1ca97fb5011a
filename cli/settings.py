"""Options made from the settings classes, whose fields have the help text, default and check; and `settings`.

Where an option and --set give the same setting, --set wins.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel

from read_cache.cli.output import print_json, print_table
from read_cache.settings import check_value, fields_of, split_texts

SetOption = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Another setting; may be repeated for other names. `read-cache settings COMMAND` lists all.",
    ),
]
TrainSetOption = Annotated[
    list[str],
    typer.Option(
        "--train-set",
        metavar="NAME=VALUE",
        help="A setting of training; may be repeated. `read-cache settings train` lists all.",
    ),
]
Options = dict[str, Any]
"""The annotations of a command's parameters, by name."""


def options(model: type[BaseModel], *names: str, repeat: bool = False) -> Options:
    """Return the options of some settings; `lr` is short for `learning_rate`. `repeat`: several values make a grid."""
    made = {}
    for name in names:
        field = model.model_fields["learning_rate" if name == "lr" else name]
        value: Any = field.annotation
        texts = [" ".join((field.description or "").split()), "May be repeated for a grid." if repeat else ""]
        if field.default is not None:  # the description of a field without a default has it
            texts.append(f"[default: {str(field.default).lower()}]")
        metavar = None
        if repeat:
            choices = typing.get_args(value) if typing.get_origin(value) is Literal else ()
            metavar = f"<{'|'.join(choices) or value.__name__}>"
            value = list[str if choices else value]  # type: ignore[misc]
        help_text = " ".join(filter(None, texts))
        made[name] = Annotated[value | None, typer.Option(metavar=metavar, help=help_text, show_default=False)]
    return made


def takes(options: Options) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add options to a command, before its parameter `settings`. Its `**chosen` are those that were given, by name."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            given = {name: value for name in options if (value := values.pop(name)) not in (None, [])}
            single = {name: value[0] for name, value in given.items() if isinstance(value, list) and len(value) == 1}
            command(**values, **given | single)

        own = inspect.signature(command, eval_str=True)
        keyword = inspect.Parameter.KEYWORD_ONLY
        added = [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in options.items()]
        *before, _ = (one.replace(kind=keyword) for one in own.parameters.values())
        place = next((index for index, one in enumerate(before) if one.name == "settings"), len(before))
        signature = own.replace(parameters=[*before[:place], *added, *before[place:]])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
        return run

    return add


def parse_set(texts: Sequence[str], models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """Return the values of `--set` options, each checked. Raises UserError for a setting that no model has."""
    fields, texts_by_name = fields_of(*models), split_texts(texts)
    return {name: check_value(name, value, fields, "settings", text=True) for name, value in texts_by_name.items()}


def settings(
    command: Annotated[
        Literal["extract", "plan", "train", "finetune", "compare", "evaluate", "predict", "serve", "bench"],
        typer.Argument(help="Command whose settings are listed."),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print the settings as JSON.")] = False,
) -> None:
    """List the settings of a command, with defaults.

    The option --set takes these settings; evaluate takes them as options or in Python. Recipes take those of train and
    finetune.
    """
    rows = []
    for owner, model in setting_models(command).items():
        for name, field in model.model_fields.items():
            if owner == "network" and name in ("kind", "settings", "head"):  # which are the other rows
                continue
            shown = f"head.{name}" if owner == "head" else name  # as --set and recipes take it
            default = "" if field.is_required() or field.default is None else str(field.default).lower()
            effect = " ".join((field.description or "").split())
            rows.append({"owner": owner, "name": shown, "default": default, "help": effect})
    if json:
        print_json(rows)
    else:
        print_table(("group", "setting", "default", "effect"), [list(row.values()) for row in rows])


def setting_models(command: str) -> Mapping[str, type[BaseModel]]:
    """Return a command's settings classes by the name in the column `group`."""
    from read_cache import config

    if command in ("extract", "plan"):
        return {"store": config.ExtractConfig, "machine": config.ExtractPlace}
    if command in ("evaluate", "predict", "serve"):
        return {command: getattr(config, f"{command.title()}Config")}
    if command == "bench":
        from read_cache.bench.case import BenchConfig

        return {"bench": BenchConfig}
    from read_cache.scoring.heads import HeadSettings
    from read_cache.training.network_config import NetworkConfig
    from read_cache.training.recipe import side_networks

    kinds = {} if command == "finetune" else dict(side_networks())
    if command != "train":
        from read_cache.methods.run import live_methods

        kinds |= live_methods()
    return {
        **kinds,
        "head": HeadSettings,
        "run": config.RunConfig,
        "machine": config.Place,
        "search (recipes)": config.SearchConfig,
        "network": NetworkConfig,
    }
