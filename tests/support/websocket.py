"""A page as far as `/api/v1/live` goes: a WebSocket of its own, over a connection that a test has made."""

from __future__ import annotations

import json
from typing import Any

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Message,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate

LIVE = "/api/v1/live"


class Closed(Exception):
    """The agent has closed it: with an HTTP status before it was open, else with a code."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Page:
    """One."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._text = ""
        self._heard: list[Any] = []

    async def open(self, host: str, target: str = LIVE, *, deflates: bool = True, **headers: str) -> Page:
        """`deflates`: as browsers do. Raises Closed."""
        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        extensions = [PerMessageDeflate()] if deflates else []
        await self.send(Request(host=host, target=target, extra_headers=fields, extensions=extensions))
        while True:
            for event in await self._events():
                if isinstance(event, AcceptConnection):
                    return self
                if isinstance(event, RejectConnection):
                    raise Closed(event.status_code)

    async def send(self, event: Any) -> None:
        await self.stream.send_all(self._connection.send(event))

    async def say(self, value: Any) -> None:
        """As text as it stands, or as JSON."""
        await self.send(Message(data=value) if isinstance(value, str | bytes) else TextMessage(data=json.dumps(value)))

    async def watch(self, path: str, name: str = "w", every_s: float = 1) -> Any:
        """What is told first."""
        await self.say({"watch": name, "path": path, "every_s": every_s})
        return await self.told(name)

    async def told(self, name: str = "w") -> Any:
        """What is told next of a watch. Raises Closed."""
        while True:
            value = await self.hear()
            if value.get("watch") == name:
                return value

    async def hear(self) -> Any:
        """The next frame. Raises Closed."""
        with trio.fail_after(60):
            while not self._heard:
                for event in await self._events():
                    if isinstance(event, TextMessage):
                        self._text += event.data
                        if event.message_finished:
                            self._heard.append(json.loads(self._text))
                            self._text = ""
                    elif isinstance(event, Ping):
                        await self.send(event.response())
                    elif isinstance(event, CloseConnection):
                        raise Closed(event.code, event.reason or "")
        return self._heard.pop(0)

    async def _events(self) -> list[Any]:
        data = await self.stream.receive_some(65536)
        if not data:
            raise Closed(1006)
        self._connection.receive_data(data)
        return list(self._connection.events())

    async def close(self) -> None:
        """As a browser does that is closed."""
        await self.stream.aclose()
