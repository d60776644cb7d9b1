"""Keeps requests that are stored instead of served: for each topic a spool, synced in groups, and a relay.

Laws
- A worker is told that a request is stored after it is synced to disk. What cannot be is refused, at once.
- What is stored goes to its topic whatever becomes of the policy that stored it: beside the records stands where to.
- Disk is bounded (`topics.max_bytes`), over all topics; beyond it, and when the disk is full, requests are refused.
- Where to is judged as webhooks' targets are: whoever may only write policies must not reach the inside of the network,
  nor have a secret sent to a host of theirs.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import trio

from agent import frames
from agent.control.host import disk
from agent.hooks.receivers import Receivers
from agent.hooks.scrubbing import Scrub
from agent.hooks.targets import Targets
from agent.process.own_files import read_as, set_aside
from agent.topics.broker import Broker, BrokerError, Credentials
from agent.topics.brokers import broker_of
from agent.topics.relay import Relay
from agent.topics.spool import Spool, sync_folder
from policies.kinds.shed.topic import Place, parse_topic
from policies.language.secret import Reference

MAX_TOPICS: Final = 256
MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
"""That wait for the disk."""
ORDER: Final = "topic.json"
log = structlog.get_logger()
Reply = Callable[[str], None]
"""Told once: empty, it is stored; else why not."""
FindSecret = Callable[[Reference], str | None]


class Order(msgspec.Struct, frozen=True):
    """Where to, and as whom; as the document says, and as it stands beside the records."""

    url: str
    user: str = ""
    secret: Reference | None = None


class _Topic:
    """One, with what waits for the disk."""

    def __init__(self, order: Order, relay: Relay) -> None:
        self.order = order
        self.relay = relay
        self.pending: list[tuple[bytes, Reply]] = []
        self.wanted = trio.Event()


class RequestStore:
    """All topics of this agent."""

    def __init__(
        self, folder: Path, max_bytes: int, targets: Targets, secret: FindSecret, receivers: Receivers
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._targets = targets
        self._secret = secret
        self._receivers = receivers
        self._topics: dict[str, _Topic] = {}
        self._nursery: trio.Nursery | None = None
        self._pending_bytes = 0
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """By topic and outcome: stored, refused."""

    def as_state(self) -> list[dict[str, Any]]:
        """For /state: every topic that something was stored for."""
        return [
            {**topic.relay.as_state(), **{name: self.outcomes[url, name] for name in ("stored", "refused")}}
            for url, topic in self._topics.items()
        ]

    async def run(self) -> None:
        """What is on disk from before goes out, and what comes is kept, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                await trio.to_thread.run_sync(self._folder_there)
                for folder in sorted(self._folder.glob("*/")):
                    await self._reopen(folder / ORDER, nursery)
                self._nursery = nursery
                await trio.sleep_forever()
        finally:
            self._nursery = None
            for topic in self._topics.values():
                self._refuse(topic, topic.pending, "the agent is stopping")
                topic.relay.spool.close()

    def _folder_there(self) -> None:
        try:
            if os.path.lexists(self._folder) and not self._folder.is_dir():
                set_aside(self._folder, "it is no directory")
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            log.warning("requests cannot be stored", path=str(self._folder), error=error.strerror)

    async def _reopen(self, path: Path, nursery: trio.Nursery) -> None:
        try:
            order = await trio.to_thread.run_sync(read_as, path, _parse_order)
            if order is None:
                log.error(
                    "nobody knows where a topic's stored requests go, until one comes again", path=str(path.parent)
                )
                return
            topic = self._open(order, await trio.to_thread.run_sync(Spool, path.parent), nursery)
        except OSError as error:
            log.error("a topic's stored requests cannot be read", path=str(path), error=str(error))
            return
        if topic.relay.spool.waiting:
            log.info("requests are stored from before", topic=order.url, waiting=topic.relay.spool.waiting)

    # What workers bring.

    def store(self, where: frames.Topic, record: bytes, reply: Reply) -> None:
        """Keep a request; `reply` is called when it is on disk, or cannot be."""
        try:
            topic = self._topic(msgspec.convert(where, Order, from_attributes=True))
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            self.outcomes[where.url, "refused"] += 1
            reply(f"{getattr(error, 'strerror', None) or error}")
            return
        kept = sum(other.relay.spool.size for other in self._topics.values())
        if kept + self._pending_bytes + len(record) > self._max_bytes:
            self._refuse(topic, [(record, reply)], f"{self._max_bytes} bytes are stored, which is all that may be")
        elif self._pending_bytes + len(record) > MAX_PENDING_BYTES:
            self._refuse(topic, [(record, reply)], "the disk has enough to do")
        else:
            self._pending_bytes += len(record)
            topic.pending.append((record, reply))
            topic.wanted.set()

    def _topic(self, order: Order) -> _Topic:
        """Raises OSError and ValueError."""
        topic = self._topics.get(order.url)
        if topic is None:
            if self._nursery is None:
                raise ValueError("the agent is starting or stopping")
            if len(self._topics) >= MAX_TOPICS:
                raise ValueError(f"there are {MAX_TOPICS} topics, which is all that may be")
            topic = self._open(order, Spool(self._path(order)), self._nursery)
            self._note(order)
        if topic.order != order:
            self._note(order)
            topic.order = order
        return topic

    def _open(self, order: Order, spool: Spool, nursery: trio.Nursery) -> _Topic:
        """Raises ValueError."""
        place = parse_topic(order.url)

        def broker() -> Broker:
            return broker_of(place, self._credentials(topic.order, place), self._targets.refused)

        topic = _Topic(order, Relay(order.url, spool, broker, clean=lambda text: self._clean(topic.order, text)))
        self._topics[order.url] = topic
        nursery.start_soon(topic.relay.run)
        nursery.start_soon(self._write, topic)
        return topic

    def _path(self, order: Order) -> Path:
        return self._folder / hashlib.sha256(order.url.encode()).hexdigest()[:16]

    def _note(self, order: Order) -> None:
        folder = self._path(order)
        if not disk.write(folder / ORDER, msgspec.json.encode(order)):
            raise OSError(0, f"{folder / ORDER} cannot be written")
        sync_folder(folder)
        sync_folder(self._folder)

    def _credentials(self, order: Order, place: Place) -> Credentials:
        """Raises BrokerError."""
        if order.secret is None:
            return Credentials(order.user)
        host = f"[{place.host}]" if ":" in place.host else place.host
        refused = self._receivers.refused(order.secret, f"redis://{host}:{place.port}")
        if refused:
            raise BrokerError(refused)
        secret = (self._secret(order.secret) or "").strip()
        where = order.secret.file or order.secret.env
        if not secret:
            raise BrokerError(f"the secret {where} is not on this host")
        if not secret.isprintable():
            raise BrokerError(f"the secret in {where} is not one line")
        return Credentials(order.user, secret)

    def _clean(self, order: Order, text: str) -> str:
        """A broker's words, which may repeat what it was sent."""
        secret = self._secret(order.secret) if order.secret is not None else None
        return Scrub((secret,)).clean(text) if secret else text

    async def _write(self, topic: _Topic) -> None:
        """One sync for all that came during the last one."""
        while True:
            if not topic.pending:
                topic.wanted = trio.Event()
                await topic.wanted.wait()
            pending, topic.pending = topic.pending, []
            try:
                await topic.relay.spool.append([record for record, _ in pending])
            except OSError as error:
                log.error("requests cannot be stored", topic=topic.order.url, error=error.strerror)
                self._refuse(topic, pending, f"the disk does not take it: {error.strerror}")
                self._pending_bytes -= sum(len(record) for record, _ in pending)
                continue
            except BaseException:
                self._refuse(topic, pending, "the agent is stopping")
                raise
            self._pending_bytes -= sum(len(record) for record, _ in pending)
            self.outcomes[topic.order.url, "stored"] += len(pending)
            topic.relay.stir()
            for _, reply in pending:
                reply("")

    def _refuse(self, topic: _Topic, pending: list[tuple[bytes, Reply]], reason: str) -> None:
        self.outcomes[topic.order.url, "refused"] += len(pending)
        for _, reply in pending:
            reply(reason)


def _parse_order(data: bytes) -> Order:
    """Raises ValueError."""
    order = msgspec.json.decode(data, type=Order)
    parse_topic(order.url)
    return order
