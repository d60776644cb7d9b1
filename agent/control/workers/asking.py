"""Questions to one worker, and what it answers."""

from __future__ import annotations

import itertools
import time
from typing import Any

import structlog
import trio

from agent import frames, framing
from agent.control.workers.worker import Worker

log = structlog.get_logger()


class Asking:
    """Of one fleet."""

    def __init__(self) -> None:
        self._numbers = itertools.count(int(time.monotonic() * 1000))

    async def ask(self, worker: Worker, what: str, args: dict[str, Any], answers: list[Any]) -> None:
        """Its answer is added to the others; it may have none."""
        number = next(self._numbers)
        send, receive = trio.open_memory_channel[frames.Answer](1)
        worker.answers[number] = send
        worker.send(framing.encode(frames.Ask(number, what, args)))
        try:
            told = await receive.receive()
        except trio.EndOfChannel:
            return
        finally:
            worker.answers.pop(number, None)
        if told.error:
            log.error("a worker could not answer", what=what, error=told.error)
        else:
            answers.append(told.value)

    async def in_portions(self, worker: Worker, what: str, most: int = 0) -> dict[str, Any] | None:
        """The last answer with the `services` of all, `most` of them at a time (0: as the worker has it); between two
        portions both sides do other things. None: it does not answer. A worker of the version before tells all at
        once."""
        services: dict[str, Any] = {}
        after: str | None = ""
        told: dict[str, Any] = {}
        while after is not None:
            found: list[Any] = []
            await self.ask(worker, what, {"after": after, **({"most": most} if most else {})}, found)
            if not found:
                return None
            told = found[0]
            services.update(told["services"])
            after = told.pop("next", None)
        return {**told, "services": services}
