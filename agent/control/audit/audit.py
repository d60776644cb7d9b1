"""All of this host's audit log, as an agent has it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

import msgspec
import structlog
import trio

import agent
from agent import questions
from agent.audit.draft import Said
from agent.audit.questions import Countersign, Erase, Erased, Piece
from agent.audit.record import Draft
from agent.control.audit.copies import Copies
from agent.control.audit.keeping import Keeping
from agent.control.audit.log import AuditLog
from agent.control.audit.witnesses import Ask, Witnesses
from agent.frames import Audited, Peer, Trust
from agent.identity.spiffe import parse_id
from agent.questions import COUNTERSIGN, ERASE, KEEP
from agent.settings.document import Settings
from agent.trust import Agents
from policies.language.duration import age_s, seconds
from registry.records import Agent

OWN_PATHS: Final = (COUNTERSIGN, KEEP, ERASE)
MAX_ASKED: Final = 64
"""Questions of other agents that are worked on at a time."""
Reply = Callable[[int, bytes], None]
T = TypeVar("T", bound=msgspec.Struct)
log = structlog.get_logger()


class Audit:
    """The parts, and the ways to them."""

    def __init__(
        self,
        settings: Settings,
        agents: Mapping[str, Agent],
        trust: Callable[[], Trust],
        ask: Ask,
        ship: Callable[[bytes, int], None] | None = None,
    ) -> None:
        """`agents`: those that live, by host; `trust`: what this agent shows and believes now; `ask`: a question to
        another host's agent; `ship`: is handed every line that is written."""
        how = settings.audit
        folder = Path(how.directory) if how.directory else settings.state_path / "audit"
        self.keep_s = age_s(how.keep)
        self.log = AuditLog(
            folder,
            settings.host,
            about={"mesh": settings.mesh, "version": agent.VERSION},
            segment_bytes=how.segment_bytes,
            segment_s=seconds(how.segment_age),
            clock=time.time,
            chance=secrets.token_bytes,
            ship=ship,
        )
        self.keeping = Keeping(self.log, self.keep_s, how.max_bytes)
        self.witnesses = Witnesses(
            self.log,
            settings.mesh,
            every_s=seconds(how.head_every),
            agents=agents,
            trust=trust,
            ask=ask,
            chance=Random(),
        )
        self.copies = Copies(
            self.log,
            agents=agents,
            ask=ask,
            to=how.copies,
            directory=Path(how.copy_to) if how.copy_to else None,
            max_bytes=how.copies_max_bytes,
        )
        self.trust = trust
        self._agents = agents
        self._believed = Agents(settings.inbound.agents)
        self._decoder = msgspec.json.Decoder(Said)
        self._asked = 0
        self._nursery: trio.Nursery | None = None

    def note(self, event: str, data: Mapping[str, Any], personal: Mapping[str, str] | None = None) -> None:
        """Something happened."""
        self.log.note(event, data, personal)

    # What workers hand over.

    def on_audited(self, told: Audited, reply: Callable[[str], None]) -> None:
        """Records of a worker's. `reply` is told of one that somebody waits for."""
        for why, count in told.lost.items():
            self.log.lose(count, why)
        for text in told.lines.splitlines():
            try:
                draft = self._draft(self._decoder.decode(text))
            except msgspec.DecodeError as error:
                self.log.lose(1, "a worker's record makes no sense")
                log.error("an audit record of a worker's makes no sense", error=str(error))
                if told.id:
                    reply("it makes no sense")
                continue
            if told.id:
                self.log.synced(draft, reply)
            else:
                self.log.add(draft)

    def _draft(self, said: Said) -> Draft:
        until = 0.0
        if said.keep_s:
            until = said.at + max(said.keep_s, self.keep_s if said.by_default else 0.0)
        return Draft(said.event, said.at, said.data, said.personal, until)

    # What other agents ask.

    def asked(self, told: Peer, reply: Reply) -> None:
        """A question of OWN_PATHS."""
        if self._nursery is None or self._asked >= MAX_ASKED:
            reply(503, b"this agent has enough to do; ask again")
            return
        self._asked += 1
        self._nursery.start_soon(self._answer, told, reply)

    async def _answer(self, told: Peer, reply: Reply) -> None:
        try:
            reply(*await self._answered(told))
        except OSError as error:
            reply(500, f"the disk of this host: {error.strerror or error}".encode())
        except Exception:
            log.exception("a question about audit logs failed", path=told.path, address=told.address)
            reply(500, b"this agent failed at that question, see its log")
        finally:
            self._asked -= 1

    async def _answered(self, told: Peer) -> tuple[int, bytes]:
        if told.path == COUNTERSIGN:
            asked = questions.read(told.body, Countersign)
            if isinstance(asked, str):
                return 400, asked.encode("utf-8", "replace")
            if no := self._not(asked.head.host, told):
                return 403, no.encode()
            return 200, msgspec.msgpack.encode(await self.witnesses.countersign(asked.head.host, asked))
        if told.path == KEEP:
            piece = questions.read(told.body, Piece)
            if isinstance(piece, str):
                return 400, piece.encode("utf-8", "replace")
            if no := self._not(piece.host, told):
                return 403, no.encode()
            return 200, msgspec.msgpack.encode(await self.copies.keep(piece.host, piece))
        wish = questions.read(told.body, Erase)
        if isinstance(wish, str):
            return 400, wish.encode("utf-8", "replace")
        return 200, msgspec.msgpack.encode(await self.erase(wish))

    def _not(self, host: str, told: Peer) -> str:
        """Why who asks is not the agent of a host; empty: it is."""
        record = self._agents.get(host)
        if record is None:
            return "no such agent lives in this mesh"
        if told.identity:
            try:
                proven = parse_id(told.identity).host
            except ValueError:
                proven = ""
            return "" if proven == host else "that is another agent than the certificate's"
        if not self._believed.from_agent(told.address, record.address):
            return "that agent is registered elsewhere"
        return ""

    async def erase(self, wish: Erase) -> Erased:
        """Somebody, in this log and in what is held of others."""
        done = await self.keeping.erase(wish.field, wish.value, by=wish.by)
        copies, why = await self.copies.erase(wish.field, wish.value)
        return Erased(done.records, done.segments, copies, done.reason or why)

    # What goes on.

    async def run(self) -> None:
        """Until cancelled; the log itself is written to the end."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self.log.run)
            self._nursery.start_soon(self.keeping.run)
            self._nursery.start_soon(self.witnesses.run)
            self._nursery.start_soon(self.copies.run)

    def as_state(self) -> dict[str, Any]:
        """What /state shows."""
        return {
            **self.log.as_state(),
            "heads": self.witnesses.as_state(),
            "copies": self.copies.as_state(),
        }

    def counters(self) -> dict[tuple[str, ...], float]:
        """For metrics."""
        return {("shoal_audit_records",): self.log.written, ("shoal_audit_records_lost",): self.log.lost}

    def gauges(self) -> dict[str, float]:
        """For metrics."""
        return {
            "shoal_audit_waiting": self.log.waiting,
            "shoal_audit_failing": float(bool(self.log.error)),
            "shoal_audit_last": self.log.position.n,
            "shoal_audit_countersigned": self.witnesses.countersigned,
        }
