# mypyc: compiled
"""Who calls, as rules name them: services of the mesh by pattern, and SPIFFE ids of anybody.

Laws
- `*` and what is under it are services: who is known to be none is in no pattern.
- What is no service's name (a pattern that somebody calls himself, an endless one) is anonymous.
- Sets of rules are integers, a bit for each rule: what rules say of a caller is looked up, whatever their number.
"""

from __future__ import annotations

from typing import Final

from policies.language.names import candidates, parse_pattern

ANYBODY: Final = "anybody"
ANONYMOUS: Final = "anonymous"
_SCHEME: Final = "spiffe://"
_SERVICE: Final = "svc/"
_NAME_BYTES: Final = 320
"""No service's name is longer."""
_REMEMBERED: Final = 4096


def check_source(text: str) -> None:
    """Raises ValueError that says what would be right."""
    if not text.startswith(_SCHEME):
        parse_pattern(text)
        return
    domain, _, path = text[len(_SCHEME) :].partition("/")
    if not domain or not path or domain != domain.lower() or "*" in domain:
        raise ValueError(
            f"{text[:80]!r} names nobody; such as {_SCHEME}us.shoal/svc/shop.production, or {_SCHEME}us.shoal/*"
        )
    if path.startswith(_SERVICE):
        parse_pattern(path[len(_SERVICE) :])
    elif "*" in path and path != "*":
        raise ValueError(f"{text[:80]!r}: a pattern is {_SCHEME}{domain}/* or {_SCHEME}{domain}/svc/*.production")


class Sources:
    """Which rules are for whom."""

    __slots__ = ("_anonymous", "_anybody", "_ids", "_known", "_patterns")

    def __init__(self) -> None:
        self._anybody = 0
        self._anonymous = 0
        self._patterns: dict[str, int] = {}
        self._ids: dict[str, int] = {}
        """By SPIFFE id, or pattern of such."""
        self._known: dict[str, int] = {}
        """What was asked before, by service."""

    def add(self, rule: int, sources: tuple[str, ...] | str) -> None:
        """`rule`: its bit."""
        if isinstance(sources, str):
            self._anonymous |= rule
            if sources == ANYBODY:
                self._anybody |= rule
            return
        for text in sources:
            if text.startswith(_SCHEME):
                spelled = _spelled(text)
                self._ids[spelled] = self._ids.get(spelled, 0) | rule
            else:
                pattern = parse_pattern(text)
                self._patterns[pattern] = self._patterns.get(pattern, 0) | rule

    @property
    def asks_ids(self) -> bool:
        """Whether it matters what somebody has proven besides being a service of the mesh."""
        return bool(self._ids)

    def rules_for(self, caller: str, principal: str) -> int:
        """The rules that are for a caller. `principal`: his SPIFFE id, where he has one; heeded where `asks_ids`."""
        found = self._known.get(caller)
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = self._known[caller] = self._of_service(caller)
        return found | self._of_id(principal) if principal else found

    def _of_service(self, caller: str) -> int:
        if not caller or len(caller) > _NAME_BYTES or "*" in caller:
            return self._anonymous
        found = self._anybody
        for pattern in candidates(caller):
            found |= self._patterns.get(pattern, 0)
        return found

    def _of_id(self, principal: str) -> int:
        found = self._ids.get(principal, 0)
        domain, _, path = principal[len(_SCHEME) :].partition("/")
        if path:  # else it is nobody's: who signs, or who wants to join
            found |= self._ids.get(f"{_SCHEME}{domain}/*", 0)
        if path.startswith(_SERVICE):
            for pattern in candidates(path[len(_SERVICE) :]):
                found |= self._ids.get(f"{_SCHEME}{domain}/{_SERVICE}{pattern}", 0)
        return found


def _spelled(text: str) -> str:
    domain, _, path = text[len(_SCHEME) :].partition("/")
    if path.startswith(_SERVICE):
        return f"{_SCHEME}{domain}/{_SERVICE}{parse_pattern(path[len(_SERVICE) :])}"
    return text
