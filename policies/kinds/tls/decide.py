# mypyc: compiled
"""`tls`: whether hops are TLS. The documents of all levels together are one answer, for callers and callees alike.

Laws
- The strictest level decides.
- Where one level says that instances speak TLS, no other makes that plain text; of several that say so the most
  specific one knows whom to expect.
- What nobody knows counts as `strict` without an `origin`: no document lets less pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from policies.decision import Denied
from policies.kind import ANYWHERE, Scope
from policies.kinds.tls.document import Origin, TlsPolicy
from policies.request import RequestView

OFF: Final = 0
PERMISSIVE: Final = 1
STRICT: Final = 2
_MODES: Final = {"off": OFF, "permissive": PERMISSIVE, "strict": STRICT}

TIGHTEST: Final = TlsPolicy(mtls="strict")


class Level(NamedTuple):
    """One document that applies to a service."""

    key: str
    """The pattern that it was put for."""
    revision: int
    document: TlsPolicy


class Tls:
    """What all levels come to, for one service."""

    __slots__ = ("key", "mode", "origin", "origin_key", "reason_policy")

    def __init__(
        self, mode: int, reason_policy: str, key: str = "", origin: Origin | None = None, origin_key: str = ""
    ) -> None:
        self.mode = mode
        """OFF, PERMISSIVE or STRICT."""
        self.key = key
        """The pattern of the document that decides it; empty: no document of this kind does."""
        self.reason_policy = reason_policy
        """What decides it, as refusals name it."""
        self.origin = origin
        """What instances speak; None: no document says it."""
        self.origin_key = origin_key
        """The pattern of the document that does."""


def combine(levels: Sequence[Level]) -> Tls:
    """One answer of at least one level; the most specific first."""
    decides = levels[0]
    for level in levels:
        if _mode(level) > _mode(decides):
            decides = level
    key, speaks = decides.key, _origin(levels)
    reason_policy = f"tls/{key} of revision {decides.revision}"
    if speaks is None:
        return Tls(_mode(decides), reason_policy, key)
    return Tls(_mode(decides), reason_policy, key, speaks.document.origin, speaks.key)


def _mode(level: Level) -> int:
    return _MODES[level.document.mtls]


def _origin(levels: Sequence[Level]) -> Level | None:
    """The document that says what instances speak."""
    found: Level | None = None
    speaks = ""
    for level in levels:
        origin = level.document.origin
        if origin is not None and (found is None or (origin.speaks == "tls" and speaks == "plain")):
            found, speaks = level, origin.speaks
    return found


def compile(document: TlsPolicy, scope: Scope = ANYWHERE) -> Compiled | None:
    """Ready to be asked by the callee's agent; None: it refuses nobody."""
    return Compiled(scope.key) if document.mtls == "strict" else None


class Compiled:
    """Of one level that is strict."""

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        self._key = key

    def decide(self, request: RequestView) -> Denied | None:
        """No plain text from another host."""
        if not request.in_plain_text:
            return None
        reason = f"policies/tls/{self._key} is strict: hops are TLS, and this request came in plain text"
        return Denied(403, reason, "plain text")
