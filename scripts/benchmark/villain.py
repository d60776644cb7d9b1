"""Services that behave badly: `python -m scripts.benchmark.villain HANGS CLOSES FLOODS LIES`, with four ports.

Shadows are sent to them. One accepts and never says a word, one closes at once, one answers without end as fast as it
can, one says what is not HTTP. A thread a connection.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from threading import Thread
from time import sleep
from typing import Final

NAMES: Final = ("hangs", "closes", "floods", "lies")
_FLOOD: Final = b"10000\r\n" + bytes(0x10000) + b"\r\n"


def hangs(sock: socket.socket) -> None:
    """Never a word."""
    while sock.recv(65536):
        pass


def closes(sock: socket.socket) -> None:
    """At once."""


def floods(sock: socket.socket) -> None:
    """Without end, to every connection."""
    if sock.recv(65536):
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            sock.sendall(_FLOOD)


def lies(sock: socket.socket) -> None:
    """Two lengths, neither of which is true."""
    while sock.recv(65536):
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 9000000000\r\n\r\nhi")


def _one(behave: Callable[[socket.socket], None], sock: socket.socket) -> None:
    with sock:
        try:
            behave(sock)
        except OSError:
            pass  # the other side has enough


def _serve(port: int, behave: Callable[[socket.socket], None]) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        while True:
            sock, _ = listener.accept()
            Thread(target=_one, args=(behave, sock), daemon=True).start()


def main() -> None:
    """Serve until ended."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # as if it had a host, and a CPU, of its own
    for port, behave in zip(sys.argv[1:], (hangs, closes, floods, lies), strict=True):
        Thread(target=_serve, args=(int(port), behave), daemon=True).start()
    while True:
        sleep(60)


if __name__ == "__main__":
    main()
