# mypyc: compiled
"""Hosts outside the mesh, each as a service of one plan: its addresses are endpoints, and what is learnt of them
(connections, who refused) is kept as for any.

Laws
- Nothing here is of the mesh: no policy but `egress`, no try after an answer, no limit to how long one takes.
- An address that hands out the machine's credentials is reached by its own name in an `egress` document, and never
  by a host's name that leads there. This agent is never reached.
- Bounded: so many hosts, so many addresses of each; who is forgotten is looked up again.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import msgspec

from agent.proxy.messages import flags
from agent.proxy.messages.answers import Refusal
from agent.proxy.report.news import News
from agent.proxy.table.plan import Plan
from agent.proxy.table.service import Service
from policies.endpoint import Endpoint, Load
from policies.kinds.egress.decide import destination, hands_out_credentials
from policies.kinds.retry import decide as retry
from policies.kinds.timeout.decide import Timeouts

RESOLVE_S: Final = 5.0
FRESH_S: Final = 30.0
"""How long addresses are used before they are looked up again."""
MOST_HOSTS: Final = 512
MOST_ADDRESSES: Final = 4
TIMEOUTS: Final = Timeouts(connect_s=5.0, request_s=0.0)
"""The program has limits of its own for what it calls."""
RETRY: Final = msgspec.structs.replace(retry.compile(None), statuses=frozenset(), watched=frozenset())


class Known:
    """A host that was looked up."""

    __slots__ = ("addresses", "service", "until")

    def __init__(self, addresses: list[str], service: Service, until: float) -> None:
        self.addresses = addresses
        self.service = service
        self.until = until


class Foreign:
    """Of one worker."""

    __slots__ = ("_known", "_news", "own_ports", "resolve")

    def __init__(self, news: News, resolve: Callable[[str, int, Callable[[list[str], str], None]], None]) -> None:
        self._news = news
        self._known: dict[tuple[str, int], Known] = {}
        self.resolve = resolve
        """Looks a name up, and calls back with addresses, or none and why."""
        self.own_ports: set[int] = set()
        """Where this agent listens."""

    def find(self, host: bytes, named: bool, now: float) -> Service | Refusal | None:
        """A host that is known; None: it has to be looked up. `named`: a document allows just this one."""
        try:
            place = destination(host.decode("latin-1"))
        except ValueError as error:
            return Refusal(400, "egress", str(error), unsent=True)
        if not named and hands_out_credentials(place[0]):
            return _metadata(place[0])
        known = self._known.get(place)
        return known.service if known is not None and now < known.until else None

    def ask(self, host: bytes, named: bool, now: float, done: Callable[[Service | Refusal], None]) -> None:
        """Look one up that `find` has nothing to say of."""
        name, port = destination(host.decode("latin-1"))
        _Asked(self, name, port, named, now, done).begin()

    def learn(self, name: str, port: int, addresses: list[str], now: float) -> Service:
        """What a host's addresses are now."""
        place = (name, port)
        known = self._known.pop(place, None)
        if known is None or known.addresses != addresses:
            service = known.service if known is not None else Service(_shown(name, port), self._news)
            _adopt(service, addresses, port)
            known = Known(addresses, service, 0.0)
        known.until = now + FRESH_S
        self._known[place] = known
        if len(self._known) > MOST_HOSTS:
            del self._known[next(iter(self._known))]
        return known.service


class _Asked:
    """A host that is being looked up, for one request."""

    __slots__ = ("_done", "_foreign", "_name", "_named", "_now", "_port")

    def __init__(
        self,
        foreign: Foreign,
        name: str,
        port: int,
        named: bool,
        now: float,
        done: Callable[[Service | Refusal], None],
    ) -> None:
        self._foreign = foreign
        self._name = name
        self._port = port
        self._named = named
        self._now = now
        self._done = done

    def begin(self) -> None:
        self._foreign.resolve(self._name, self._port, self.on_addresses)

    def on_addresses(self, addresses: list[str], why: str) -> None:
        name, port = self._name, self._port
        shown = _shown(name, port)
        if not addresses:
            reason = f"no service {name!r} in this mesh, and outside of it no address of {name} is known: {why}"
            self._done(Refusal(404, "egress", reason, unsent=True, flag=flags.CLIENT_NO_SERVICE))
            return
        for address in addresses:
            if hands_out_credentials(address) and not (self._named and address == name):
                self._done(_metadata(shown))
                return
            if port in self._foreign.own_ports and is_ours(address):
                self._done(Refusal(508, "egress", f"{shown} is this agent itself", unsent=True, flag=flags.AGENT_LOOP))
                return
        self._done(self._foreign.learn(name, port, addresses[:MOST_ADDRESSES], self._now))


def _metadata(shown: str) -> Refusal:
    reason = f"{shown} leads to a link-local or metadata address; an egress policy may allow it by that very address"
    return Refusal(403, "egress", reason, unsent=True)


def _shown(name: str, port: int) -> str:
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def is_ours(address: str) -> bool:
    """Whether an address is one of this host's: one that a socket can be bound to."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    probe = socket.socket(family, socket.SOCK_DGRAM)
    try:
        probe.bind((address, 0))
    except OSError:
        return False
    finally:
        probe.close()
    return True


def _adopt(service: Service, addresses: list[str], port: int) -> None:
    """A plan over these addresses."""
    members: dict[str, Endpoint] = {}
    for address in addresses:
        load = service.loads.get(address)
        if load is None:
            load = service.loads[address] = Load(-float("inf"))
        members[address] = Endpoint(service.name, address, address, port, dial=(address, port), load=load)
    plan = Plan(service, 0, tuple(members.values()), {}, host="", zone="", share=1.0)
    plan.timeouts = plan.longest = TIMEOUTS
    plan.retry = RETRY
    plan.paths = ()  # its paths are its own
    service.adopt(plan, members, True, 1.0, 1)
