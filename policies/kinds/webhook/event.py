"""What can happen in a mesh: the table of event types, and one event.

Laws
- An event is about a condition (this instance is unhealthy, that service is down), named by its `key`. What opens a
  condition and what closes it have the same key, so whoever opened an issue for it finds it again.
- `id` is the same however often an event is delivered: receivers drop what they have seen.
- The table is open: another type is another row. A type of a newer agent, not in the table, tells and opens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final, TypeAlias

import msgspec

PREFIX: Final = "io.shoal."
"""Of the full name of a type; documents leave it out."""

Value: TypeAlias = str | int | float | bool | None


class Effect(Enum):
    """What an event does to its condition."""

    OPENS = "opens"
    CLOSES = "closes"
    """Nothing but the recovery: of no interest when nobody heard of what it ends."""
    ENDS = "ends"
    """News by itself, which closes the condition too."""
    TELLS = "tells"


class Type(msgspec.Struct, frozen=True):
    """One type of event."""

    name: str
    effect: Effect
    subject: str
    """The form of its subject; also its key, behind the mesh's name."""
    title: str
    """One line for people, with the parts of the subject filled in."""
    meaning: str
    data: tuple[str, ...] = ()
    """Fields beside those that every event may have."""


COMMON: Final = ("before", "after", "reason", "agent")

_INSTANCE: Final = "instances/{service}/{instance}"
_SERVICE: Final = "services/{service}"
_POLICY: Final = "{room}/{kind}/{pattern}"
"""Under `policies/`, or only watched, under `audits/`."""
_AGENT: Final = "agents/{host}"
_ETCD: Final = "etcd/{host}"
_BREAKER: Final = "breakers/{service}/{instance}/{host}"
_IDENTITY: Final = "identities/{service}/{host}"
_ISSUERS: Final = "issuers/{host}"
_SHED: Final = "shedding/{service}/{host}"

