"""The listening sockets: made by control, inherited by workers, handed over a re-execution.

One for each worker and listener, with SO_REUSEPORT, so that the kernel spreads connections over workers; control keeps
a copy of each, so that what waits in the queue of a worker that died is served by its successor. A socket comes from
the process before (SIGHUP), from systemd (socket activation, one for all workers), or is made here.

Laws
- An address is had by listening on it, and by nothing else: a name beside it could be taken first by any local user.
  The first socket is bound without SO_REUSEPORT, so that it fails where anybody listens, and joins in afterwards;
  two agents of one user would else share a port, each with half of the connections.
- Workers that a crashed agent left are no obstacle: they serve until their successors do.
- A re-execution claims nothing: all that it needs was had before, and is handed over.

What systemd passes stays systemd's: it has no SO_REUSEPORT, by which it is told from ours. A sibling of it would die
with the agent, and whoever waited in the sibling's queue with it; and where it listens is said in its unit, not in
`agent.toml`.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from agent.control.host.port_holders import holders
from agent.settings.address import Address
from agent.settings.file import SettingsError
from registry.etcd.keeper import Kept

BACKLOG: Final = 4096
HANDOVER: Final = "SHOAL_HANDOVER"
TOLD: Final = -1


class OldWorker(msgspec.Struct, frozen=True):
    """A worker that still serves for the process before."""

    pid: int
    fd: int
    """Control's end of its socket pair; TOLD by a version that hears nothing more of those it told to drain."""
    rest: int = -1
    """A file in memory with what was half read and not written yet (`agent.control.workers.previous`); -1: nothing."""
    until: float = 0.0
    """When it has to have ended, on the monotonic clock; 0 before it is told to drain."""


class Handover(msgspec.Struct, frozen=True):
    """What a process leaves to its successor."""

    outbound: tuple[int, ...] = ()
    inbound: tuple[int, ...] = ()
    admin: tuple[int, ...] = ()
    metrics: tuple[int, ...] = ()
    people: tuple[int, ...] = ()
    local: int | None = None
    """The agent's own socket."""
    callers: dict[str, int] = {}
    """What callers have of their own, by where it is."""
    workers: tuple[OldWorker, ...] = ()
    lease: int = 0
    boot: str = ""
    lock: int = -1
    """That of the state directory, which is never let go of in between; -1: there is none."""
    counts: int = -1
    """The memory that the workers count together in; -1: there is none."""
    counters: int = -1
    """A file in memory with what control itself had counted; -1: nothing."""
    retired: int = -1
    """A file in memory with what workers have counted (`agent.control.workers.ledger`); -1: nothing."""
    identity: int = -1
    """A file in memory with certificates and keys that are on no disk; -1: nothing."""
    keeper: Kept = Kept()
    """Who renews the lease until the successor does."""
    figures: int = -1
    """A file in memory with the windows of figures (`agent.control.figures.sampler`); -1: nothing."""


def received(environment: Mapping[str, str]) -> Handover:
    """What the process before left, or what systemd passed; nothing otherwise.

    Raises SettingsError for a socket of which nobody could say what it is for.
    """
    text = environment.get(HANDOVER)
    if text:
        return msgspec.json.decode(text, type=Handover)
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return Handover()
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    count = int(environment.get("LISTEN_FDS", "0"))
    found: dict[str, tuple[int, ...]] = {"outbound": (), "inbound": (), "admin": ()}
    for number, name in itertools.zip_longest(range(3, 3 + count), names[:count], fillvalue=""):
        listener = name.rpartition("-")[2]
        if listener not in found:
            raise SettingsError(
                f"systemd passes a socket named {name!r}; FileDescriptorName= has to be outbound, inbound or admin"
            )
        found[listener] = (*found[listener], int(number))
    if len(found["admin"]) > 1:
        raise SettingsError("systemd passes several sockets named 'admin'; the admin API has one")
    return Handover(outbound=found["outbound"], inbound=found["inbound"], admin=found["admin"])


