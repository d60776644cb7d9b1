# mypyc: interpreted, because a handshake asks it, and no request
"""What is revoked: a certificate, a key, all that a host or a service has had.

Laws
- It only grows: merging is a union in which the longer and the later win, so agents that heard different things in any
  order end up with the same. An entry goes by itself when the last certificate that it concerns has ended (`until`).
- Of a host or a service is revoked what begins before `before`; who signs anew begins there (`floor_s`).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Final, NamedTuple, TypeAlias

import msgspec

from agent.identity.spiffe import agent_id, person_id
from policies.language.document import why_not
from policies.language.names import parse_service

MAX_ENTRIES: Final = 10_000
Moment: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]
_NEVER: Final = datetime.fromtimestamp(0, UTC)


class Revoked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One entry: exactly one of serial, key, host, service and person."""

    until: Moment
    serial: str = ""
    """Hex, without leading zeros."""
    key: str = ""
    """SHA-256 of the public key, hex."""
    host: str = ""
    service: str = ""
    person: str = ""
    before: Moment = _NEVER
    """Of a host, a service or a person: certificates that begin earlier."""
    reason: str = ""
    by: str = ""
    """Who says so, for people: nobody has proven it."""
    at: Moment = _NEVER
    """When that was said."""

    @property
    def since(self) -> Moment | None:
        """When it was revoked; None: nobody knows."""
        return max(self.at, self.before) if max(self.at, self.before) != _NEVER else None

    def __str__(self) -> str:
        sort, value = self.subject
        since = f" since {self.since.isoformat().replace('+00:00', 'Z')}" if self.since is not None else ""
        by = f", by {self.by}" if self.by else ""
        return f"{sort} {value} is revoked{since}{by}" + (f" ({self.reason})" if self.reason else "")

    @property
    def subject(self) -> tuple[str, str]:
        """What is revoked: of which sort, and which."""
        sorts = ("serial", "key", "host", "service", "person")
        return next(((sort, value) for sort in sorts if (value := str(getattr(self, sort)))), ("", ""))


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    revoked: list[Revoked] = []


class Shown(NamedTuple):
    """What revocations are asked about: a certificate, as far as it matters to them."""

    serial: int
    key: str
    host: str
    service: str
    begins_s: float
    person: str = ""


class Revocations:
    """All that is revoked, as far as one agent has heard."""

    def __init__(self, entries: Iterable[Revoked] = ()) -> None:
        self._entries: dict[tuple[str, str], Revoked] = {}
        for entry in entries:
            held = self._entries.get(entry.subject)
            self._entries[entry.subject] = entry if held is None else _both(held, entry)

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Revocations) and self._entries == other._entries

    def __hash__(self) -> int:
        return hash(frozenset(self._entries))

    @property
    def hosts(self) -> frozenset[str]:
        """Those of whom everything is revoked that they had."""
        return frozenset(value for sort, value in self._entries if sort == "host")

    def of(self, sort: str, value: str) -> Revoked | None:
        """What is revoked of one host, service, person, key or serial number; None: nothing is."""
        return self._entries.get((sort, value))

    def standing(self, now_s: float) -> list[Revoked]:
        """What is not over, in one order."""
        ordered = (self._entries[subject] for subject in sorted(self._entries))
        return [entry for entry in ordered if entry.until.timestamp() > now_s]

    def merged(self, other: Revocations, now_s: float) -> Revocations:
        """What either has, without what is over."""
        both = (*self._entries.values(), *other._entries.values())
        return Revocations(entry for entry in Revocations(both)._entries.values() if entry.until.timestamp() > now_s)

    def find(self, shown: Shown) -> str:
        """Why a certificate is revoked, in words; empty: it is not."""
        subjects = (
            ("serial", f"{shown.serial:x}"),
            ("key", shown.key),
            ("host", shown.host),
            ("service", shown.service),
            ("person", shown.person),
        )
        for sort, value in subjects:
            entry = self._entries.get((sort, value)) if value else None
            if entry is not None and (sort in ("serial", "key") or shown.begins_s < entry.before.timestamp()):
                return f"revoked: {sort} {value}" + (f" ({entry.reason})" if entry.reason else "")
        return ""

    def floor_s(self, host: str, service: str, person: str = "") -> float:
        """When a new certificate for a host and a service, or for a person, begins at the earliest."""
        subjects = (("host", host), ("service", service), ("person", person))
        entries = (self._entries.get(subject) for subject in subjects)
        return max((entry.before.timestamp() for entry in entries if entry is not None), default=0.0)

    def document(self) -> bytes:
        """As text, in one order."""
        ordered = [self._entries[subject] for subject in sorted(self._entries)]
        return msgspec.json.format(msgspec.json.encode(_Document(ordered)), indent=2)


def parse_revocations(text: bytes) -> Revocations:
    """What stands under `identity/revocations`. Raises ValueError that says what is wrong, and where."""
    try:
        document = msgspec.json.decode(text, type=_Document)
    except msgspec.MsgspecError as error:
        raise ValueError(str(why_not(error, text, _Document))) from None
    if len(document.revoked) > MAX_ENTRIES:
        raise ValueError(f"$.revoked: {len(document.revoked)} entries; at most {MAX_ENTRIES}")
    for index, entry in enumerate(document.revoked):
        try:
            _check(entry)
        except ValueError as error:
            raise ValueError(f"$.revoked[{index}]: {error}") from None
    return Revocations(document.revoked)


def _check(entry: Revoked) -> None:
    named = [value for value in (entry.serial, entry.key, entry.host, entry.service, entry.person) if value]
    if len(named) != 1:
        raise ValueError("names exactly one of serial, key, host, service, person")
    if entry.serial and f"{int(entry.serial, 16):x}" != entry.serial:
        raise ValueError(f"serial: {entry.serial[:60]!r}; hex in lower case, without leading zeros")
    if entry.key and (len(entry.key) != 64 or set(entry.key) - set("0123456789abcdef")):
        raise ValueError("key: the SHA-256 of a public key, 64 digits of hex in lower case")
    if entry.host:
        agent_id("any", entry.host)
    if entry.service and parse_service(entry.service) != entry.service:
        raise ValueError(f"service: spelled {parse_service(entry.service)!r}")
    if entry.person:
        person_id("any", entry.person)
    if (entry.host or entry.service or entry.person) and entry.before == _NEVER:
        raise ValueError("before: needed for a host, a service or a person; what begins earlier is revoked")


def _both(one: Revoked, other: Revoked) -> Revoked:
    """Two entries about the same: the longer, the later, and what was said last of those that give a reason."""
    told = max((one, other), key=lambda each: (bool(each.reason), each.at, each.reason, each.by))
    return msgspec.structs.replace(
        one,
        until=max(one.until, other.until),
        before=max(one.before, other.before),
        reason=told.reason,
        by=told.by,
        at=told.at,
    )
