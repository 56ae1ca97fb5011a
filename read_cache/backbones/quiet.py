"""Calls into transformers without its messages, and with its errors as one UserError."""

import contextlib
import io
import struct
from collections.abc import Iterator

import transformers
from safetensors import SafetensorError

from read_cache.errors import UserError


@contextlib.contextmanager
def quietly(what: str) -> Iterator[None]:
    """Keep a library's chatter off the terminal, and turn its errors into one UserError that starts with `what`."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        ImportError,
        IndexError,
        SafetensorError,
        struct.error,
    ) as error:
        raise UserError(f"{what}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