def listening(address: Address, inherited: Sequence[int], count: int, *, moved: bool = False) -> list[socket.socket]:
    """The sockets of a listener for `count` workers, inherited ones first; `share` deals them out. Raises OSError.

    More than `count` when more were inherited: in the queue of each there may be a client. `moved`: the address may
    have changed since (SIGHUP), and what listens elsewhere is closed. What systemd passes is right by definition.
    """
    sockets = [socket.socket(fileno=fd) for fd in inherited]
    if moved:
        for elsewhere in [sock for sock in sockets if is_ours(sock) and not _listens(sock, address)]:
            sockets.remove(elsewhere)
            elsewhere.close()
    else:
        _take_over(sockets)
    if not sockets:
        sockets.append(_claimed(address))
    while all(map(is_ours, sockets)) and len(sockets) < count:
        sockets.append(_made(Address(*sockets[0].getsockname()[:2]), shared=True))
    for sock in sockets:
        sock.setblocking(False)
        sock.set_inheritable(False)  # else every SIGHUP would leave another copy open
    return sockets


def is_ours(sock: socket.socket) -> bool:
    """Whether it was made here, or in the process before, and ends with the agent."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def _take_over(passed: Sequence[socket.socket]) -> None:
    """Marks what systemd passed. Raises OSError for a unit with ListenDatagram=, a path, or Accept=yes."""
    for sock in passed:
        tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
        if not tcp or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            for each in passed:
                each.close()
            wrong = "systemd passes a socket that does not listen for TCP; see ListenStream= and Accept="
            raise OSError(errno.EINVAL, wrong)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _listens(sock: socket.socket, address: Address) -> bool:
    host, port = sock.getsockname()[:2]
    return ipaddress.ip_address(host) == ipaddress.ip_address(address.host) and address.port in (0, port)


def share(sockets: Sequence[socket.socket], index: int, count: int) -> list[socket.socket]:
    """Those that the worker `index` of `count` serves: every socket is somebody's, and everybody has one."""
    return list(sockets[index::count]) or [sockets[index % len(sockets)]]


def kept(listeners: Sequence[tuple[Address, Sequence[socket.socket]]]) -> list[tuple[int, ...]]:
    """What to hand over so that a successor listens at these addresses: copies of the sockets that do so already, and,
    where none does, one that was just made. Raises OSError when an address cannot be had: it is time to stay as one is.
    """
    found: list[list[socket.socket]] = []
    try:
        for address, sockets in listeners:
            stay = [sock for sock in sockets if not is_ours(sock) or _listens(sock, address)]
            found.append([sock.dup() for sock in stay] or [_claimed(address, moving=True)])
    except OSError:
        for sock in itertools.chain(*found):
            sock.close()
        raise
    for sock in itertools.chain(*found):
        sock.set_inheritable(True)
    return [tuple(sock.detach() for sock in sockets) for sockets in found]


def check_free(address: Address) -> None:
    """Raises OSError where `listening` would."""
    _claimed(address).close()


def _claimed(address: Address, *, moving: bool = False) -> socket.socket:
    """The first socket of an address. `moving`: our own sockets may be in the way, and are about to be closed."""
    try:
        return _made(address, shared=False)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        others = [it for it in holders(address) if not (it.worker or (moving and it.pid == os.getpid()))]
        if others:
            raise OSError(error.errno, f"{error.strerror} ({', '.join(map(str, others))})") from None
        return _made(address, shared=True)


def _made(address: Address, *, shared: bool) -> socket.socket:
    """One that listens. Not `shared`: nobody else does."""
    sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from None
    return sock


def is_taken(address: Address) -> bool:
    """Whether somebody listens there already without sharing: told by trying to bind without SO_REUSEPORT."""
    with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
        except OSError:
            return True
    return False
