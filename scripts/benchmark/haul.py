"""Moves one large body through a proxy: `python -m scripts.benchmark.haul PORT down|up BYTES`.

Prints the seconds that it took.
"""

from __future__ import annotations

import socket
import sys
from time import perf_counter

from scripts.benchmark import traffic
from scripts.benchmark.flood import content_length, read_head, receive_body, send_body

PATIENCE_S = 120.0


def head(way: str, size: int) -> bytes:
    """A request for, or with, a body."""
    method, length = ("GET", "") if way == "down" else ("PUT", f"Content-Length: {size}\r\n")
    return f"{method} /{size} HTTP/1.1\r\nHost: {traffic.STREAM_HOST}\r\n{length}\r\n".encode()


def take_answer(sock: socket.socket) -> tuple[int, int, bytes]:
    """(bytes announced, bytes that came, how the body began). Raises ConnectionError unless it is a whole 200."""
    message = read_head(sock)
    if message is None or b" 200 " not in message[0].split(b"\r\n")[0] + b" ":
        raise ConnectionError(f"no 200 but {message and message[0][:200]!r}")
    size = content_length(message[0])
    got = receive_body(sock, size, len(message[1]))
    if got != size:
        raise ConnectionError(f"{got} bytes of {size}, then the end")
    return size, got, message[1]


def main() -> None:
    """Move it."""
    port, way, size = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock:
        began = perf_counter()
        sock.sendall(head(way, size))
        if way == "up":
            send_body(sock, size)
        announced, _, _ = take_answer(sock)
        seconds = perf_counter() - began
    if way == "down" and announced != size:
        sys.exit(f"asked for {size} bytes, got {announced}")
    sys.stdout.write(f"{seconds}")


if __name__ == "__main__":
    main()
