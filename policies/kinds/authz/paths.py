# mypyc: compiled
"""Which rules a path may be for, and as which places a service could read a path.

Laws
- Exact paths and prefixes are looked up; what a template or an expression says of a path is asked of those rules only
  that are left, and a template's only below the segments that it begins with.
- A path is read once for each form in which some service would look at it. Nothing passes that one of them denies.
"""

from __future__ import annotations

from typing import Any, Final

from policies.language.matching import PathMatch, path_pattern
from policies.language.normal_path import is_plain, normal, normal_encoding

_NONE: Final[list[str]] = []


class Paths:
    """Rules by path."""

    __slots__ = ("_any", "_deepest", "_exact", "_prefixes")

    def __init__(self) -> None:
        self._any = 0
        self._exact: dict[str, int] = {}
        self._prefixes: dict[str, int] = {}
        self._deepest = -1
        """Slashes of the prefix that has most."""

    def add(self, rule: int, match: PathMatch | None) -> None:
        """`rule`: its bit."""
        if match is not None and match.exact is not None:
            for path in _spellings(match.exact):
                self._exact[path] = self._exact.get(path, 0) | rule
        elif match is not None and match.prefix is not None:
            for path in _spellings(match.prefix):
                self._under(path.rstrip("/"), rule)
        elif match is not None and match.template is not None:
            before = match.template.partition("{")[0]
            for path in (before, normal_encoding(before.encode()).decode()):
                self._under(path.rpartition("/")[0], rule)
                if before == match.template:
                    self._exact[path] = self._exact.get(path, 0) | rule
        else:
            self._any |= rule

    def _under(self, prefix: str, rule: int) -> None:
        self._prefixes[prefix] = self._prefixes.get(prefix, 0) | rule
        self._deepest = max(self._deepest, prefix.count("/"))

    def rules_for(self, path: str) -> int:
        """The rules that may be for a path."""
        found = self._any
        exact = self._exact.get(path)
        if exact is not None:
            found |= exact
        deepest = self._deepest
        if deepest < 0:
            return found
        end, depth = path.find("/"), 0
        while end >= 0:
            under = self._prefixes.get(path[:end])
            if under is not None:
                found |= under
            if depth == deepest:
                return found
            end = path.find("/", end + 1)
            depth += 1
        under = self._prefixes.get(path)
        return found if under is None else found | under


def _spellings(path: str) -> tuple[str, ...]:
    other = normal(path.encode()).target.decode()
    return (path,) if other == path else (path, other)


def pattern_of(match: PathMatch | None) -> Any:
    """What a path has to match besides what is looked up; None: nothing."""
    return None if match is None else path_pattern(match)


def readings(path: str, whole: str) -> list[str]:
    """The other places that some service would take a path for. `path`: as it is judged; `whole`: as it is sent."""
    sent = whole.encode("latin-1")
    if not whole.startswith("/") or is_plain(sent):
        return _NONE
    found: list[str] = []
    for reading in _spelled_out(sent):
        place = reading.decode("latin-1")
        if place != path and place not in found:
            found.append(place)
    return found


def _spelled_out(sent: bytes) -> list[bytes]:
    """By servers that take a backslash for a slash or do not, decode a slash before they look or do not, leave
    parameters out or do not, resolve dot segments or do not: each for itself, for any of them may be so."""
    texts = [normal_encoding(sent)]
    if b"\\" in sent:
        texts.append(texts[0].replace(b"\\", b"/"))
    if b"%2F" in texts[0] or b"%5C" in texts[0]:
        texts += [text.replace(b"%2F", b"/").replace(b"%5C", b"/") for text in texts]
    found: list[bytes] = []
    for text in texts:
        segments = text.split(b"/")
        found.append(_merged(segments))
        if b"/." in text:
            found.append(_resolved(segments))
        if b";" in text:
            bare = [segment.partition(b";")[0] for segment in segments]
            found.append(_merged(bare))
            if b"/." in text:
                found.append(_resolved(bare))
    return found


def _merged(segments: list[bytes]) -> bytes:
    """Slashes in a row are one; dot segments are names."""
    end = b"/" if segments[-1] == b"" else b""
    return b"/" + b"/".join([each for each in segments if each]) + end


def _resolved(segments: list[bytes]) -> bytes:
    """Without dot segments, too."""
    kept: list[bytes] = []
    for segment in segments:
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment not in (b"", b"."):
            kept.append(segment)
    end = b"/" if kept and segments[-1] in (b"", b".", b"..") else b""
    return b"/" + b"/".join(kept) + end
