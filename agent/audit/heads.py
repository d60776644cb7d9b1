"""Heads: the last record of a log, signed by its agent and countersigned by another one.

A chain shows what is missing in it, and not what is missing at its end, nor that it was written anew from some record
on. A head says which record was the last at some time. One that another host has countersigned, and keeps, cannot be
taken back by whoever rules this one.

Law: what is signed says what it is for, so that a signature of one purpose is none of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec

MAX_HEAD_BYTES: Final = 4096


class Head(msgspec.Struct, frozen=True):
    """Of one log, at one time."""

    mesh: str
    host: str
    n: int
    hash: str
    at: float
    """Seconds of the epoch, by the clock of its host."""


class Witness(msgspec.Struct, frozen=True):
    """Another agent that has seen it."""

    host: str
    at: float
    signature: str = ""
    """Hex; empty: nothing can be proven there."""
    certificate: str = ""
    """SHA-256 (hex) of the certificate that it is by."""


class Kept(msgspec.Struct, frozen=True):
    """A head as it is kept, by its own host and by whoever has countersigned it."""

    head: Head
    signature: str = ""
    """Hex, of its own agent; empty: nothing can be proven there."""
    certificate: str = ""
    witnesses: tuple[Witness, ...] = ()


class Doubt(NamedTuple):
    """Why a signature is not believed."""

    reason: str
    forged: bool
    """Else nobody can say: what it is by is not known, or leads to no root any more."""


Check = Callable[[str, str, bytes, str, float], Doubt | None]
"""Host, certificate (SHA-256), what is signed, signature, time: why that is not believed; None: it is."""


def signed_by_owner(head: Head) -> bytes:
    """What the agent whose log it is signs."""
    return b"shoal audit head 1\n" + msgspec.json.encode(head)


def signed_by_witness(head: Head, host: str, at: float) -> bytes:
    """What another one signs."""
    return b"shoal audit witness 1\n" + msgspec.json.encode([head, host, at])


def judged(kept: Kept, check: Check) -> Kept | str:
    """A head with those of its signatures that are believed; or what of it was forged."""
    head = kept.head
    if kept.signature:
        doubt = check(head.host, kept.certificate, signed_by_owner(head), kept.signature, head.at)
        if doubt is not None and doubt.forged:
            return f"its signature: {doubt.reason}"
        if doubt is not None:
            kept = msgspec.structs.replace(kept, signature="")
    witnesses = []
    for each in kept.witnesses:
        said = signed_by_witness(head, each.host, each.at)
        doubt = check(each.host, each.certificate, said, each.signature, each.at) if each.signature else None
        if doubt is not None and doubt.forged:
            return f"the countersignature of {each.host}: {doubt.reason}"
        witnesses += [each] if doubt is None else []
    return msgspec.structs.replace(kept, witnesses=tuple(witnesses))


def line(kept: Kept) -> bytes:
    """As it stands in a file."""
    return msgspec.json.encode(kept) + b"\n"


def parsed(lines: Iterable[bytes]) -> list[Kept]:
    """Those of a file; what makes no sense in it is passed over, since a head that is not there proves nothing."""
    found = []
    for text in lines:
        try:
            found.append(msgspec.json.decode(text[:MAX_HEAD_BYTES], type=Kept))
        except (msgspec.DecodeError, ValueError):
            continue
    return found


def refusal(head: Head, known: Kept | None) -> str:
    """Why a head is not countersigned, by the last of that host that was; empty: it is. A log only grows."""
    if head.n < 1 or len(head.hash) != 64:
        return "it is no head"
    if known is None:
        return ""
    if head.n < known.head.n:
        return f"it ends with record {head.n}, and record {known.head.n} was countersigned here: its end was cut off"
    if head.n == known.head.n and head.hash != known.head.hash:
        return f"record {head.n} is another one than was countersigned here: it was written anew"
    return ""
