"""What workers say, and who hears it.

Laws
- A worker is killed for what it says only where that makes no sense as a frame of any version. What control fails to
  handle is control's own mistake: told, counted, answered where an answer is waited for, and nobody's death.
- Whoever was left behind by the process before is heard as any other, to its last word.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

import msgspec
import structlog

from agent import build, frames, framing
from agent.control.workers.ledger import Ledger
from agent.control.workers.worker import Worker
from agent.frames import ToControl

MAX_UNKNOWN: Final = 16
"""Kinds of frames of a worker's that are told of; each once."""
log = structlog.get_logger()
Reply: TypeAlias = Callable[[int, bytes], None]
"""Answers another agent's question: status and body."""


class Senseless(Exception):
    """What a worker said is no frame."""


class Conversation:
    """With every worker of this agent."""

    def __init__(
        self,
        *,
        on_records: Callable[[bytes, int], None],
        on_spans: Callable[[bytes, int], None],
        on_happened: Callable[[list[frames.Transition]], None],
        on_compared: Callable[[frames.Compared], None],
        on_peer: Callable[[frames.Peer, Reply], None],
        on_store: Callable[[frames.Topic, bytes, Callable[[str], None]], None],
        on_audited: Callable[[frames.Audited, Callable[[str], None]], None],
        on_key_missed: Callable[[str], None],
        on_turn: Callable[[], None],
    ) -> None:
        """`on_turn`: a worker runs something else. `on_peer` may reply later."""
        self._on_records = on_records
        self._on_spans = on_spans
        self._on_happened = on_happened
        self._on_compared = on_compared
        self._on_peer = on_peer
        self._on_store = on_store
        self._on_audited = on_audited
        self._on_key_missed = on_key_missed
        self._on_turn = on_turn
        self.ledger = Ledger()
        self.mishandled: Counter[str] = Counter()
        """Frames that control failed at, by kind."""

    async def listen(self, worker: Worker) -> None:
        """Until it says no more, or this process is to hear no more of it."""
        try:
            with worker.reading:
                while data := await worker.receive():
                    worker.last_word = time.monotonic()
                    for told in worker.decoder.feed(data):
                        if isinstance(told, frames.Unknown):
                            self._pass_over(worker, told)
                        else:
                            self._on_frame(worker, told)
        except Exception:  # what a worker says must not end control, nor the other workers with it
            log.exception("a worker does not make sense, and is killed", worker=worker.index, pid=worker.process.pid)
            worker.process.kill()
        finally:
            worker.heard.set()

    def _pass_over(self, worker: Worker, told: frames.Unknown) -> None:
        """What a worker of another version says besides: an upgrade on disk gives an old control new workers. Raises
        Senseless for what no version says."""
        if told.broken:
            raise Senseless(f"{told.kind}: {told.reason}")
        if told.kind not in worker.unknown and len(worker.unknown) < MAX_UNKNOWN:
            worker.unknown.add(told.kind)
            log.error("a worker says what is not known here", worker=worker.index, what=told.kind, reason=told.reason)

    def _on_frame(self, worker: Worker, told: ToControl) -> None:
        """Handle a sound frame. What goes wrong in here is not the worker's doing, which only passes on what came."""
        try:
            self._handle(worker, told)
        except Exception:
            kind = str(told.__struct_config__.tag)
            self.mishandled[kind] += 1
            log.exception("control failed at what a worker told it", what=kind, worker=worker.index)
            if isinstance(told, frames.Peer):
                self._answer_peer(worker, told, 500, b"this agent failed at that question")
            elif isinstance(told, frames.Store):
                self._stored(worker, told.id, told.name, "control failed at it")
            elif isinstance(told, frames.Audited):
                self._recorded(worker, told.id, "control failed at it")

    def _answer_peer(self, worker: Worker, asked: frames.Peer, status: int, body: bytes) -> None:
        worker.send(framing.encode(frames.PeerAnswer(asked.id, status, body)))

    def _handle(self, worker: Worker, told: ToControl) -> None:
        if isinstance(told, frames.Runs):
            for refused in told.refused:
                fields = msgspec.structs.asdict(refused)
                log.error("a worker refused what control accepted", worker=worker.index, **fields)
            worker.on_commit(told)
            self._on_turn()
        elif isinstance(told, frames.Ready):
            worker.on_ready(told)
            if worker.build != build.kind():
                log.error("a worker is not built as control is", worker=worker.index, build=worker.build)
            self._on_turn()
        elif isinstance(told, frames.Records):
            self._on_records(told.lines, told.count)
        elif isinstance(told, frames.Spans):
            self._on_spans(told.lines, told.count)
        elif isinstance(told, frames.Peer):
            self._on_peer(told, partial(self._answer_peer, worker, told))
        elif isinstance(told, frames.Store):
            self._on_store(told.topic, told.record, partial(self._stored, worker, told.id, told.name))
        elif isinstance(told, frames.Audited):
            self._on_audited(told, partial(self._recorded, worker, told.id))
        elif isinstance(told, frames.KeyMissed):
            self._on_key_missed(told.source)
        elif isinstance(told, frames.Compared):
            self._on_compared(told)
        elif isinstance(told, frames.Happened):
            self._on_happened(told.events)
        elif isinstance(told, frames.Drained):
            self.ledger.hear_last(worker.process.pid, told.metrics)
            worker.retired = True
        elif isinstance(told, frames.Answer):
            answer = worker.answers.pop(told.id, None)
            if answer is not None:
                answer.send_nowait(told)

    def _recorded(self, worker: Worker, number: int, reason: str) -> None:
        if number:
            worker.send(framing.encode(frames.Recorded(number, reason)))

    def _stored(self, worker: Worker, number: int, name: str, reason: str) -> None:
        worker.send(framing.encode(frames.Stored(number, name, reason)))
