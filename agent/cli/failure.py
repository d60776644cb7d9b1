"""How a command ends badly: one line that says what would be right, and an exit code that a script can act on."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of `shoal`; docs/command-line.md lists them for people."""

    OK = 0
    NO = 1
    """The answer is no: the wait timed out, the check found errors, there is no such thing."""
    USAGE = 2
    UNREACHABLE = 3
    """etcd or the agent could not be asked."""
    UNKNOWN = 4
    """Too little is known yet to say yes or no."""


class Failure(Exception):
    """Ends the command. `message` is a line for a person, and needs no traceback beside it; `more` are lines below."""

    def __init__(self, message: str, code: int = Exit.NO, more: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.more = more
        self.code = code
