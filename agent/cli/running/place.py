"""Where a program of `shoal run` is to listen, and what is to be said of where it does.

Laws
- In the agent's own network it is loopback: other hosts reach it through the mesh, and not around it. In another one (a
  container's) the agent could not reach it there, so it is the agent's own address, as it was always.
- What `--address` says is so.
- A program that does otherwise is served all the same: one that listens elsewhere only is registered there.
- What is not known (an agent of a version before, a kernel that does not say) changes nothing.
"""

from __future__ import annotations

import ipaddress
import random
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import msgspec

from agent.cli.agent_client import API, Admin
from agent.cli.failure import Failure
from agent.process.listening import Listener, at, network

LOOPBACK: Final = "127.0.0.1"
_TRIES: Final = 1000


class Network(msgspec.Struct, frozen=True):
    """What the agent says of its own."""

    network: int = 0
    """As `agent.process.listening.network`."""
    guarded: list[tuple[int, int]] = []
    """Ranges of ports that nobody but the agent reaches."""


class Place(msgspec.Struct, frozen=True):
    """One program's."""

    address: str
    """That it is registered with; empty: the agent's own."""
    host: str
    """That it is told to listen at."""
    port: int
    here: bool
    """Whether it is in the agent's network, and listens nowhere by order of `--address`."""
    guarded: bool = False
    """Whether nobody but the agent reaches its port, wherever it listens."""


def choose(admin: Admin, address: str, port: int) -> Place:
    """`address` and `port` as they were given; empty and 0: ours to choose."""
    told = _told(admin)
    here = bool(told.network) and told.network == network()
    chosen = address or (LOOPBACK if here else "")
    port = port or free_port(chosen or LOOPBACK, told.guarded if here else ())
    host = chosen if chosen and _is_here(chosen) else "0.0.0.0"  # noqa: S104 - else the agent would not reach it
    guarded = here and any(low <= port <= high for low, high in told.guarded)
    return Place(chosen, host, port, here and not address, guarded)


def elsewhere(place: Place, listening: Iterable[Listener]) -> str:
    """The address that a program listens at in place of the one that we chose; empty: there, or nowhere yet."""
    found = at(place.port, listening)
    if not place.here or not found or any(one.reached_at(ipaddress.ip_address(place.address)) for one in found):
        return ""
    return str(next((one.address for one in found if not one.address.is_unspecified), ipaddress.IPv6Address("::1")))


def exposed(place: Place, listening: Iterable[Listener]) -> str:
    """What is to be said of a program that other hosts reach around the mesh; empty: nothing."""
    if not place.here or place.guarded:
        return ""
    found = next((one for one in at(place.port, listening) if one.by_strangers), None)
    if found is None:
        return ""
    where = "every address" if found.address.is_unspecified else str(found.address)
    return (
        f"it listens on {where} (port {place.port}), so other hosts reach it around the mesh and its policies: have it "
        f"listen on $HOST, which is {place.host} ({{host}} in its words), or guard its port (`shoal guard`)"
    )


def free_port(address: str, within: Iterable[tuple[int, int]] = ()) -> int:
    """A port that nobody listens on now, of some ranges where there are any. Another program might take it before ours
    does; then ours says so. Raises Failure."""
    ranges = list(within)
    if not ranges:
        return _bound(address, 0)
    ports = [port for low, high in ranges for port in range(low, high + 1)]
    for port in random.sample(ports, min(_TRIES, len(ports))):
        with suppress(OSError):
            return _bound(address, port)
    told = ", ".join(f"{low}-{high}" for low, high in ranges)
    raise Failure(f"no port is free among those that [guard] of agent.toml names ({told}); name more, or take --port")


def _bound(address: str, port: int) -> int:
    """Raises OSError where it is taken."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if port:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))
        return int(probe.getsockname()[1])


def _told(admin: Admin) -> Network:
    if not admin.place.startswith("/"):
        return Network()  # not by a socket of this machine: its network's number is another machine's
    try:
        return msgspec.convert(admin.get(f"{API}/network"), Network)
    except (Failure, msgspec.ValidationError):
        return Network()  # what is wrong with the agent is said where it is asked to register


def _is_here(address: str) -> bool:
    try:
        _bound(address, 0)
    except OSError:
        return False
    return True
