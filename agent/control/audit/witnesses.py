"""Heads of this log, signed and countersigned by another agent at intervals; and heads of others, countersigned here.

Laws
- A head is of what is on disk.
- Each head is seen by one other agent, which is drawn anew: whoever wants to cut the end off unseen has to rule that
  one, too, and does not know beforehand which it will be.
- A log only grows. One that is shorter than it was, or has another record where there was one, is not countersigned,
  and both sides record it.
- Without an SVID heads go about unsigned: they show a cut end, and prove nothing to who does not believe that host.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any, Final

import msgspec
import structlog
import trio

from agent import questions
from agent.audit import heads as heading
from agent.audit.heads import Head, Kept, Witness
from agent.audit.questions import Countersign, Countersigned
from agent.control.audit import files
from agent.control.audit.log import AuditLog
from agent.control.identity.way import NoAnswer
from agent.frames import Trust
from agent.questions import COUNTERSIGN
from registry.records import Agent

PEER_S: Final = 4.0
DOUBTED: Final = "audit.doubted"
Ask = Callable[[str, str, bytes, float], Awaitable[tuple[int, bytes]]]
log = structlog.get_logger()


class Witnesses:
    """Of one agent, both ways."""

    def __init__(
        self,
        audit: AuditLog,
        mesh: str,
        *,
        every_s: float,
        agents: Mapping[str, Agent],
        trust: Callable[[], Trust],
        ask: Ask,
        chance: Random,
    ) -> None:
        """`agents`: those that live, by host; `trust`: what is shown and believed now."""
        self._audit = audit
        self._mesh = mesh
        self._every_s = every_s
        self._agents = agents
        self._trust = trust
        self._ask = ask
        self._chance = chance
        self._known: dict[str, Kept] = {}
        """The last head of each other host that was countersigned here."""
        self._turn = trio.Lock()
        self.last: Kept | None = None
        """The last head of this log."""
        self.countersigned = 0
        """The last record of this log that another agent has seen."""
        self.problem = ""
        """Why the last head is not countersigned; empty: it is."""
        self.doubted = ""
        """Why another agent did not believe this log; empty: none has said so."""

    # This log's.

    async def run(self) -> None:
        """A head at intervals, and when a segment was closed; until cancelled."""
        await self._audit.opened.wait()
        while True:
            with trio.move_on_after(self._every_s):
                await self._audit.closed.wait()
            try:
                await self.make()
            except (OSError, ValueError) as error:
                self.problem = str(error)
                log.warning("the head of the audit log cannot be signed or kept", error=str(error))

    async def make(self) -> Kept | None:
        """A head of what there is now; None: there is nothing new. Raises OSError and ValueError."""
        audit = self._audit
        await audit.flushed()
        reason = await audit.exclusive(audit.segments.sync)
        position = audit.position
        if reason or not position.n or (self.last is not None and self.last.head.n >= position.n and not self.problem):
            return None
        head = Head(self._mesh, audit.host, position.n, position.hash, round(audit.clock(), 3))
        signed = await self._signed(heading.signed_by_owner(head))
        audit.segments.certificate = signed.certificate
        kept = Kept(head, signed.signature, signed.certificate)
        witness = await self._witnessed(kept, signed.chain)
        if witness is not None:
            kept = msgspec.structs.replace(kept, witnesses=(witness,))
            self.countersigned = head.n
        await trio.to_thread.run_sync(files.append_line, audit.folder / files.HEADS, heading.line(kept))
        self.last = kept
        return kept

    async def _signed(self, what: bytes) -> Any:
        svid = self._trust().shown.get("")
        # 9 MB, which a mesh without identity need not have
        if svid is None:
            return _Unsigned
        from agent.control.audit import signing

        signed = await trio.to_thread.run_sync(signing.sign, svid, what)
        await trio.to_thread.run_sync(signing.keep, self._audit.folder, signed.certificate, signed.chain)
        return signed

    async def _witnessed(self, kept: Kept, chain: str) -> Witness | None:
        """Another agent's word; None: nobody gives it."""
        others = sorted(set(self._agents) - {self._audit.host})
        self._chance.shuffle(others)
        self.problem = "" if others else "no other agent lives in this mesh"
        body = msgspec.msgpack.encode(Countersign(kept.head, kept.signature, kept.certificate, chain))
        for host in others[:3]:
            said = await self._asked(host, body)
            if isinstance(said, str):
                self.problem = f"{host}: {said}"
                continue
            if said.refused:
                self.problem = f"{host} does not believe it: {said.refused}"
                if self.doubted != said.refused:
                    self.doubted = said.refused
                    log.error("another agent does not believe this audit log", by=host, reason=said.refused)
                    self._audit.note(DOUBTED, {"host": self._audit.host, "by": host, "reason": said.refused})
                continue
            self.problem = ""
            if said.certificate:
                from agent.control.audit import signing

                await trio.to_thread.run_sync(signing.keep, self._audit.folder, said.certificate, said.chain)
            return Witness(host, said.at, said.signature, said.certificate)
        return None

    async def _asked(self, host: str, body: bytes) -> Countersigned | str:
        try:
            status, answer = await self._ask(host, COUNTERSIGN, body, PEER_S)
        except NoAnswer as error:
            return str(error)
        return questions.read(answer, Countersigned) if status == 200 else questions.refused(status, answer)

    # Others'.

    async def countersign(self, asker: str, asked: Countersign) -> Countersigned:
        """Note the head of another agent's log. `asker`: the host that asks, as it was proven, or by its address."""
        head = asked.head
        if head.host != asker or head.mesh != self._mesh or asker == self._audit.host:
            return Countersigned(refused=f"it is not the head of a log of {asker}")
        async with self._turn:
            before = self._known.get(asker) or await trio.to_thread.run_sync(self._last_of, asker)
            refused = heading.refusal(head, before)
            if refused:
                log.error("the audit log of another host is not believed", host=asker, reason=refused)
                self._audit.note(DOUBTED, {"host": asker, "by": self._audit.host, "reason": refused})
                return Countersigned(refused=refused)
            at = round(self._audit.clock(), 3)
            signed = await self._signed(heading.signed_by_witness(head, self._audit.host, at))
            witness = Witness(self._audit.host, at, signed.signature, signed.certificate)
            kept = Kept(head, asked.signature, asked.certificate, (witness,))
            await trio.to_thread.run_sync(self._keep, kept, asked.chain)
            self._known[asker] = kept
        return Countersigned(at, signed.signature, signed.certificate, signed.chain)

    def _keep(self, kept: Kept, chain: str) -> None:
        if kept.certificate:
            from agent.control.audit import signing

            signing.keep(self._audit.folder, kept.certificate, chain)
        files.append_line(self._path(kept.head.host), heading.line(kept))

    def _last_of(self, host: str) -> Kept | None:
        found = self.kept_of(host)
        return found[-1] if found else None

    def _path(self, host: str) -> Any:
        return self._audit.folder / files.WITNESSED / f"{host}.jsonl"

    def kept_of(self, host: str) -> list[Kept]:
        """Heads of another host that were countersigned here. In a thread."""
        return _heads(self._path(host))

    def own(self) -> list[Kept]:
        """Heads of this log, as they are kept beside it. In a thread."""
        return _heads(self._audit.folder / files.HEADS)

    def hosts(self) -> list[str]:
        """Whose heads were countersigned here. In a thread."""
        try:
            return sorted(
                path.stem for path in (self._audit.folder / files.WITNESSED).iterdir() if path.suffix == ".jsonl"
            )
        except OSError:
            return []

    def as_state(self) -> dict[str, Any]:
        """What /state shows."""
        return {
            "head": self.last.head.n if self.last is not None else 0,
            "signed": bool(self.last is not None and self.last.signature),
            "countersigned": self.countersigned,
            "problem": self.problem,
            "doubted": self.doubted,
        }


class _Unsigned:
    """By who holds nothing to sign with."""

    signature = certificate = chain = ""


def _heads(path: Any) -> list[Kept]:
    try:
        return heading.parsed(files.lines(path))
    except OSError:
        return []
