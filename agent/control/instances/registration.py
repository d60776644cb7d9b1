"""An instance of this host as it was registered: what may be said of it, whose it is, and what is kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

import msgspec

from agent.identity.users import ROOT, User
from agent.settings.document import InstanceSettings
from policies.kinds.health.document import HealthPolicy
from policies.kinds.webhook.event import FIRST_VERDICT
from policies.language.duration import Duration
from policies.language.names import parse_service
from policies.language.plain import Flaw
from registry.keys import check_id
from registry.records import Instance

Identity = tuple[str, str]
"""Service and id."""
UNCHECKED: Final = "not checked yet"
"""The reason of a newcomer's health."""
Added: TypeAlias = tuple[Identity, list[Identity]]
"""An instance, and those that had to go for it."""


class Registration(InstanceSettings, frozen=True, kw_only=True):
    """The body of a registration: an instance as in agent.toml."""

    token: str = ""
    """Said by who registers again: the one that it was given, in case that it was forgotten here."""
    renew_within: Duration | None = None
    """It ends when it is not registered again within; None: it stays until it is taken out."""


class Registered(NamedTuple):
    """What came of a registration."""

    service: str
    id: str
    token: str
    """Shown this once; empty when the instance has one already."""
    replaced: tuple[str, ...] = ()
    """Instances of other services that stood at its address and port, and were taken out: service/id."""


class NotYours(Flaw):
    """It is another user's."""


class Taken(Flaw):
    """Another has its id, or another service stands at its address and port."""


class TooMany(Flaw):
    """A user registers more than the settings allow."""


class Local(msgspec.Struct):
    """An instance of this host."""

    record: Instance
    own_check: HealthPolicy | None
    source: str
    """`agent.toml`, or `admin`: those are kept on disk."""
    uid: int = ROOT
    """Whose it is."""
    anywhere: bool = False
    """Whether it may be on another host."""


def identity_of(wanted: InstanceSettings, host: str) -> Identity:
    """Service and id, where the settings or a registration may leave the id to us. Raises Flaw."""
    service = _told("$.service", parse_service, wanted.service)
    return service, _told("$.id", check_id, wanted.id or f"{host}-{wanted.port}")


def owner_of(local: Local) -> str:
    """Who registered it, for people."""
    return "agent.toml" if local.source != "admin" else str(User(local.uid))


def _told(path: str, ask: Callable[[str], str], text: str) -> str:
    try:
        return ask(text)
    except ValueError as error:
        raise Flaw(path, str(error)) from None


def state_before(told: tuple[bool, str] | None, healthy: bool) -> str:
    """What an instance was before it changed sides, as events say it; `told`: its health until now, and why."""
    if told is not None and told[1] == UNCHECKED:
        return FIRST_VERDICT
    return "unhealthy" if healthy else "healthy"
