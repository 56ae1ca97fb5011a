"""The command line: one short function for each command. Installed as `read_cache.cli`."""

from read_cache.cli.app import main

__all__ = ["main"]
