"""What users of this host may ask for: to have their programs as instances, to speak for them, and to take them out.

Laws
- Who may be a service registers instances of it; one that is there is whose that registered it, or of who operates. For
  one that agent.toml declares, whoever may be its service speaks, and makes tokens, and does not take it out.
- A word of an instance is heard however long its reason is: one that is refused would count as silence.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from agent.control.admin.door import may_not_be, peer_of
from agent.control.admin.v1 import types
from agent.control.admin.v1.operation import Asked, NoQuery, Operation, Trouble
from agent.control.host.rights import Right
from agent.control.instances.registration import Identity, NotYours, Registration, Taken, TooMany
from agent.control.parts import Parts
from agent.identity.users import User
from policies.language.duration import seconds
from policies.language.names import parse_service
from policies.language.plain import Flaw

MOST_REASON: Final = 1024
"""Characters of an instance's word that are kept."""
ONE: Final = "/instances/{service}/{id}"


class LeaveQuery(types.Query, frozen=True, kw_only=True):
    """How an instance goes."""

    died: Annotated[
        str,
        Meta(
            description="How its program has ended by itself, such as `its program was killed by signal 9 (SIGKILL)`: "
            "it is unhealthy, and `instance.gone` is not orderly, for that reason. Empty: it leaves in order"
        ),
    ] = ""


class Credentials(types.Base, frozen=True, kw_only=True):
    """With which an instance calls in its own name."""

    token: str
    proxy: Annotated[str, Meta(description="URL of the outbound listener, with the token")]


class InstanceRegistered(types.Base, frozen=True, kw_only=True, omit_defaults=True):
    """What came of a registration."""

    service: str
    id: str
    replaced: Annotated[
        list[str], Meta(description="Instances of other services that stood at its address and port, and are taken out")
    ] = msgspec.field(default_factory=list)
    token: Annotated[str, Meta(description="Shown this once; not there: the instance has one already")] = ""
    proxy: Annotated[str, Meta(description="URL of the outbound listener, with the token")] = ""


class InstanceLeaves(types.Base, frozen=True, kw_only=True):
    """One that is on its way out."""

    service: str
    id: str
    revision: Annotated[int | None, Meta(description="Of that word in etcd; null: etcd did not take it in time")]


class OwnWord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of an instance, how it is."""

    healthy: bool
    reason: Annotated[str | None, Meta(description="For people; of a long one the beginning is kept")] = None


class Heard(types.Base, frozen=True, kw_only=True):
    """That it was heard."""

    healthy: bool


class Registering:
    """The handlers."""

    def __init__(self, parts: Parts) -> None:
        self._rights = parts.here.rights
        self._listeners = parts.here.listeners
        self._spread_s = max(1.0, seconds(parts.settings.spread_timeout))
        self._registrar = parts.registrar
        self._fleet = parts.fleet
        self._others_run = parts.others_run

    def operations(self) -> list[Operation]:
        """For users of the host. Who may be the service in the path is judged before; in `register` by the body's."""
        serve = Right.SERVE
        taken = (409, "Another has its id, or its address and port")
        many = (429, "This user has registered as many as the settings let him")
        return [
            Operation(
                "POST",
                "/instances",
                "registerInstance",
                "Have a program of this host as an instance of a service",
                NoQuery,
                InstanceRegistered,
                self._register,
                takes=Registration,
                right=serve,
                refuses=(taken, many),
            ),
            Operation(
                "DELETE",
                ONE,
                "deregisterInstance",
                "Take an instance of this host out, in order, or because its program has died",
                LeaveQuery,
                InstanceLeaves,
                self._about_one(self._deregister, takes_out=True),
                right=serve,
            ),
            Operation(
                "PUT",
                f"{ONE}/health",
                "putHealth",
                "An instance's own word on how it is, for checks of the kind ttl",
                NoQuery,
                Heard,
                self._about_one(self._hear),
                takes=OwnWord,
                right=serve,
            ),
            Operation(
                "POST",
                f"{ONE}/token",
                "makeToken",
                "Another token for an instance; the one before is good for ten minutes more",
                NoQuery,
                Credentials,
                self._about_one(self._token),
                right=serve,
            ),
        ]

    async def _register(self, asked: Asked) -> InstanceRegistered:
        wanted, peer = asked.body, _known(asked)
        if no := may_not_be(self._rights, peer, wanted.service):
            raise Trouble(*no, "$.service")
        try:
            registered = self._registrar.register(wanted, peer, operates=self._rights.may_operate(peer))
            await self._registrar.admitted(registered)
        except Flaw as flaw:
            raise Trouble(_status(flaw), flaw.reason, flaw.path) from None
        told = InstanceRegistered(
            service=registered.service, id=registered.id, replaced=list(registered.replaced), token=registered.token
        )
        if not registered.token:
            return told
        made = await self._credentials(registered.service, registered.token)
        return msgspec.structs.replace(told, proxy=made.proxy)

    async def _credentials(self, service: str, token: str) -> Credentials:
        """A token, and the proxy URL with it, once every worker knows it: whoever has it may use it at once."""
        await self._fleet.ask_each("ping")
        return Credentials(token=token, proxy=self._listeners.proxy_url(service, token))

    def _about_one(
        self, handle: Callable[[Asked, Identity], Awaitable[msgspec.Struct]], *, takes_out: bool = False
    ) -> Callable[[Asked], Awaitable[msgspec.Struct]]:
        """For an instance that is here, and that is the user's own, or that agent.toml declares."""

        async def about(asked: Asked) -> msgspec.Struct:
            peer = _known(asked)
            identity = self._registrar.published.local(parse_service(asked.path["service"]), asked.path["id"])
            if identity not in self._registrar.local:
                raise Trouble(404, f"no instance {'/'.join(identity)} was registered with this agent")
            if not self._may_have(identity, peer, takes_out):
                raise Trouble(403, f"{'/'.join(identity)} is not {peer}'s")
            return await handle(asked, identity)

        return about

    def _may_have(self, identity: Identity, peer: User, takes_out: bool) -> bool:
        if self._rights.may_operate(peer) or self._registrar.is_of(identity, peer):
            return True
        declared = self._registrar.local[identity].source != "admin"
        return declared and not takes_out  # it speaks for itself, and calls; agent.toml says whether it is there

    async def _deregister(self, asked: Asked, identity: Identity) -> InstanceLeaves:
        died = asked.query.died[:MOST_REASON]
        revision = await self._registrar.deregister(identity, self._others_run, self._spread_s, died)
        return InstanceLeaves(service=identity[0], id=identity[1], revision=revision)

    async def _token(self, _: Asked, identity: Identity) -> Credentials:
        return await self._credentials(identity[0], self._registrar.new_token(identity))

    async def _hear(self, asked: Asked, identity: Identity) -> Heard:
        word: OwnWord = asked.body
        self._registrar.hear(*identity, word.healthy, (word.reason or "its own word")[:MOST_REASON])
        return Heard(healthy=word.healthy)


def _known(asked: Asked) -> User:
    peer = peer_of(asked.request) if asked.request is not None else None
    assert peer is not None, "the doors of these are on the socket only"
    return peer


def _status(flaw: Flaw) -> int:
    if isinstance(flaw, NotYours):
        return 403
    if isinstance(flaw, TooMany):
        return 429
    return 409 if isinstance(flaw, Taken) else 400
