"""Programs that are run with `python -m`: a function whose arguments typer reads."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from read_cache.errors import UserError


def run_program(function: Callable[..., Any]) -> NoReturn:
    """Run it on the command line's words. What a user can cause ends in one message and exit code 2."""
    try:
        typer.run(function)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
