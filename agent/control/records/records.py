"""The one way of records out of this agent: whoever has one offers it, and every sink that takes its kind has it.

    records.offer("audit", line)       # a line of JSON; never waits, never fails
    records.wants("audit")             # whether any sink takes such

Laws
- Kinds are `access` (a request that ended), `audit` (who did what, and what was decided), `events` (what this agent
  tells of the mesh) and `traces` (spans of requests, `agent.carried.Span`). A record is one JSON object on one line,
  with `time` or `at`; what is in it is the business of who makes it.
- Nothing in a record speaks to a terminal: control characters beyond ASCII are escapes in every sink.
"""

from __future__ import annotations

from typing import Any, Final

import trio

from agent.control.records.collector import Collector
from agent.control.records.file import FileSink
from agent.control.records.shown import Shown
from agent.control.records.sink import Sink
from agent.control.records.syslog import Datagrams, Stream
from agent.control.records.waiting import Batch, Kind
from agent.settings.document import Settings, SinkSettings
from agent.settings.sinks import place_of
from agent.visible import visible_json

ACCESS_LOG: Final = "access_log"
"""The sink of that setting."""
_ACCESS: Final[tuple[Kind, ...]] = ("access",)


class Records:
    """Every sink of one agent."""

    def __init__(self, settings: Settings) -> None:
        self.sinks: list[Sink] = [_sink(each, settings) for each in settings.records.sinks]
        if settings.access_log:
            self.sinks.append(FileSink(settings.access_log, ACCESS_LOG, _ACCESS))
        self._wanted = frozenset(kind for sink in self.sinks for kind in sink.kinds)

    def wants(self, kind: Kind) -> bool:
        """Whether anybody takes such records; where nobody does, none need be made."""
        return kind in self._wanted

    def offer(self, kind: Kind, line: bytes, count: int = 1) -> None:
        """One record, or `count` lines at once. Returns at once; what a sink has no room for is lost there, and
        counted."""
        if kind not in self._wanted or not line:
            return
        batch = Batch(kind, _shown(line if line.endswith(b"\n") else line + b"\n"), count)
        for sink in self.sinks:
            sink.offer(batch)

    def reopen(self) -> None:
        """Files were moved away: go on in others of their names."""
        for sink in self.sinks:
            sink.reopen()

    def start(self, nursery: trio.Nursery) -> None:
        """A task for each sink."""
        for sink in self.sinks:
            nursery.start_soon(sink.run)

    def lost(self, name: str = "") -> int:
        """How many lines were, over all kinds; of one sink."""
        return sum(sink.waiting.lost.total() for sink in self.sinks if not name or sink.name == name)

    def as_state(self) -> list[dict[str, Any]]:
        """What /state shows."""
        return [
            {
                "name": sink.name,
                "kinds": sorted(sink.kinds),
                "waiting_bytes": sink.waiting.bytes,
                "delivered": dict(+sink.waiting.delivered),
                "lost": dict(+sink.waiting.lost),
                "trouble": sink.trouble,
            }
            for sink in self.sinks
        ]


def _sink(settings: SinkSettings, of: Settings) -> Sink:
    place = place_of(settings.to)
    name, kinds, most = settings.name or settings.to, settings.kinds, settings.max_waiting_bytes
    facility, host = settings.facility, of.host
    shown = Shown(settings.ca, settings.cert, settings.key) if place.way in ("tls", "https") else None
    if place.way == "file":
        return FileSink(place.path, name, kinds, most)
    if place.way in ("udp", "unix"):
        return Datagrams(place, name, kinds, most, facility=facility, host=host)
    if place.way in ("tcp", "tls"):
        return Stream(place, name, kinds, most, facility=facility, host=host, shown=shown)
    resource = {"service.name": "shoal", "host.name": host, "shoal.mesh": of.mesh, "shoal.zone": of.zone}
    return Collector(place, name, kinds, most, resource=resource, headers=settings.headers, shown=shown)


def _shown(lines: bytes) -> bytes:
    """The same JSON, with nothing in it that a terminal obeys: a target is whatever a caller sent."""
    if lines.isascii() and b"\x7f" not in lines:
        return lines
    return visible_json(lines.decode("utf-8", "replace")).encode()
