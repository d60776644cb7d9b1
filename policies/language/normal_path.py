# mypyc: compiled
"""The normal form of a path: what several spellings of one place have in common (RFC 3986 section 6.2.2). Pure.

Laws
- What rules judge and what services are sent are one reading: the normal form is what is passed on.
- Two spellings that a service may take for one place have one form here: percent-encoded characters that need no
  encoding, the case of hexadecimal digits, dot segments, doubled slashes, and a backslash for a slash.
- Parameters (`/pets;color=red`) stay in what is passed on, and are no part of the place that is judged: half of the
  servers there are leave them out before they look for it.
- A percent-encoded slash (or backslash) stays as it is, since to many services it is part of a name; only where it
  would make a dot segment it counts as a slash.
- The normal form of a normal form is itself.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})?")
_ENCODED_SLASH: Final = re.compile(rb"%(?:2[Ff]|5[Cc])")
# What is other in the normal form, or may be: doubled slashes, dot segments, parameters, backslashes, encoded
# characters that need no encoding (or are a slash or backslash), hexadecimal digits in lower case, and a percent sign
# that encodes nothing.
_ODD: Final = re.compile(
    rb"//|/\.\.?(?:/|\Z)|[;\\]"
    rb"|%(?![0-9A-F]{2})|%(?:2[DEF]|3[0-9]|[46][1-9A-F]|[57][0-9A]|5[CF]|7E)"
)
_PERCENT: Final = 0x25
_SEMICOLON: Final = 0x3B
_BACKSLASH: Final = 0x5C
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class NormalPath(NamedTuple):
    """A request's target in its normal form."""

    target: bytes
    """What the service is sent: path and query."""
    place: bytes
    """The path that rules judge: without parameters."""
    escapes: bool
    """Whether there is a percent-encoded slash or backslash in it."""


def is_plain(target: bytes) -> bool:
    """Whether a target (`/path?query`) is in its normal form, and what is judged of it is its path as it stands.

    >>> is_plain(b"/pets/7?near=%61&at=//"), is_plain(b"/pets//7"), is_plain(b"/.well-known/x")
    (True, False, True)
    """
    # Of bytes in bytes `in` would raise and catch an exception before it looks.
    if (
        _PERCENT not in target
        and _SEMICOLON not in target
        and _BACKSLASH not in target
        and target.find(b"//") < 0
        and target.find(b"/.") < 0
    ):
        return True
    return _ODD.search(target.partition(b"?")[0]) is None


def normal(target: bytes, *, decode_slashes: bool = False) -> NormalPath:
    """The normal form of a target that begins with `/`.

    >>> normal(b"/x/..//%61dmin;v=1/?q=%61").target, normal(b"/x/..//%61dmin;v=1/?q=%61").place
    (b'/admin;v=1/?q=%61', b'/admin/')
    """
    path, mark, query = target.partition(b"?")
    text = normal_encoding(path.replace(b"\\", b"/"))
    escapes = _ENCODED_SLASH.search(text) is not None
    if escapes:
        decoded = _ENCODED_SLASH.sub(b"/", text)
        if decode_slashes or _has_dots(decoded):
            text = decoded
            escapes = False
    segments = _segments(text)
    return NormalPath(
        b"/" + b"/".join(segments) + mark + query,
        b"/" + b"/".join([segment.partition(b";")[0] for segment in segments]),
        escapes,
    )


def normal_encoding(text: bytes) -> bytes:
    """With every percent-encoded character that needs no encoding as itself, and the others in upper case. A percent
    sign that encodes nothing is encoded: else what is decoded behind it could make it encode something."""
    return _ENCODED.sub(_decoded, text) if b"%" in text else text


def upper_encoding(text: bytes) -> bytes:
    """With the hexadecimal digits of every percent-encoded character in upper case, and no other change."""
    return _ENCODED.sub(_upper, text) if b"%" in text else text


def _upper(found: re.Match[bytes]) -> bytes:
    return found[0].upper()


def _decoded(found: re.Match[bytes]) -> bytes:
    if found[1] is None:
        return b"%25"
    character = int(found[1], 16)
    return bytes([character]) if character in _UNRESERVED else found[0].upper()


def _has_dots(path: bytes) -> bool:
    return any(segment.partition(b";")[0] in (b".", b"..") for segment in path.split(b"/"))


def _segments(path: bytes) -> list[bytes]:
    """What stands between the slashes, with an empty one at the end where the path ends with a slash."""
    kept: list[bytes] = []
    open_end = True
    for segment in path.split(b"/"):
        name = segment.partition(b";")[0]
        open_end = name in (b"", b".", b"..")
        if name == b"..":
            if kept:
                kept.pop()
        elif not open_end:
            kept.append(segment)
    if open_end:
        kept.append(b"")
    return kept
