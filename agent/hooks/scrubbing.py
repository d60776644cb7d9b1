"""Takes secrets out of what is told of a delivery: it stands in etcd, where everybody who may read policies reads it.

A receiver may repeat what it was sent, and a library may name an address. What has a piece of a secret in it is not
mended but left out: of a secret with holes the rest is still half of it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

PIECE: Final = 6
"""So many letters and digits of a secret in a row are a piece of it; of a shorter one all."""
LEFT_OUT: Final = "(what was said had a piece of a secret in it; it is left out)"
_STRUCTURE: Final = re.compile(r"[^a-z0-9]+")


class Scrub:
    """Of one delivery."""

    __slots__ = ("_pieces", "_whole")

    def __init__(self, secrets: Iterable[str], beside: Iterable[str] = ()) -> None:
        """`beside`: what is sent together with a secret, in one piece of Base64 (an account's name)."""
        beside = tuple(beside)
        self._pieces: set[str] = set()
        self._whole = {secret.strip() for secret in secrets} - {""}
        self._whole |= {host for host in map(_host, self._whole) if host}
        for secret in self._whole:
            for value in (secret, *_encoded(secret, beside)):
                self._pieces |= _pieces(value)

    def clean(self, text: str) -> str:
        """The text, up to the colon before which it is clean, if a piece of a secret is in it."""
        if not self._finds(text):
            return text
        head = text.partition(": ")[0]
        return LEFT_OUT if self._finds(head) else f"{head}: {LEFT_OUT}"

    def _finds(self, text: str) -> bool:
        bare = _bare(text)
        return any(piece in bare for piece in self._pieces) or any(secret in text for secret in self._whole)


def _encoded(secret: str, beside: Iterable[str]) -> Iterable[str]:
    for account in ("", *(f"{name}:" for name in beside)):
        yield base64.b64encode(f"{account}{secret}".encode()).decode()


def _host(value: str) -> str:
    """Of a secret that is an address; everybody knows Slack's."""
    try:
        host = urlsplit(value).hostname or "" if "://" in value else ""
    except ValueError:
        return ""
    return "" if host == "hooks.slack.com" else host


def _pieces(value: str) -> set[str]:
    try:
        parts = urlsplit(value)
        told = _bare(parts.scheme) + (_bare("hooks.slack.com/services/") if parts.hostname == "hooks.slack.com" else "")
    except ValueError:
        told = ""
    bare = _bare(value)
    bare = bare.removeprefix(told) if "://" in value else bare
    return {bare[n : n + PIECE] for n in range(max(1, len(bare) - PIECE + 1))} - {""}


def _bare(text: str) -> str:
    """Letters and digits: escapes, quotes and percent signs between them hide nothing."""
    return _STRUCTURE.sub("", text.lower())