TYPES: Final = (
    Type(
        "instance.registered",
        Effect.TELLS,
        _INSTANCE,
        "{service}: instance {instance} is registered",
        "a key under instances/ appeared",
        ("address", "port", "version", "zone"),
    ),
    Type(
        "instance.unhealthy",
        Effect.OPENS,
        _INSTANCE,
        "{service}: instance {instance} is unhealthy",
        "the agent beside it found it failing",
        ("version", "zone"),
    ),
    Type(
        "instance.healthy",
        Effect.CLOSES,
        _INSTANCE,
        "{service}: instance {instance} is healthy",
        "it passes its checks, for the first time or again",
        ("version", "zone"),
    ),
    Type(
        "instance.gone",
        Effect.ENDS,
        _INSTANCE,
        "{service}: instance {instance} is gone",
        "its key was deleted (orderly) or its lease ran out, and it does not answer",
        ("orderly", "version", "zone"),
    ),
    Type(
        "service.down",
        Effect.OPENS,
        _SERVICE,
        "{service} is down",
        "no instance of it is healthy any more",
        ("instances",),
    ),
    Type(
        "service.recovered",
        Effect.CLOSES,
        _SERVICE,
        "{service} has recovered",
        "it has a healthy instance again",
        ("instances",),
    ),
    Type(
        "policy.refused",
        Effect.OPENS,
        _POLICY,
        "policy {kind}/{pattern} is refused",
        "a bad document was put, and the last good one stays in force, or watched",
        ("path", "revision"),
    ),
    Type(
        "policy.held",
        Effect.OPENS,
        _POLICY,
        "policy {kind}/{pattern} is held, against what etcd says",
        "another etcd, or one that lost most policies at once, is not believed about it",
        ("revision",),
    ),
    Type(
        "policy.changed",
        Effect.ENDS,
        _POLICY,
        "policy {kind}/{pattern} has changed",
        "a good document was put, or one was deleted",
        ("revision",),
    ),
    Type("agent.lost", Effect.OPENS, _AGENT, "agent {host} is lost", "its lease ran out without a word of stopping"),
    Type("agent.joined", Effect.ENDS, _AGENT, "agent {host} has joined", "a key under agents/ appeared", ("version",)),
    Type(
        "etcd.unreachable",
        Effect.OPENS,
        _ETCD,
        "etcd cannot be reached from {host}",
        "an agent serves its last table",
    ),
    Type("etcd.back", Effect.CLOSES, _ETCD, "etcd is back for {host}", "the agent watches again"),
    Type(
        "breaker.opened",
        Effect.OPENS,
        _BREAKER,
        "{service}: {host} sends nothing to {instance}, its breaker is open",
        "a caller's agent found an instance failing",
    ),
    Type(
        "breaker.closed",
        Effect.CLOSES,
        _BREAKER,
        "{service}: {host} sends to {instance} again, its breaker is closed",
        "the instance answered well again",
    ),
    Type(
        "shed.started",
        Effect.OPENS,
        _SHED,
        "{service}: {host} is shedding load",
        "requests are refused because there are too many",
    ),
    Type("shed.ended", Effect.CLOSES, _SHED, "{service}: {host} sheds no more load", "requests are no longer refused"),
    Type(
        "identity.missing",
        Effect.OPENS,
        _IDENTITY,
        "{service}: {host} cannot prove that it is that, or soon not any more",
        "no grant lets a host hold a certificate, nobody signs it, or what it holds ends soon",
    ),
    Type(
        "identity.held",
        Effect.CLOSES,
        _IDENTITY,
        "{service}: {host} can prove that it is that",
        "the host holds a certificate, or wants none any more",
    ),
    Type(
        "issuer.failing",
        Effect.OPENS,
        _ISSUERS,
        "{host} cannot get the keys of an issuer of tokens",
        "for five minutes what an issuer publishes could not be fetched; what is known goes on counting",
    ),
    Type(
        "issuer.ending",
        Effect.TELLS,
        _ISSUERS,
        "{host} believes the keys of an issuer of tokens for a short while yet",
        "they could not be fetched anew for three quarters of max_age; after it tokens are answered with 503",
    ),
    Type("issuer.back", Effect.CLOSES, _ISSUERS, "{host} gets the keys of all issuers", "each could be fetched again"),
    Type(
        "join.refused",
        Effect.TELLS,
        "joins/{host}",
        "{host} has refused to let a host join the mesh",
        "a token was not known, had ended, or was redeemed before",
    ),
    Type(
        "scale.advised",
        Effect.TELLS,
        "scaling/{service}",
        "{service}: there should be another number of instances",
        "a `scale` policy advises more instances, or fewer (`before`, `after`)",
        ("instances", "panic"),
    ),
    Type(
        "hook.digest",
        Effect.TELLS,
        "digests/{event}",
        "more happened than may be told one by one",
        "stands for the events beyond a webhook's max_per_hour; sent to every webhook that reached it",
        ("count", "since", "types", "subjects"),
    ),
)
BY_NAME: Final = {kind.name: kind for kind in TYPES}
HEALTH: Final = ("instance.unhealthy", "instance.healthy", "service.down", "service.recovered")
FIRST_VERDICT: Final = "not checked"
"""What an instance was `before` its first verdict."""


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One event; JSON at rest."""

    id: str
    type: str
    """In full: io.shoal.instance.unhealthy."""
    subject: str
    time: str
    """RFC 3339."""
    mesh: str
    key: str
    service: str = ""
    data: dict[str, Value] = msgspec.field(default_factory=dict)
    link: str = ""

    @property
    def name(self) -> str:
        """The type as documents write it."""
        return self.type.removeprefix(PREFIX)

    @property
    def effect(self) -> Effect:
        """What it does to its condition."""
        known = BY_NAME.get(self.name)
        return known.effect if known is not None else Effect.TELLS

    @property
    def title(self) -> str:
        """One line for people."""
        known = BY_NAME.get(self.name)
        parts = _parts(known.subject, self.subject) if known is not None else None
        if known is None or parts is None:
            return f"{self.subject}: {self.name}"
        return known.title.format_map(parts) + " (audit)" * (parts.get("room") == "audits")

    @property
    def reason(self) -> str:
        """Why, if it was said."""
        return str(self.data.get("reason") or "")


def selected(patterns: Iterable[str]) -> frozenset[str]:
    """The names of the types that patterns such as `instance.*` stand for; what stands for none is passed over."""
    return frozenset(name for pattern in patterns for name in _matching(pattern.removeprefix(PREFIX)))


def _matching(pattern: str) -> Iterable[str]:
    if pattern.endswith("*"):
        return [kind.name for kind in TYPES if kind.name.startswith(pattern[:-1]) and kind.name != "hook.digest"]
    return [pattern] if pattern in BY_NAME and pattern != "hook.digest" else []


def closing(names: Iterable[str]) -> frozenset[str]:
    """The names of the types that close or end what types of these names open."""
    opened = {BY_NAME[name].subject for name in names if BY_NAME[name].effect is Effect.OPENS}
    return frozenset(k.name for k in TYPES if k.effect in (Effect.CLOSES, Effect.ENDS) and k.subject in opened)


_PART: Final = re.compile(r"\{([a-z]+)\}")


def parts_of(form: str) -> tuple[str, ...]:
    """The names in the form of a subject."""
    return tuple(_PART.findall(form))


def _parts(form: str, subject: str) -> dict[str, str] | None:
    names, found = form.split("/"), subject.split("/")
    if len(names) != len(found):
        return None
    return {name[1:-1]: part for name, part in zip(names, found, strict=True) if name[0] == "{"}


def sample(name: str = "instance.unhealthy", text: str = "") -> Event:
    """An event of a type as it might be, to try things on; `text` ends every text that a program or person wrote."""
    kind = BY_NAME[name]
    example = {"instance": "web-1-8080", "host": "web-1", "kind": "retry", "room": "policies"}
    parts = {part: example.get(part, "pets.production") for part in parts_of(kind.subject)}
    data: dict[str, Value] = {field: f"{field}{text}" for field in (*COMMON, *kind.data)}
    subject = kind.subject.format_map(parts)
    return Event(
        id="cdf818194e3a8c32-1042-0",
        type=PREFIX + name,
        subject=subject,
        time="2026-01-02T03:04:05Z",
        mesh="default",
        key=f"default/{subject}",
        service=parts.get("service", ""),
        data=data,
        link="http://127.0.0.1:15000/",
    )
