# mypyc: compiled
"""Who is at the other end of a client's connection: a value, made once for each by whoever accepts it.

Law: where a client has proven who it is, or the kernel has said it, that is all that counts; its address says nothing
any more.
"""

from __future__ import annotations

from typing import Final

from agent.identity.verdict import Identity
from agent.proxy.messages import words
from agent.proxy.messages.head import RequestHead
from agent.proxy.messages.outgoing import trail
from agent.proxy.proof.local_user import LocalUser
from agent.trust import Agents
from policies.stranger import Stranger

_THIS_HOST: Final = frozenset({"127.0.0.1", "::1"})
"""Where its programs connect from, if they do not choose another address."""


_SPIFFE: Final = b"spiffe://"


class Proof:
    """What a handshake has shown of a client."""

    __slots__ = ("called", "foreign", "identity", "ours")

    def __init__(self, identity: Identity, called: str, *, ours: bool, foreign: bool = False) -> None:
        self.identity = identity
        self.called = called
        self.ours = ours
        self.foreign = foreign


class Peer:
    """One client."""

    __slots__ = (
        "_agents",
        "_hidden",
        "_host",
        "_trail",
        "address",
        "called",
        "caller",
        "foreign",
        "identity",
        "local",
        "ours",
        "proven",
    )

    def __init__(
        self, address: str, agents: Agents | None, proof: Proof | None = None, local: LocalUser | None = None
    ) -> None:
        self.address = address
        self.local = local
        """Whose it is, where the kernel has said that."""
        self.identity = proof.identity if proof is not None else None
        """Who it is, where it has proven that."""
        self.proven = str(proof.identity.id) if proof is not None else ""
        """As a SPIFFE id; empty: nobody."""
        self.called = proof.called if proof is not None else ""
        """Which service it has called in doing so; empty: the agent itself, or there was no proof."""
        self.ours = proof is not None and proof.ours
        """Whether it is a service or an agent of our own trust domain."""
        self.foreign = proof is not None and proof.foreign
        """Whether it is somebody of another one. A person of ours is neither."""
        self.caller = proof.identity.id.service if proof is not None and proof.ours else ""
        """The service of ours that it has proven to be, or that its user is; empty: another, or nobody known."""
        if local is not None:
            self.caller = local.service
        self._agents = agents
        self._host = ""
        self._trail: bytes | None = None
        self._hidden = False

    @property
    def agent(self) -> bool:
        """Whether it is another host's agent, as far as is known now. Keys of services are with agents."""
        if self.identity is not None:
            return self.ours
        return self._agents is not None and self._agents.from_agent(self.address)

    @property
    def host(self) -> str:
        """The host whose agent it is; empty where it is none, or nobody knows whose. What was found once stays."""
        if not self._host and self._agents is not None and self.agent:
            identity = self.identity
            self._host = (identity.id.host if identity is not None else "") or self._agents.host_at(self.address)
        return self._host

    @property
    def known(self) -> bool:
        """Whether it is settled who it is, whatever its requests say."""
        return self.identity is not None or self.local is not None

    def hands_on(self, said: bytes) -> Stranger | None:
        """Whose request of another trust domain an agent hands on, where it says so; its own host has let him in. None:
        nobody's. A plain-text agent has proven no host, and nothing is exported by way of that."""
        if not said.startswith(_SPIFFE):
            return None
        identity = self.identity
        return Stranger(said.decode("ascii", "replace"), identity.id.host if identity is not None else "")

    @property
    def joins(self) -> bool:
        """Whether it has nothing to show, and wants to: it may ask for that, and nothing else."""
        identity = self.identity
        return identity is not None and not identity.id.path

    @property
    def person(self) -> str:
        """The person that it has proven to be; empty: it is none. To services a person is nobody."""
        identity = self.identity
        return identity.id.person if identity is not None else ""

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


def peer_at(address: str, agents: Agents | None, proof: Proof | None = None) -> Peer:
    """Who connects from an address; `agents`: who is one, None at a listener where nobody is; `proof`: of a handshake.

    An IPv4 client of an IPv6 socket (`::ffff:10.0.0.5`) has the IPv4 address that it has.
    """
    mapped = address.startswith("::ffff:") and "." in address
    return Peer(address[7:] if mapped else address, agents, proof)
