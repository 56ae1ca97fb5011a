"""`read-cache`: run one command. A user's mistake ends in one message and an exit code.

Only the command that is called is imported, since `train` must run without transformers.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Iterable
from typing import Annotated, NoReturn

import typer

from read_cache.cli.output import say
from read_cache.errors import UserError
from read_cache.heap import keep_freed_memory

COMMANDS = {
    "plan": "plan", "extract": "extract", "train": "train", "finetune": "train", "compare": "compare",
    "evaluate": "evaluate", "ensemble": "evaluate", "predict": "predict", "serve": "serve", "inspect": "inspect",
    "verify": "verify", "report": "report", "tables": "report", "figures": "report", "settings": "settings",
    "demo": "demo", "bench": "bench",
}  # fmt: skip
"""Module of each command."""


def build_app(commands: Iterable[str] = COMMANDS) -> typer.Typer:
    """Return a Typer application with `commands`."""
    app = typer.Typer(
        name="read-cache",
        help="Run a frozen language model once, store its activations, and train side networks from the store.",
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
    """Run the command line. Exit code 0; 1 if `verify` found damage; 2 for bad input; 130 for Ctrl-C.

    `serve` exits with 1 if it cut off requests, Typer if stdout is a closed pipe.
    """
    keep_freed_memory()
    called = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    try:
        build_app((called,) if called in COMMANDS else COMMANDS)()
    except UserError as error:
        say(f"error: {error}")
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:
        code = stop.code if isinstance(stop, SystemExit) else 130
        if code == 130:  # typer turns Ctrl-C into this code without a message
            say("interrupted: finished parts and checkpoints are kept; run the same command again to continue")
        sys.exit(code)
    sys.exit(0)
