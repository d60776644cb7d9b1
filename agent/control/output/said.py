"""What is said of programs' output: to an agent by who copies it (`agent.process.copying`), and by agents to others."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from agent.process.copying import RUN, STDERR, STDOUT
from agent.questions import Question

NAMES: Final = {RUN: "run", STDOUT: "stdout", STDERR: "stderr"}
"""Of streams; `run` has words of Shoal."""
MOST_NUMBER: Final = 2**53
MOST_TEXT: Final = 8 * 1024
"""Characters of a line's text."""


class Line(msgspec.Struct, frozen=True, array_like=True):
    """One. Its number is of its program, and nobody's else."""

    number: Annotated[int, Meta(ge=0, le=MOST_NUMBER)]
    at: float
    """Seconds since 1970."""
    stream: Annotated[int, Meta(ge=RUN, le=STDERR)]
    text: Annotated[str, Meta(max_length=MOST_TEXT)]
    cut: Annotated[int, Meta(ge=0)] = 0
    """Bytes that it had beyond."""


class Place(msgspec.Struct, frozen=True):
    """How far somebody has read one host's programs: by run, the number of the next line."""

    after: dict[str, int] = {}


class OutputAsked(msgspec.Struct, frozen=True):
    """Lines, as they come; or the last ones, and those that come."""

    service: str
    """Or a pattern."""
    instance: str = ""
    """Its id; empty: any."""
    stream: str = ""
    """One of NAMES; empty: any."""
    contains: str = ""
    """What a line has in it."""
    places: dict[str, Place] = {}
    """By host; who is not among them begins."""
    last: int = 0
    """Of each program, where somebody begins: so many of the last ones; 0: those that come from now on."""
    most_bytes: int = 512 * 1024
    uid: int | None = None
    """Only programs of this user; None: of any. An agent asks that of itself alone."""


class OfProgram(msgspec.Struct, frozen=True, array_like=True):
    """Lines of one program, the oldest first."""

    service: str
    instance: str
    lines: list[Line]
    lost: int
    """That there was no room for, somewhere among these."""


class OutputTold(msgspec.Struct, frozen=True):
    """Of one host."""

    programs: list[OfProgram] = []
    place: Place | None = None
    """What to ask with the next time."""
    unkept: list[str] = []
    """Instances (service/id) that there are here, and whose output nobody tells of."""


OUTPUT: Final = Question("output", OutputAsked, OutputTold, most_bytes=8 * 1024 * 1024)
"""An answer has at most what it is asked for and one line of each program beside."""
Identity: TypeAlias = tuple[str, str]
"""Service and id."""
