"""A function in a process of its own, whose peak memory is the function's."""

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from read_cache.errors import UserError

R = TypeVar("R")


def in_own_process(function: Callable[..., R], *arguments: object) -> R:
    """Return what a function returns in a fresh process. Function, arguments and result must be picklable.

    Raises what the function raises, and UserError if its process was killed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        result, error = receiver.recv()
    except EOFError as ended:
        raise UserError(
            f"the process of {function.__name__} was killed, probably because the machine's memory was full: make "
            "room, or use a smaller model or sample"
        ) from ended
    finally:
        receiver.close()
    process.join()
    if error is not None:
        raise error
    value: R = result
    return value


def _call(sender: Connection, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    """Send (result, None) or (None, error)."""
    try:
        sender.send((function(*arguments), None))
    except KeyboardInterrupt:
        return  # the parent has it too
    except Exception as error:
        error.add_note(traceback.format_exc())
        sender.send((None, error))
