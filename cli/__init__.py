"""The command line: one thin function a command. Installed as `read_cache.cli`."""

from read_cache.cli.app import main

__all__ = ["main"]
