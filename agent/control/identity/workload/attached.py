"""Identity at work where SPIRE gives it: heard over the Workload API, shown and told like what issuers sign.

Laws
- A stream that is silent although a certificate should have been renewed is opened anew: it may be nobody's any more.
- What it gave is handed over when the agent is executed anew, in memory; else it is asked for before workers start.
"""

from __future__ import annotations

import os
from typing import Any, Final

import structlog
import trio

from agent.control.identity.around import Around, Reply
from agent.control.identity.proving import Proving
from agent.control.identity.standing import Standing
from agent.control.identity.workload import api
from agent.control.identity.workload.delivered import Delivered
from agent.frames import Peer
from agent.identity.workload import read
from registry.backoff import Backoff

FIRST_S: Final = 3.0
"""For the first response to a question."""
LEAST_SILENCE_S: Final = 60.0
log = structlog.get_logger()


class Attached(Proving):
    """One agent's, whose certificates the Workload API gives."""

    def __init__(self, around: Around) -> None:
        standing = Standing(around.keys, elsewhere=f"bundles come from the Workload API at {around.workload_socket}")
        self.delivered = Delivered(around.host, standing, os.geteuid())
        super().__init__(around, standing, self.delivered)
        self._socket = around.workload_socket
        self._response = b""
        """The last one that made sense."""

    def load(self) -> None:
        """What was given before the agent was executed anew; what was revoked, before a restart."""
        self.standing.load(self.files.load(), self._around.clock())
        if self._around.inherited:
            self._take(self._around.inherited)
        self._look()

    async def first(self) -> None:
        """Wait, not for long, for what is given, where nothing was handed over."""
        if self._response:
            return
        try:
            with trio.move_on_after(FIRST_S) as patience:

                def arrived(response: bytes) -> None:
                    self._take(response)
                    patience.cancel()

                await api.fetch(self._socket, arrived)
        except api.NotServed as error:
            self.delivered.failed(str(error))
        self._look()

    def handed_over(self) -> bytes:
        """For the process that is executed next."""
        return self._response

    def asked(self, told: Peer, reply: Reply) -> None:
        """A question of another host's: SIGN or JOIN."""
        reply(503, b"this host's certificates come from SPIFFE's Workload API, and it issues none")

    # What goes on.

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._save)
            nursery.start_soon(self.publishing.run)
            nursery.start_soon(self._looking)
            nursery.start_soon(self._listen)

    async def _listen(self) -> None:
        """Whatever ends a stream, another is opened."""
        backoff = Backoff(base_s=0.5, max_s=30.0, rng=self._around.chance)
        while True:
            before = self.delivered.error
            reason = f"it has said nothing for too long at {self._socket}"
            try:
                with trio.move_on_after(FIRST_S) as patience:

                    def arrived(response: bytes, patience: trio.CancelScope = patience) -> None:
                        self._take(response)
                        backoff.reset()
                        patience.deadline = trio.current_time() + self._patience_s()

                    await api.fetch(self._socket, arrived)
            except api.NotServed as error:
                reason = str(error)
            if reason != before:
                log.warning("the Workload API gives nothing now; what is held serves until it ends", reason=reason)
            self.delivered.failed(reason)
            self.wake()
            await trio.sleep(backoff.next_s())

    def _patience_s(self) -> float:
        now_s = self._around.clock()
        return max(LEAST_SILENCE_S, self.delivered.silent_from_s(now_s) - now_s)

    def _take(self, response: bytes) -> None:
        try:
            delivery = read(self._around.host, *api.read(response))
        except ValueError as error:
            log.warning("what the Workload API gives makes no sense; what is held stays", reason=str(error))
            self.delivered.failed(f"what it gives makes no sense: {error}")
            self.wake()
            return
        self._response = response
        self.delivered.take(delivery)
        self.delivered.review(self._around.clock(), self._around.services())
        log.info("the Workload API has given certificates", ids=sorted(delivery.svids)[:20])
        for name, reason in delivery.malformed.items():
            log.warning("something of what the Workload API gives is passed over", id=name, reason=reason)
        self.wake()

    def _look(self) -> None:
        now_s = self._around.clock()
        self._services = frozenset(self._around.services())
        self.delivered.review(now_s, self._services)
        self._show()
        self._tell(self.delivered.problems(now_s))

    # What is told.

    @property
    def malformed(self) -> dict[str, str]:
        """Keys that are not believed, and why."""
        return self.standing.malformed

    def as_state(self) -> dict[str, Any]:
        """What /state shows, also where nothing was given yet."""
        about = {
            "workload_api": self._socket,
            "workload_error": self.delivered.error,
            "passed_over": self.delivered.malformed,
        }
        problems = [{"name": name, "reason": reason} for name, reason in sorted(self.problems.items())]
        return {"problems": problems, **super().as_state(), **about}

    def counters(self) -> dict[tuple[str, ...], float]:
        """For metrics: nothing is issued here."""
        return {}
