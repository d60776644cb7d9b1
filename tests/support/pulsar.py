"""A double of Pulsar's WebSocket API, by its documentation: producers, consumers in pull mode, subscriptions.

It keeps what real Pulsar keeps: what a subscription has not acknowledged. What no subscription wants is gone at once,
and a new subscription begins behind everything.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections import Counter
from typing import Any

import trio
import trio_websocket

PRODUCER = "/ws/v2/producer/persistent/"
CONSUMER = "/ws/v2/consumer/persistent/"


class PulsarDouble:
    """A broker in a thread. What it holds outlives `kill`."""

    def __init__(self, token: str = "", port: int = 0) -> None:
        self.token = token
        self.silent = False
        """It takes messages, keeps none, and says nothing."""
        self.mute = False
        """It keeps messages, and says nothing."""
        self.refusals = 0
        """So many messages from now on are refused."""
        self.produced = 0
        self.lost = 0
        """Messages that no subscription wanted."""
        self.topics: dict[str, dict[str, dict[str, Any]]] = {}
        """By topic and subscription: messages by id."""
        self._delivered: dict[str, set[str]] = {}
        self._next = 0
        self.port = port
        self.handshakes: Counter[str] = Counter()
        self.start()

    def url(self, topic: str = "public/default/orders") -> str:
        return f"ws://127.0.0.1:{self.port}{PRODUCER}{topic}"

    def records(self, topic: str = "public/default/orders", subscription: str = "shoal-replay") -> list[bytes]:
        """What waits."""
        waiting = list(self.topics.get(topic, {}).get(subscription, {}).values())  # its own thread adds to it meanwhile
        return [base64.b64decode(message["payload"]) for message in waiting]

    def start(self) -> None:
        """Listen, on the port of before."""
        started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run, started), daemon=True)
        self._thread.start()
        assert started.wait(10)

    def kill(self) -> None:
        """Every connection breaks."""
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(10)

    async def _run(self, started: threading.Event) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                server = await nursery.start(trio_websocket.serve_websocket, self._serve, "127.0.0.1", self.port, None)
                self.port = server.port
                started.set()

    async def _serve(self, request: trio_websocket.WebSocketRequest) -> None:
        path, _, query = request.path.partition("?")
        given = dict(request.headers).get(b"authorization", b"").decode()
        self.handshakes[path] += 1
        if self.token and given != f"Bearer {self.token}":
            await request.reject(401)
            return
        connection = await request.accept()
        try:
            if path.startswith(PRODUCER):
                await self._produce(connection, path.removeprefix(PRODUCER))
            elif path.startswith(CONSUMER):
                topic, _, subscription = path.removeprefix(CONSUMER).rpartition("/")
                assert "pullMode=true" in query and "subscriptionType=Shared" in query
                await self._consume(connection, topic, subscription)
        except trio_websocket.ConnectionClosed:
            pass

    async def _produce(self, connection: trio_websocket.WebSocketConnection, topic: str) -> None:
        while True:
            message = json.loads(await connection.get_message())
            context = message.get("context")
            if self.silent:
                continue
            if self.refusals:
                self.refusals -= 1
                told = {"result": "send-error:8", "errorMsg": "not now", "context": context}
                await connection.send_message(json.dumps(told))
                continue
            self._next += 1
            id = base64.b64encode(b"%d" % self._next).decode()
            self.produced += 1
            subscriptions = self.topics.setdefault(topic, {})
            self.lost += not subscriptions
            for waiting in subscriptions.values():
                waiting[id] = {"messageId": id, "payload": message["payload"], "properties": message["properties"]}
            if not self.mute:
                await connection.send_message(json.dumps({"result": "ok", "messageId": id, "context": context}))

    async def _consume(self, connection: trio_websocket.WebSocketConnection, topic: str, subscription: str) -> None:
        waiting = self.topics.setdefault(topic, {}).setdefault(subscription, {})
        taken = self._delivered.setdefault(f"{topic}/{subscription}", set())
        mine: set[str] = set()
        permits = 0

        async def push() -> None:
            nonlocal permits
            while True:
                for id, message in list(waiting.items()):
                    if permits and id not in taken:
                        permits -= 1
                        taken.add(id)
                        mine.add(id)
                        told = {**message, "publishTime": "2026-01-01T00:00:00Z", "redeliveryCount": 0}
                        await connection.send_message(json.dumps(told))
                await trio.sleep(0.01)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(push)
                while True:
                    told = json.loads(await connection.get_message())
                    if told.get("type") == "permit":
                        permits += told["permitMessages"]
                    elif "messageId" in told and "type" not in told:
                        waiting.pop(told["messageId"], None)
        except* trio_websocket.ConnectionClosed:
            pass
        finally:
            taken -= mine

    def close(self) -> None:
        if self._thread.is_alive():
            self.kill()


if __name__ == "__main__":
    PulsarDouble(port=int(sys.argv[1]))
    threading.Event().wait()
