"""Regression testing on this host: what workers report of requests and their copies is compared, counted and told.

Laws
- Control's other work does not wait for it: what waits to be compared is bounded in number and bytes, beyond which it
  is dropped and counted; comparing happens in a thread, for at most half of the time.
- What is counted belongs to one revision of one document. Another revision begins anew, and no document means no tally.
- What leaves this process, for etcd or for people, has been redacted before it was kept.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Final

import msgspec
import structlog
import trio

from agent import frames
from agent.control.host.clock import now_text
from agent.control.mesh.table import Table
from policies.kinds.shadow.comparison import Compiled, Tally, differences, note, report, trimmed
from policies.kinds.shadow.decide import CANDIDATE, PRIMARY, SECONDARY
from policies.kinds.shadow.document import Shadow
from policies.language.names import candidates
from registry.keys import Keys
from registry.lease import Holder
from registry.records import Compared, encode

MAX_WAITING: Final = 64
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
MAX_SERVICES: Final = 200
TELL_EVERY_S: Final = 5.0
MAX_TOLD_BYTES: Final = 60_000
"""Of a tally in etcd; a record has at most 64 KiB."""
ROLES: Final = (PRIMARY, SECONDARY, CANDIDATE)
log = structlog.get_logger()


class State:
    """What is counted of one service."""

    __slots__ = ("revision", "rules", "tally", "told")

    def __init__(self, revision: int, rules: Compiled) -> None:
        self.revision = revision
        self.rules = rules
        self.tally = Tally(max_samples=rules.max_samples)
        self.told: tuple[int, int] | None = None
        """How much was counted and skipped when it was told last."""

    @property
    def counted(self) -> tuple[int, int]:
        """Grows with everything that is observed."""
        return self.tally.total, sum(self.tally.skipped.values())


class ShadowTallies:
    """The tallies of this host."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._states: dict[str, State] = {}
        self._rules: dict[str, tuple[int, Compiled | None]] = {}
        self._waiting_bytes = 0
        self._send, self._receive = trio.open_memory_channel[tuple[frames.Compared, int]](MAX_WAITING)
        self.compared = 0
        self.dropped = 0

    def observe(self, told: frames.Compared) -> None:
        """A worker's frame; returns at once."""
        size = sum(len(answer.body) for answer in told.answers.values())
        if self._waiting_bytes + size <= MAX_WAITING_BYTES:
            try:
                self._send.send_nowait((told, size))
            except trio.WouldBlock:
                pass
            else:
                self._waiting_bytes += size
                return
        self.dropped += 1
        state = self._state(told.service)
        if state is not None:
            state.tally.skip("too much at once")

    async def run(self) -> None:
        """Compare, until cancelled."""
        async for told, size in self._receive:
            began = time.perf_counter()
            try:
                await self._compare(told)
            except Exception:  # one strange answer must not end the agent
                log.exception("answers could not be compared", service=told.service)
            self._waiting_bytes -= size
            await trio.sleep(time.perf_counter() - began)

    async def _compare(self, message: frames.Compared) -> None:
        state = self._state(message.service)
        if state is None:
            return
        why = _unusable(message, state)
        if why:
            state.tally.skip(why)
            return
        answers = [message.answers[role] for role in ROLES]
        raw, noise = await trio.to_thread.run_sync(partial(differences, state.rules, *answers))
        note(state.tally, message.request.shown, message.request.id, raw, noise)
        for role, answer in zip(ROLES, answers, strict=True):
            if not answer.error:
                state.tally.time(role, answer.latency_s)
        self.compared += 1

    # Which document.

    def _state(self, service: str) -> State | None:
        """What is counted of a service under the document in force; None: nothing is to be."""
        revision, rules = self._in_force(service)
        state = self._states.get(service)
        if rules is None:
            self._states.pop(service, None)
            return None
        if state is None or state.revision != revision:
            if state is None and len(self._states) >= MAX_SERVICES:
                return None
            state = self._states[service] = State(revision, rules)
        return state

    def _in_force(self, service: str) -> tuple[int, Compiled | None]:
        policies = self._table.in_force.enforced.get("shadow", {})
        pattern = next((name for name in candidates(service) if name in policies), None)
        if pattern is None:
            return 0, None
        policy = policies[pattern]
        known = self._rules.get(pattern)
        if known is None or known[0] != policy.revision:
            document = policy.document
            compare = document.compare if isinstance(document, Shadow) else None
            known = (policy.revision, Compiled(compare) if compare is not None else None)
            self._rules[pattern] = known
        return known

    # For the other hosts.

    async def tell(self, holder: Holder, keys: Keys, host: str) -> None:
        """Keep tallies/<service>/<host>, or reports/<host>/tallies/<service>, at what was counted, until cancelled."""
        told: dict[str, str] = {}
        while True:
            own = self._table.forms.has("reports")
            for service in list(self._states):
                state, key = self._state(service), keys.tally(service, host, own=own)
                if state is not None and (state.told != state.counted or told.get(service, key) != key):
                    state.told = state.counted
                    holder.put(key, encode(_record(state)))
                    if told.get(service, key) != key:
                        holder.drop(told[service])
                    told[service] = key
            for service in told.keys() - self._states.keys():
                holder.drop(told.pop(service))
            await trio.sleep(TELL_EVERY_S)

    # For people.

    def report(self, service: str) -> dict[str, Any] | None:
        """What is to be thought of a candidate, as far as this host saw; None: nothing is compared."""
        state = self._state(service)
        if state is None:
            return None
        return {"service": service, "revision": state.revision, **report(state.tally, state.rules.thresholds)}

    def reset(self, service: str) -> bool:
        """Begin anew; whether there is anything to count."""
        self._states.pop(service, None)
        return self._state(service) is not None


def _unusable(message: frames.Compared, state: State) -> str:
    """Why a message says nothing about the candidate; empty: it does."""
    if message.revision != state.revision:
        return "another revision"
    if message.request.unusable:
        return message.request.unusable
    if not all(role in message.answers for role in ROLES):
        return "not all answered"
    if message.answers[PRIMARY].error:
        return "the primary failed"
    version = message.request.version
    if version and state.rules.primary and version != state.rules.primary:
        return "another version answered"
    return ""


def _record(state: State) -> Compared:
    tally = trimmed(state.tally, MAX_TOLD_BYTES)
    return Compared(
        revision=state.revision,
        thresholds=msgspec.to_builtins(state.rules.thresholds),
        tally=msgspec.to_builtins(tally, str_keys=True),
        at=now_text(),
    )
