"""A source and a sink of large bodies: `python -m scripts.benchmark.flood PORT`.

`GET /N` gets N bytes; `PUT` takes a body of any size and says how many bytes came. Nothing is kept: one buffer of a
mebibyte goes out again and again, another is overwritten by what comes in. A thread a connection: only for a few.
"""

from __future__ import annotations

import socket
import sys
from threading import Thread

CHUNK_BYTES = 1024 * 1024
_OUT = memoryview(bytes(CHUNK_BYTES))


def read_head(sock: socket.socket) -> tuple[bytes, bytes] | None:
    """(a message's head, what of its body came with it); None at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            return None
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def content_length(head: bytes) -> int:
    """The length that a head announces, in bytes; 0 when it names none."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def send_body(sock: socket.socket, size: int) -> None:
    """So many bytes."""
    for _ in range(size // CHUNK_BYTES):
        sock.sendall(_OUT)
    sock.sendall(_OUT[: size % CHUNK_BYTES])


def receive_body(sock: socket.socket, size: int, already: int) -> int:
    """Take the rest of a body. Returns how many bytes came in all: fewer than `size` when it broke off."""
    buffer = bytearray(CHUNK_BYTES)
    got = already
    while got < size:
        count = sock.recv_into(buffer, min(CHUNK_BYTES, size - got))
        if not count:
            break
        got += count
    return got


def serve(sock: socket.socket) -> None:
    """Answer requests until the other side has enough."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with sock:
        while (message := read_head(sock)) is not None:
            head, rest = message
            method, target, _ = head.split(b" ", 2)
            if method == b"GET":
                size = int(target.rpartition(b"/")[2])
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                send_body(sock, size)
            else:
                text = b"%d" % receive_body(sock, content_length(head), len(rest))
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))


def main() -> None:
    """Serve until ended."""
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        while True:
            sock, _ = listener.accept()
            Thread(target=serve, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    main()
