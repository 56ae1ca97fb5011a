"""`read-cache`: finds the command, runs it, and turns what a user can cause into one message and an exit code.

Only the command that is called is imported: `train` must run where transformers does not exist.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Iterable
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from read_cache.errors import UserError
from read_cache.system import keep_freed_memory

COMMANDS = {
    "plan": "plan", "extract": "extract", "train": "train", "finetune": "train", "evaluate": "evaluate",
    "predict": "predict", "inspect": "inspect", "verify": "verify", "report": "report", "tables": "report",
    "settings": "settings_list", "glue": "glue", "demo": "demo", "bench": "bench",
}  # fmt: skip
"""By command: the module that has it."""


def build_app(commands: Iterable[str] = COMMANDS) -> typer.Typer:
    """A Typer application with `commands`."""
    app = typer.Typer(
        name="read-cache",
        help="Run a frozen language model once, keep what its layers computed, train side networks from that alone.",
        no_args_is_help=True,
        invoke_without_command=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()  # keeps the command's name even where only one is imported
    def options(
        version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    ) -> None:
        if version:
            print(f"read-cache {importlib.metadata.version('read-cache')}")
            raise typer.Exit

    for name in commands:
        module = importlib.import_module(f"read_cache.cli.{COMMANDS[name]}")
        app.command(name)(getattr(module, name))
    return app


def main() -> NoReturn:
    """Run the command line. Exit code 0; 1 where `verify` found damage; 2 for bad input; 130 for Ctrl-C.

    Exit code 1 too, by Typer, where the reader of our output has gone away.
    """
    keep_freed_memory()
    called = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    try:
        build_app((called,) if called in COMMANDS else COMMANDS)()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:
        code = stop.code if isinstance(stop, SystemExit) else 130
        if code == 130:  # typer turns Ctrl-C into this code without a word
            print("interrupted: what was complete is kept; the same command goes on from there", file=sys.stderr)
        sys.exit(code)
    sys.exit(0)
