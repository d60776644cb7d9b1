"""What users of this host may ask for: to have their programs as instances, to speak for them, and to take them out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from agent.control.admin.door import Answer, Door, may_not_be, peer_of, read_json, refusal
from agent.control.host.here import Here
from agent.control.host.rights import Right
from agent.control.instances.registrar import Registrar
from agent.control.instances.registration import Identity, NotYours, Registered, Taken, TooMany
from agent.control.workers.fleet import Fleet
from agent.identity.users import User
from policies.language.duration import seconds
from policies.language.names import parse_service
from policies.language.plain import Flaw


class InstancesApi:
    """The handlers."""

    def __init__(
        self, here: Here, registrar: Registrar, fleet: Fleet, others_run: Callable[[int], Awaitable[None]]
    ) -> None:
        """`others_run` waits until the other agents of the mesh run a revision."""
        self._listeners = here.listeners
        self._rights = here.rights
        self._spread_s = max(1.0, seconds(here.settings.spread_timeout))
        self._registrar = registrar
        self._fleet = fleet
        self._others_run = others_run

    def doors(self) -> list[Door]:
        """For the agent's socket. SERVE is judged by the service in the path; in `register` by the body's."""
        one = "/instances/{service}/{id}"
        return [
            Door("POST", "/instances", self.register, Right.SERVE),
            Door("DELETE", one, self._about_one(self.deregister), Right.SERVE),
            Door("PUT", f"{one}/health", self._about_one(self.hear), Right.SERVE),
            Door("POST", f"{one}/token", self._about_one(self.token), Right.SERVE),
        ]

    async def register(self, request: Request) -> Response:
        """Register an instance of this host; the body is one of agent.toml's [[instances]] as JSON."""
        peer = _known(request)
        try:
            body = await read_json(request)
            if not isinstance(body, dict):
                raise Flaw("$", 'an object such as {"service": "pets.production", "port": 8080}')
            if isinstance(service := body.get("service"), str) and (no := may_not_be(self._rights, peer, service)):
                return no
            registered = self._registrar.register(body, peer, operates=self._rights.may_operate(peer))
            await self._registrar.admitted(registered)
        except Flaw as fault:
            return refusal(_status(fault), f"{fault.path}: {fault.reason}", fault.path)
        return Answer(await self._answer(registered))

    async def _answer(self, registered: Registered) -> dict[str, object]:
        told: dict[str, object] = {"service": registered.service, "id": registered.id}
        if registered.replaced:
            told["replaced"] = list(registered.replaced)
        if registered.token:
            told |= await self._credentials(registered.service, registered.token)
        return told

    async def _credentials(self, service: str, token: str) -> dict[str, str]:
        """A token, and the proxy URL with it, once every worker knows it: whoever has it may use it at once."""
        await self._fleet.ask_each("ping")
        return {"token": token, "proxy": self._listeners.proxy_url(service, token)}

    def _about_one(
        self, handler: Callable[[Request, Identity], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """For an instance that is here, and that is the user's own, or that agent.toml declares."""

        async def about(request: Request) -> Response:
            peer = _known(request)
            service, id = parse_service(request.path_params["service"]), request.path_params["id"]
            identity = self._registrar.published.local(service, id)
            local = self._registrar.local.get(identity)
            if local is None:
                return refusal(404, f"no instance {'/'.join(identity)} was registered with this agent")
            if not self._may_have(request.method, identity, peer):
                return refusal(403, f"{'/'.join(identity)} is not {peer}'s")
            return await handler(request, identity)

        return about

    def _may_have(self, method: str, identity: Identity, peer: User) -> bool:
        if self._rights.may_operate(peer) or self._registrar.is_of(identity, peer):
            return True
        declared = self._registrar.local[identity].source != "admin"
        return declared and method != "DELETE"  # it speaks for itself, and calls; agent.toml says whether it is there

    async def deregister(self, _: Request, identity: Identity) -> Response:
        """Take an instance out, in order."""
        revision = await self._registrar.deregister(identity, self._others_run, self._spread_s)
        return Answer({"service": identity[0], "id": identity[1], "revision": revision})

    async def token(self, _: Request, identity: Identity) -> Response:
        """Another token for an instance: for one that agent.toml declares, or in place of one that was lost."""
        return Answer(await self._credentials(identity[0], self._registrar.new_token(identity)))

    async def hear(self, request: Request, identity: Identity) -> Response:
        """An instance's own word: {"healthy": true, "reason": "…"}."""
        try:
            body = await read_json(request)
        except Flaw as fault:
            return refusal(400, fault.reason, fault.path)
        if not isinstance(body, dict) or not isinstance(body.get("healthy"), bool):
            return refusal(400, 'an object such as {"healthy": true, "reason": "warm"}', "$.healthy")
        self._registrar.hear(*identity, body["healthy"], str(body.get("reason") or "its own word"))
        return Answer({"healthy": body["healthy"]})


def _known(request: Request) -> User:
    peer = peer_of(request)
    assert peer is not None, "these doors are on the socket only"
    return peer


def _status(fault: Flaw) -> int:
    if isinstance(fault, NotYours):
        return 403
    if isinstance(fault, TooMany):
        return 429
    return 409 if isinstance(fault, Taken) else 400
