"""`read-cache`: finds the command, runs it, and turns what a user can cause into one message and an exit code.

Only the command that is called is imported: `train` must run where transformers does not exist.
"""

import contextlib
import importlib
import os
import sys
from typing import NoReturn

import typer
from rich.console import Console

from read_cache.allocator import keep_freed_memory
from read_cache.errors import UserError

COMMANDS = ("plan", "extract", "train", "evaluate", "predict", "inspect", "verify", "report", "tables", "demo", "bench")


def build_app(commands: tuple[str, ...] = COMMANDS) -> typer.Typer:
    """A Typer application with `commands`."""
    app = typer.Typer(
        name="read-cache",
        help="Run a frozen T5 once, keep what its layers said, train READ side networks from that alone.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(lambda: None)  # keeps the command's name even where only one is imported
    for name in commands:
        module = importlib.import_module(f"read_cache.cli.{name}")
        app.command(name)(getattr(module, name))
    return app


def main() -> NoReturn:
    """Run the command line. Exit code 0; 1 where `verify` found damage; 2 for bad input; 130 for Ctrl-C."""
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
    except BrokenPipeError:  # the reader of our output went away: not our error, and nothing to say
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(0)
