"""A chain of small services in one process, A → B → C, on real sockets, and callers who come whether or not there is
room.

C has hands, and a queue before them; B calls it several times for a request, one call behind the other, and answers 503
when one of them is refused; /home needs no call of C.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import trio

from tests.support.mesh import AgentProcess

Handler = Callable[[str], Awaitable[int]]
CALLS = 5
"""Of C, for a request."""
HANDS = 4
WORK_S = 0.1


class Calls:
    """Who calls, through an agent; keeps connections."""

    def __init__(self, agent: AgentProcess, proxy: str) -> None:
        user = urlsplit(proxy)
        credentials = base64.b64encode(f"{user.username}:{user.password}".encode()).decode()
        self._fields = f"Proxy-Authorization: Basic {credentials}\r\n"
        self._agent = agent
        self._free: list[trio.SocketStream] = []

    async def get(self, service: str, path: str = "/") -> int:
        """Status of the answer; 0: there was none."""
        head = f"GET http://{service}{path} HTTP/1.1\r\nHost: {service}\r\n{self._fields}\r\n"
        whole = False
        stream = (
            self._free.pop() if self._free else await trio.open_tcp_stream(self._agent.address, self._agent.outbound)
        )
        try:
            await stream.send_all(head.encode())
            answer = await read(stream)
            whole = answer[:8] == b"HTTP/1.1" and b"connection: close" not in answer.lower()
            return int(answer[9:12] or 0)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return 0
        finally:
            if whole:
                self._free.append(stream)
            else:
                await trio.aclose_forcefully(stream)

    async def close(self) -> None:
        """What is kept."""
        for stream in self._free:
            await stream.aclose()


async def read(stream: trio.SocketStream) -> bytes:
    """A message, with its body; empty at the end."""
    heard = b""
    while True:
        head, found, body = heard.partition(b"\r\n\r\n")
        if found:
            fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
            if len(body) >= int(fields.get(b"content-length", 0)):
                return heard
        more = await stream.receive_some(65536)
        if not more:
            return b""
        heard += more


async def serve(nursery: trio.Nursery, handler: Handler) -> int:
    """A service; its port."""

    async def answer(stream: trio.SocketStream) -> None:
        try:
            while head := await read(stream):
                path = head.split(b" ", 2)[1].decode()
                status = 200 if path == "/health" else await handler(path)
                await stream.send_all(b"HTTP/1.1 %d .\r\nContent-Length: 2\r\n\r\nok" % status)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, answer, listeners)
    return int(listeners[0].socket.getsockname()[1])


class ChainOfServices:
    """The three of them, each at an agent of its own."""

    def __init__(self, agents: list[AgentProcess]) -> None:
        self._agents = agents
        self._rng = random.Random(1)
        self._hands = trio.Semaphore(HANDS)
        self._a: Calls
        self._b: Calls
        self.came = {"/orders": 0, "/home": 0}
        self.good = {"/orders": 0, "/home": 0}
        self.worked = 0
        """Calls that C answered."""
        self.waiting = 0
        self.longest = 0

    async def start(self, nursery: trio.Nursery) -> None:
        """Until all of them are known to all agents."""
        a, b, c = [
            await self._register(nursery, name, agent, handler)
            for (name, handler), agent in zip(
                (("a", self._in_a), ("b", self._in_b), ("c", self._in_c)), self._agents, strict=True
            )
        ]
        self._a, self._b = Calls(self._agents[0], a["proxy"]), Calls(self._agents[1], b["proxy"])
        for agent in self._agents:
            for name, found in (("a", a), ("b", b), ("c", c)):
                while not await trio.to_thread.run_sync(self._known, agent, f"{name}.production", found["port"]):
                    await trio.sleep(0.05)

    async def close(self) -> None:
        """The connections of callers."""
        await self._a.close()
        await self._b.close()

    async def _register(
        self, nursery: trio.Nursery, name: str, agent: AgentProcess, handler: Handler
    ) -> dict[str, Any]:
        port = await serve(nursery, handler)
        health = {"http": {"path": "/health"}, "interval": "500ms", "fall": 20}
        registered = await trio.to_thread.run_sync(lambda: agent.register(f"{name}.production", port, health=health))
        return {"proxy": registered["proxy"], "port": port}

    def _known(self, agent: AgentProcess, service: str, port: int) -> bool:
        found = agent.state()["services"].get(service, {"endpoints": []})
        return any(each["port"] == port and each["healthy"] for each in found["endpoints"])

    async def _in_a(self, path: str) -> int:
        return 200 if await self._a.get("b.production", path) == 200 else 503

    async def _in_b(self, path: str) -> int:
        for _ in range(CALLS if path == "/orders" else 0):
            if await self._b.get("c.production") != 200:
                return 503
        return 200

    async def _in_c(self, path: str) -> int:
        self.waiting += 1
        self.longest = max(self.longest, self.waiting)
        async with self._hands:
            self.waiting -= 1
            await trio.sleep(WORK_S * (0.5 + self._rng.random()))
        self.worked += 1
        return 200

    def forget(self) -> None:
        """Count from now on."""
        self.came, self.good = dict.fromkeys(self.came, 0), dict.fromkeys(self.good, 0)
        self.worked = self.longest = 0

    async def load(self, per_s: float, seconds: float) -> None:
        """So many requests a second for /orders, and for /home; until all are answered."""

        async def one(path: str) -> None:
            self.came[path] += 1
            if await self._a.get("a.production", path) == 200:
                self.good[path] += 1

        end = trio.current_time() + seconds
        at = trio.current_time()
        async with trio.open_nursery() as nursery:
            while at < end:
                at += self._rng.expovariate(2 * per_s)
                await trio.sleep_until(at)
                nursery.start_soon(one, "/orders" if self._rng.random() < 0.5 else "/home")
