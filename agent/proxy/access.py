"""Access records: one row a request, in a ring, formatted elsewhere; the columns are frames.RECORD_FIELDS."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

RING: Final = 65536


class Recorder:
    """The ring. When it overflows the oldest rows are lost, and counted."""

    def __init__(self) -> None:
        self.wanted = False
        """Whether control writes the rows somewhere; else nothing is recorded."""
        self.lost = 0
        self._rows: deque[tuple[Any, ...]] = deque(maxlen=RING)
        self._epoch = time.time() - time.monotonic()

    def record(self, exchange: Exchange, duration_s: float) -> None:
        """A request ended."""
        if not self.wanted:
            return
        if len(self._rows) == RING:
            self.lost += 1
        request, service, endpoint = exchange.request, exchange.service, exchange.endpoint
        self._rows.append(
            (
                self._epoch + exchange.started,
                "inbound" if exchange.down.inbound else "outbound",
                exchange.caller,
                service.name if service is not None else "",
                endpoint.id if endpoint is not None else "",
                request.method,
                request.host,
                request.target,
                exchange.status,
                duration_s,
                exchange.bytes_in,
                exchange.bytes_out,
                exchange.attempts,
                exchange.request_id,
                exchange.why,
            )
        )

    def take(self, most: int) -> list[tuple[Any, ...]]:
        """The oldest rows, taken out of the ring; bytes are decoded where they are written."""
        rows = self._rows
        return [rows.popleft() for _ in range(min(most, len(rows)))]
