# mypyc: compiled
"""Who is at the other end of a client's connection: a value, made once for each by whoever accepts it.

What is proven of a client belongs here: with certificates, `peer_at` is told what the handshake has shown, and nobody
who asks a Peer need know.
"""

from __future__ import annotations

from typing import Final

from agent.identity.verdict import Identity
from agent.proxy.messages import words
from agent.proxy.messages.head import RequestHead
from agent.proxy.messages.outgoing import trail
from agent.trust import Agents

_THIS_HOST: Final = frozenset({"127.0.0.1", "::1"})
"""Where its programs connect from, if they do not choose another address."""


class Peer:
    """One client."""

    __slots__ = ("_agents", "_hidden", "_trail", "address", "identity")

    def __init__(self, address: str, agents: Agents | None) -> None:
        self.address = address
        self.identity: Identity | None = None
        """Whom its certificate proves it to be; None: it has shown none."""
        self._agents = agents
        self._trail: bytes | None = None
        self._hidden = False

    @property
    def agent(self) -> bool:
        """Whether it is another host's agent, as far as is known now."""
        return self._agents is not None and self._agents.from_agent(self.address)

    @property
    def outsider(self) -> bool:
        """Whether it is neither another host's agent nor of this host."""
        return self.address not in _THIS_HOST and not self.agent

    @property
    def client(self) -> str:
        """The address of whoever the request is of; empty where an agent hands it on, which says whose it is."""
        return "" if self.agent else self.address

    @property
    def sender(self) -> int:
        """Who it is for what its requests may say (`agent.proxy.messages.words`)."""
        if self._agents is None:
            loopback = self.address.startswith("127.") or self.address == "::1"
            return words.LOCAL if loopback else words.CLIENT
        return words.AGENT if self.agent else words.STRANGER

    def trail(self, request: RequestHead) -> bytes:
        """Via and X-Forwarded lines for the next hop; the same for all HTTP/1.1 requests that come without their own.
        An agent is no link of the chain that services see; whoever else comes to its door is."""
        hidden = self.agent
        if request.has_trail or request.http10:
            return trail(request, self.address, inbound=hidden)
        if self._trail is None or hidden != self._hidden:
            self._trail = trail(None, self.address, inbound=hidden)
            self._hidden = hidden
        return self._trail


def peer_at(address: str, agents: Agents | None) -> Peer:
    """Who connects from an address; `agents`: who is one, None at a listener where nobody is.

    An IPv4 client of an IPv6 socket (`::ffff:10.0.0.5`) has the IPv4 address that it has.
    """
    mapped = address.startswith("::ffff:") and "." in address
    return Peer(address[7:] if mapped else address, agents)
