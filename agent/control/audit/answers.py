"""What other agents, and people by way of one, ask about audit logs: records, heads, and whether a log is as it was.

Laws
- Reading is done in threads, one question at a time: a long log takes no time of control's loop, and not all of the
  host's.
- Each host answers for its own log. Of a host that does not answer, those that hold copies answer for them.
"""

from __future__ import annotations

from itertools import chain
from typing import Final

import trio

from agent.audit.heads import Kept
from agent.audit.questions import (
    CHECK,
    HEADS,
    MOST_ANSWERED,
    MOST_HEADS,
    RECORDS,
    FoundAll,
    HeadsAsked,
    HeadsKept,
    Query,
    Verified,
    Verify,
)
from agent.audit.verify import Segment, examine
from agent.control.asking.answering import Answering, Asker
from agent.control.audit import copies, files
from agent.control.audit.audit import Audit
from agent.control.audit.search import search

MOST_CHAIN: Final = 16 * 1024
_NO_COPY: Final = "no copy of it is held here"


class Answers:
    """Of one agent."""

    def __init__(self, audit: Audit, answering: Answering) -> None:
        self._audit = audit
        self._turn = trio.Lock()
        answering.register(RECORDS, self.records)
        answering.register(HEADS, self.heads)
        answering.register(CHECK, self.check)

    async def records(self, query: Query, _: Asker) -> FoundAll:
        """Those that are asked for; of this host, or of those whose copies are held here."""
        await self._audit.log.flushed()
        async with self._turn:
            return await trio.to_thread.run_sync(self._records, query)

    def _records(self, query: Query) -> FoundAll:
        log, held = self._audit.log, self._audit.copies
        if not query.of:
            lines = chain.from_iterable(files.lines(path) for path in files.segments(log.folder))
            found = search(log.host, lines, query, room=MOST_ANSWERED)
            return FoundAll([found])
        logs, room = [], MOST_ANSWERED
        for host in query.of:
            paths = held.held(host) if host in held.hosts() else []
            if paths:
                lines = chain.from_iterable(copies.unpacked(path) for path in paths)
                logs.append(search(host, lines, query, room=room // len(query.of)))
        return FoundAll(logs)

    async def heads(self, asked: HeadsAsked, _: Asker) -> HeadsKept:
        """Heads of others that were countersigned here, and whose segments are held."""
        async with self._turn:
            return await trio.to_thread.run_sync(self._heads, asked)

    def _heads(self, asked: HeadsAsked) -> HeadsKept:
        witnesses, held = self._audit.witnesses, self._audit.copies
        found: dict[str, list[Kept]] = {}
        chains: dict[str, str] = {}
        for host in witnesses.hosts():
            if asked.hosts and host not in asked.hosts:
                continue
            found[host] = _spread(witnesses.kept_of(host))
            for kept in found[host]:
                for name in (kept.certificate, *(each.certificate for each in kept.witnesses)):
                    if name and name not in chains:
                        chains[name] = self._chain(name)
        there = {host: len(held.held(host)) for host in held.hosts() if not asked.hosts or host in asked.hosts}
        return HeadsKept(found, chains, there)

    def _chain(self, name: str) -> str:
        from agent.control.audit import signing

        return signing.kept(self._audit.log.folder, name)[:MOST_CHAIN]

    async def check(self, asked: Verify, _: Asker) -> Verified:
        """Whether this log, or a copy that is held, is as it was written."""
        if not asked.of:
            await self._audit.log.flushed()
        async with self._turn:
            return await trio.to_thread.run_sync(self._check, asked)

    def _check(self, asked: Verify) -> Verified:
        audit = self._audit
        trust = audit.trust()
        check = None
        if trust.bundles:
            from agent.control.audit import signing

            known = dict(asked.chains)
            check = signing.checker(lambda name: known.get(name) or self._chain(name), trust)
        now_s = audit.log.clock()
        if asked.of and asked.of != audit.log.host:
            paths = audit.copies.held(asked.of) if asked.of in audit.copies.hosts() else []
            if not paths:
                return Verified(examine([], now_s=now_s), _NO_COPY)
            segments: list[Segment] = [(path.name, copies.unpacked(path)) for path in paths]
            heads = [*asked.heads, *audit.witnesses.kept_of(asked.of)]
            told = audit.copies.erased_of(asked.of)
            report = examine(segments, heads, now_s=now_s, check=check, copy=True, told_erased=told)
            note = f"a copy, up to record {report.last}"
        else:
            segments = [(path.name, files.lines(path)) for path in files.segments(audit.log.folder)]
            report = examine(segments, [*audit.witnesses.own(), *asked.heads], now_s=now_s, check=check)
            note = "" if trust.bundles else "heads are not signed: this mesh has no certificates (`shoal ca init`)"
        report.host = report.host or asked.of or audit.log.host
        return Verified(report, note)


def _spread(heads: list[Kept]) -> list[Kept]:
    """The last of them, and of those before some, as far apart as they are many."""
    if len(heads) <= MOST_HEADS:
        return heads
    step = max(1, (len(heads) - MOST_HEADS // 2) // (MOST_HEADS // 2))
    return [*heads[: -MOST_HEADS // 2 : step][: MOST_HEADS // 2], *heads[-MOST_HEADS // 2 :]]
