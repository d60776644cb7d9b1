"""Hosts of their own for a test: network namespaces that it makes, with addresses that only they know.

The thread that asks for them moves into a namespace, and whatever it starts there starts in it: that is the first host.
Others hang on it by a cable each. Everything is gone with the block.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

CLONE_NEWNET = 0x40000000
needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="network namespaces need root and iproute2"
)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


class Hosts:
    """`first` is where the test is; `others` are the names of the namespaces, by address."""

    def __init__(self) -> None:
        self.others: dict[str, str] = {}

    def add(self, number: int) -> tuple[str, str]:
        """Another host; the first one's address towards it, and its own."""
        name = f"shoal-{secrets.token_hex(4)}"
        ours, theirs = f"10.77.{number}.1", f"10.77.{number}.2"
        _ip("netns", "add", name)
        self.others[theirs] = name
        _ip("link", "add", f"to{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("address", "add", f"{ours}/24", "dev", f"to{number}")
        _ip("link", "set", f"to{number}", "up")
        for words in (f"address add {theirs}/24 dev eth0", "link set eth0 up", "link set lo up"):
            _ip("-n", name, *words.split())
        _ip("-n", name, "route", "add", "default", "via", ours)
        return ours, theirs

    def on(self, address: str) -> list[str]:
        """What to put before a command that is to run there."""
        return ["ip", "netns", "exec", self.others[address]]


@contextmanager
def hosts() -> Iterator[Hosts]:
    """The first host, and room for others."""
    libc = ctypes.CDLL(None, use_errno=True)
    made = Hosts()
    before = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET):
            pytest.skip(f"no network namespaces here: {os.strerror(ctypes.get_errno())}")
        _ip("link", "set", "lo", "up")
        yield made
    finally:
        for name in made.others.values():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=20)
        libc.setns(before, CLONE_NEWNET)
        os.close(before)


@contextmanager
def relay(address: str, target: tuple[str, int]) -> Iterator[int]:
    """A port on an address that leads to another, as a load balancer before etcd does. Returns it."""
    with socket.create_server((address, 0)) as server:
        threading.Thread(target=_accept, args=(server, target), daemon=True).start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)  # wakes who accepts


def _accept(server: socket.socket, target: tuple[str, int]) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(client, target), daemon=True).start()


def _serve(client: socket.socket, target: tuple[str, int]) -> None:
    try:
        with client, socket.create_connection(target) as there:
            back = threading.Thread(target=_copy, args=(there, client), daemon=True)
            back.start()
            _copy(client, there)
            back.join()
    except OSError:
        pass  # one of them is gone, and so is the other


def _copy(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)  # both are gone already, perhaps
