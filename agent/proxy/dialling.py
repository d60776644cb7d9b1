# mypyc: compiled
"""Who speaks to an endpoint needs a connection to it: an idle one, a new one, or, where there may be no more, the next
that is free (`agent.proxy.table.connections`)."""

from __future__ import annotations

from agent.proxy.http1.client import Lane
from agent.proxy.http1.pool import Pool
from agent.proxy.stream import ResponseHandler, Upstream
from agent.proxy.table.connections import Connections


class Dialling(ResponseHandler):
    """One request that is to be sent to one address."""

    __slots__ = (
        "_opened_at",
        "_pool",
        "_tally",
        "began",
        "connect_s",
        "dial",
        "far",
        "how",
        "lane",
        "queue_s",
        "waits",
    )

    def __init__(self, method: bytes, upgrade: bytes, dial: tuple[str, int], now: float) -> None:
        super().__init__(method, upgrade)
        self.dial = dial
        self.lane: Lane | None = None
        """Of which connections; None: of those in plain text."""
        self.far = ""
        """Where another host's agent has refused it: its flag."""
        self.how = ""
        """How it failed, where more is known than its outcome says."""
        self.began = now
        self.queue_s = 0.0
        """For how long it has waited for a connection that it might use."""
        self.connect_s = 0.0
        """How long a new one took, with TLS; 0: an idle one was there, or none was made."""
        self._opened_at = now
        self.waits = False
        """Whether it waits for a connection, or did when it was given up: there may be no more."""
        self._pool: Pool | None = None
        self._tally: Connections | None = None

    def find_connection(self, pool: Pool, tally: Connections | None) -> None:
        """Have `send` called with an idle one, or `connect` with a new one; as soon as there may be one."""
        if tally is not None and tally.most:
            self._pool, self._tally = pool, tally
            if tally.crowded or not self._has_connection(pool, tally):
                self.waits = True
                tally.wait(self, pool.reactor)
                return
        self._take_one(pool, tally)

    def _take_one(self, pool: Pool, tally: Connections | None) -> None:
        up = pool.take(self.lane or pool.plain, self.dial, verify=self.verifies, tally=tally)
        if up is not None:
            self.send(up)
        else:
            self.open_one(pool, tally)

    def open_one(self, pool: Pool, tally: Connections | None) -> None:
        """Have `connect` called with a new connection."""
        self._opened_at = pool.reactor.now
        self.up = up = pool.open(self.lane or pool.plain, self.dial, self, tally)
        if up is not None:
            pool.connects += 1
            self.connect(up)
        elif tally is not None:
            tally.changed()

    def _has_connection(self, pool: Pool, tally: Connections) -> bool:
        if pool.bring_up(self.lane or pool.plain, self.dial, tally) or tally.has_room():
            return True
        return tally.make_room() and tally.has_room()

    def on_room(self) -> bool:
        """It waits for a connection, and there may be one: whether there was."""
        pool, tally = self._pool, self._tally
        assert pool is not None and tally is not None
        if tally.most and not self._has_connection(pool, tally):
            return False
        self.waits = False
        tally.leave(self)
        self.queue_s += pool.reactor.now - self.began
        self.on_waited(pool.reactor.now)
        self._take_one(pool, tally)
        return True

    def dialled(self, now: float) -> Upstream:
        """The new connection, which is made."""
        self.connect_s = now - self._opened_at
        up = self.up
        assert up is not None
        return up

    def release(self, *, reusable: bool) -> None:
        """Part from the connection, which others may use if the answer was read whole."""
        up, self.up = self.up, None
        if up is not None:
            up.release(reusable=reusable)

    def cut(self) -> None:
        """Give the connection up: nobody waits for its answer."""
        up, self.up = self.up, None
        if up is not None:
            up.cut()
        elif self.waits and self._tally is not None:
            self._tally.leave(self)

    @property
    def address(self) -> str:
        """Where it goes."""
        host, port = self.dial
        return f"{host}:{port}"

    # What each does by itself.

    @property
    def verifies(self) -> bool:
        """Whether an idle connection has to be looked at first."""
        raise NotImplementedError

    def on_waited(self, now: float) -> None:
        """It has waited, and begins now."""
        self.began = now

    def connect(self, up: Upstream) -> None:
        """By this connection, which is not made yet."""
        raise NotImplementedError

    def send(self, up: Upstream) -> None:
        """By this connection."""
        raise NotImplementedError
