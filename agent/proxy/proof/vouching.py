# mypyc: compiled
"""Whose address a request's client has, as far as the mesh vouches for it.

Laws
- Of an agent's request it is what that agent says (`x-shoal-client`); one that says nothing does not know, or is of a
  version before. From everybody else that word is taken out before anybody looks.
- Of anybody else's request it is the address that connected. Where that is a proxy that the settings name, it is what
  this one has seen: the last place of X-Forwarded-For; and so on, from the right, as long as each is such a proxy.
  What a client wrote there itself stands further left, and is not looked at.
- A proxy that says what is no address vouches for nobody.
- A program of this host is at the host's registered address: loopback is every host's.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from agent.proxy.messages.head import FORWARDED_FOR, SHOAL_CLIENT, RequestHead
from agent.proxy.peer import Peer
from agent.trust import Agents, is_loopback
from policies.language.addresses import Ranges, parsed


class Vouching:
    """Of one worker."""

    __slots__ = ("_agents", "_proxies")

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._proxies = Ranges()

    def believe(self, ranges: Iterable[str]) -> None:
        """The proxies, anew. Raises ValueError for what is no range."""
        self._proxies = Ranges(ranges)

    def client_of(self, peer: Peer, request: RequestHead) -> str:
        """An address in its one spelling; empty: nobody vouches for one."""
        if peer.agent:
            said = request.special_value(SHOAL_CLIENT)
            return _spelled(said.decode("latin-1")) if said else ""
        address = peer.address
        if not self._proxies.empty and self._proxies.has(address):
            address = self._behind(address, request)
        return self.own_of(address)

    def own_of(self, address: str) -> str:
        """Of who connects from an address."""
        return self._agents.own or address if is_loopback(address) else address

    def _behind(self, address: str, request: RequestHead) -> str:
        way: list[str] = []
        for field in request.special:
            if field.code == FORWARDED_FOR:
                way += field.value.decode("latin-1").split(",")
        while way and self._proxies.has(address):
            address = _spelled(way.pop().strip())
        return address


@lru_cache(maxsize=4096)
def _spelled(text: str) -> str:
    found = parsed(text)
    return "" if found is None else str(found)
