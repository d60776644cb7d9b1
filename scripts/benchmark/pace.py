"""A constant-rate load generator: `python -m scripts.benchmark.pace PORT RATE SECONDS CONNECTIONS`.

Requests fall due at fixed instants, whatever happened to those before (an open loop). Each takes the connection that
has been idle longest; when none is idle it waits its turn, and that wait counts: latency runs from the instant that
a request was due. A proxy that stalls for 100 ms therefore shows in every request that was due in those 100 ms, which a
closed loop hides ("coordinated omission").

wrk has no rate, and hey and h2load count from the instant of sending; hence this. Raw sockets in one epoll, requests
made beforehand, so that one core paces some 15,000 requests a second; its own floor is quoted as "no proxy".
"""

from __future__ import annotations

import ctypes
import gc
import select
import socket
import sys
from collections import Counter, deque
from time import perf_counter

import msgspec

from scripts.benchmark import traffic
from scripts.benchmark.load import Paced

PATIENCE_S = 10.0
PR_SET_TIMERSLACK = 29
OK = b"HTTP/1.1 200"


class Connection:
    """One keep-alive connection, with at most one request on it."""

    __slots__ = ("due", "received", "sock")

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.due = 0.0
        self.received = b""

    def answered(self) -> bool | None:
        """Take what came: True when the answer is whole and right, False when it is wrong, None when more must come."""
        data = self.sock.recv(65536)
        if self.received:
            data = self.received + data
        if data.endswith(traffic.BODY):
            self.received = b""
            return data.startswith(OK)
        self.received = data
        return None if data.startswith(OK[: len(data)]) and data else False


class Pace:
    """The run: what is due, what is idle, what was measured."""

    def __init__(self, port: int, rate: float, seconds: float, connections: int) -> None:
        self.interval_s = 1 / rate
        self.total = int(rate * seconds)
        self.texts = list(traffic.requests())
        self.epoll = select.epoll()
        self.connections = {}
        for _ in range(connections):
            connection = Connection(port)
            self.connections[connection.sock.fileno()] = connection
            self.epoll.register(connection.sock.fileno(), select.EPOLLIN)
        self.idle = deque(self.connections.values())
        self.sent = 0
        self.answered = 0
        self.failed = 0
        self.latencies_us: Counter[int] = Counter()
        self.late_us: Counter[int] = Counter()

    def run(self) -> Paced:
        """All requests, and their answers."""
        start = perf_counter() + 0.05
        end = start + self.total * self.interval_s + PATIENCE_S
        while self.answered + self.failed < self.total:
            now = perf_counter()
            if now > end:
                self.failed = self.total - self.answered
                break
            self._send_due(start, now)
            self._wait(start)
        return Paced(self.total, self.failed, perf_counter() - start, dict(self.latencies_us), dict(self.late_us))

    def _send_due(self, start: float, now: float) -> None:
        while self.sent < self.total and self.idle and (due := start + self.sent * self.interval_s) <= now:
            connection = self.idle.popleft()
            connection.due = due
            connection.sock.send(self.texts[self.sent % len(self.texts)])
            self.late_us[round((now - due) * 1e6)] += 1
            self.sent += 1

    def _wait(self, start: float) -> None:
        wait_s = 0.5
        if self.sent < self.total and self.idle:
            wait_s = max(0.0, start + self.sent * self.interval_s - perf_counter())
        # epoll's own timeout is in whole milliseconds; select's is in microseconds.
        select.select((self.epoll,), (), (), wait_s)
        for fd, _ in self.epoll.poll(0):
            self._take(self.connections[fd])

    def _take(self, connection: Connection) -> None:
        right = connection.answered()
        if right is None:
            return
        if not right:
            self.failed = self.total - self.answered  # a wrong answer ends the run: nothing after it is comparable
            return
        self.answered += 1
        self.latencies_us[round((perf_counter() - connection.due) * 1e6)] += 1
        self.idle.append(connection)


def main() -> None:
    """Pace, and print what was seen as JSON."""
    port, rate, seconds, connections = sys.argv[1:5]
    gc.disable()
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0)  # wake up within 1 us of what was asked, not 50
    seen = Pace(int(port), float(rate), float(seconds), int(connections)).run()
    sys.stdout.write(msgspec.json.encode(seen).decode())


if __name__ == "__main__":
    main()
