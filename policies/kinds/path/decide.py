# mypyc: compiled
"""What a `path` document, or the built-in default, says of a request's target."""

from __future__ import annotations

from typing import NamedTuple

from policies.kind import ANYWHERE, Scope
from policies.kinds.path.document import PathPolicy
from policies.language.normal_path import NormalPath, is_plain, normal, upper_encoding


class Refused(NamedTuple):
    """A path that is not taken."""

    reason: str


class Compiled:
    """A document, ready to be asked."""

    __slots__ = ("_decodes", "_refuses", "_refuses_slashes", "keeps")

    def __init__(self, document: PathPolicy) -> None:
        self.keeps = document.action == "keep"
        """Whether every path is taken as it was sent."""
        self._refuses = document.action == "refuse"
        self._decodes = document.escaped_slashes == "decode"
        self._refuses_slashes = document.escaped_slashes == "refuse"

    def decide(self, target: bytes) -> NormalPath | Refused | None:
        """As what a target is taken, or why not; None: as it was sent."""
        if self.keeps or target[:1] != b"/" or is_plain(target):
            return None
        found = normal(target, decode_slashes=self._decodes)
        if self._refuses_slashes and found.escapes:
            return Refused("a path policy refuses percent-encoded slashes and backslashes")
        path = target.partition(b"?")[0]
        if found.place == path:
            return None
        if self._refuses and found.place != upper_encoding(path):
            return Refused(f"a path policy refuses what is not in its normal form, {_shown(found.place)}")
        return found


def compile(document: PathPolicy | None, scope: Scope = ANYWHERE) -> Compiled:
    """A document, or the default."""
    return Compiled(PathPolicy() if document is None else document)


def _shown(place: bytes) -> str:
    return place[:200].decode("latin-1")
