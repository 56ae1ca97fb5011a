"""Errors a user can cause. The command line prints their message, without a traceback, and exits with code 2."""


class UserError(Exception):
    """What was found, what was expected, and what to do about it, in one message."""


class StoreError(UserError):
    """A store that is missing, unfinished, corrupt, or made by other settings or another version."""
