"""Two agents know of each other's logs: heads signed and countersigned, what is cut off refused, segments copied."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.audit.heads import Head, Kept
from agent.audit.questions import Countersign, Piece, Query, Verify
from agent.audit.record import EXPIRED, Record, parsed
from agent.control.asking.answering import Answering, Asker
from agent.control.audit import copies, files
from agent.control.audit.answers import Answers
from agent.control.audit.audit import Audit
from agent.control.identity.way import NoAnswer
from agent.frames import Audited, Peer, Svid, Trust
from agent.identity.spiffe import agent_id
from agent.settings.document import AuditSettings, Settings
from registry.records import Agent
from tests.support.identity import TRUST_DOMAIN, Authority, key

WEB, DB = "web-1", "db-1"


def trust_of(authority: Authority, host: str) -> Trust:
    """What an agent shows and believes."""
    identity = agent_id(TRUST_DOMAIN, host)
    chain = b"".join(each.public_bytes(Encoding.PEM) for each in authority.svid(identity, host))
    secret = key(str(identity)).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    root = authority.root.certificate.public_bytes(Encoding.DER)
    return Trust(TRUST_DOMAIN, {"": Svid("", "", time.time() + 3600, chain + secret)}, {TRUST_DOMAIN: [root]})


class Pair:
    """Two agents, without a network between."""

    def __init__(self, folder: Path, authority: Authority | None) -> None:
        self.agents = {
            WEB: Agent(address="10.0.0.1", inbound_port=1),
            DB: Agent(address="10.0.0.2", inbound_port=1),
        }
        self.authority = authority
        self.dead: set[str] = set()
        self.audits = {host: self._made(folder, host) for host in self.agents}
        self.answers = {host: Answers(audit, Answering(host, self.agents)) for host, audit in self.audits.items()}

    def _made(self, folder: Path, host: str) -> Audit:
        async def ask(to: str, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
            if to in self.dead or host in self.dead:
                raise NoAnswer("it is dead")
            identity = str(agent_id(TRUST_DOMAIN, host)) if self.authority is not None else ""
            told: list[tuple[int, bytes]] = []
            heard = trio.Event()

            def reply(status: int, answer: bytes) -> None:
                told.append((status, answer))
                heard.set()

            self.audits[to].asked(Peer(1, path, body, self.agents[host].address, identity), reply)
            await heard.wait()
            return told[0]

        trust = trust_of(self.authority, host) if self.authority is not None else Trust()
        settings = Settings(host=host, state_dir=str(folder / host), audit=AuditSettings(head_every="24h"))
        return Audit(settings, self.agents, lambda: trust, ask)


@asynccontextmanager
async def pair(folder: Path, *, proven: bool = True) -> AsyncIterator[Pair]:
    made = Pair(folder, Authority(now_s=time.time()) if proven else None)
    async with trio.open_nursery() as nursery:
        for audit in made.audits.values():
            nursery.start_soon(audit.run)
            await audit.log.opened.wait()
        yield made
        nursery.cancel_scope.cancel()


async def test_two_agents_countersign(tmp_path: Path) -> None:
    """Both keep it, with the certificates; it verifies by signature; a forged one is found."""
    async with pair(tmp_path) as both:
        web = both.audits[WEB]
        web.note("authz.denied", {"n": 1})
        kept = await web.witnesses.make()
        assert kept is not None
        assert (kept.head.n, bool(kept.signature), [each.host for each in kept.witnesses]) == (2, True, [DB])
        assert both.audits[DB].witnesses.kept_of(WEB)[-1].head == kept.head
        report = (await both.answers[WEB].check(Verify(), Asker(DB, True))).report
        assert (report.findings, report.signed, report.countersigned) == ([], 2, 2)
        for host in (WEB, DB):
            assert len(list((both.audits[host].log.folder / files.CERTIFICATES).iterdir())) == 2
        forged = msgspec.structs.replace(kept, head=msgspec.structs.replace(kept.head, n=1))
        report = (await both.answers[WEB].check(Verify(heads=(forged,)), Asker(DB, True))).report
        assert [found.what for found in report.findings] == ["head"]
        assert await web.witnesses.make() is None, "nothing is new"


async def test_without_certificates_it_is_said(tmp_path: Path) -> None:
    """Chain and heads, and no signatures."""
    async with pair(tmp_path, proven=False) as both:
        both.audits[WEB].note("authz.denied", {})
        kept = await both.audits[WEB].witnesses.make()
        assert kept is not None and not kept.signature and len(kept.witnesses) == 1
        told = await both.answers[WEB].check(Verify(), Asker(DB, False))
        assert "heads are not signed" in told.note
        assert (told.report.signed, told.report.countersigned) == (0, 2)


async def test_a_log_that_is_shorter_is_not_countersigned(tmp_path: Path) -> None:
    """Nor one with another record; and nobody's but one's own. Both record it."""
    async with pair(tmp_path) as both:
        web, db = both.audits[WEB], both.audits[DB]
        web.note("a", {})
        kept = await web.witnesses.make()
        assert kept is not None
        head = kept.head
        for other in (Head("default", WEB, 1, "0" * 64, 1.0), Head("default", WEB, head.n, "0" * 64, 1.0)):
            assert (await db.witnesses.countersign(WEB, Countersign(other))).refused
        assert (await db.witnesses.countersign(WEB, Countersign(Head("default", "x", 9, "0" * 64, 1.0)))).refused
        assert not (await db.witnesses.countersign(WEB, Countersign(head))).refused, "once more is no harm"
        await db.log.flushed()
        events = [parsed(text) for path in files.segments(db.log.folder) for text in files.lines(path)]
        assert [e.event for e in events if isinstance(e, Record)].count("audit.doubted") == 2
        # By the door: who asks has to be the host that the log is of.
        for wrong in (Peer(1, "/countersign", msgspec.msgpack.encode(Countersign(head)), "10.0.0.9", ""),):
            assert (await db._answered(wrong))[0] == 403
        assert (await db._answered(Peer(1, "/countersign", b"\xc1", "10.0.0.1", "")))[0] == 400


async def test_nobody_else_lives(tmp_path: Path) -> None:
    """Then a head has no witness, and that is said."""
    async with pair(tmp_path) as both:
        both.dead.add(DB)
        both.audits[WEB].note("a", {})
        kept = await both.audits[WEB].witnesses.make()
        assert kept is not None and not kept.witnesses
        assert "dead" in both.audits[WEB].witnesses.problem
        both.dead.clear()
        kept = await both.audits[WEB].witnesses.make()
        assert kept is not None and kept.witnesses, "it is asked for again, though nothing is new"


async def test_closed_segments_are_copied_and_answer_for_who_is_gone(tmp_path: Path) -> None:
    """Larger than a question; again after a break; and nobody writes under another's name."""
    async with pair(tmp_path) as both:
        web, db = both.audits[WEB], both.audits[DB]
        both.dead.add(DB)
        for n in range(600):
            web.note(
                "authz.denied", {"service": "lamps", "n": n, "noise": f"{n * 7919:x}" * 20}, {"client": f"10.1.1.{n}"}
            )
        await web.log.flushed()
        await web.log.seal()
        assert not await web.copies.send_all()
        both.dead.clear()
        sent: list[bool] = []

        async def send() -> None:
            sent.append(await web.copies.send_all())

        async with trio.open_nursery() as nursery:  # two at once, as one that waited and one that was asked for
            nursery.start_soon(send)
            nursery.start_soon(send)
        assert sent == [True, True], web.copies.problem
        (path,) = db.copies.held(WEB)
        assert path.stat().st_size > copies.MAX_PIECE
        both.dead.add(WEB)
        (found,) = (await both.answers[DB].records(Query(0.0, time.time() + 9, of=(WEB,)), Asker(DB, True))).logs
        assert (found.total, found.host) == (602, WEB)
        told = await both.answers[DB].check(Verify(of=WEB), Asker(DB, True))
        assert (told.report.findings, told.report.last) == ([], 602)
        done, why = await db.copies.erase("client", "10.1.1.7")
        assert (done, why) == (1, "")
        told = await both.answers[DB].check(Verify(of=WEB), Asker(DB, True))
        assert (told.report.findings, told.report.erased) == ([], 1)
        for name in ("../../x", "000000000001.open", "000000000001.jsonl/..", ""):
            assert (await db.copies.keep(WEB, Piece(WEB, name, 0, b"x", True))).refused
        assert (await db.copies.keep(WEB, Piece("other", "000000000009.jsonl", 0, b"x", True))).refused
        assert (await db.copies.keep(WEB, Piece(WEB, "000000000009.jsonl", 5, b"x", True))).size == 0
        assert not list(tmp_path.rglob("x"))


def records_of(folder: Path) -> list[Record]:
    """Of all segments. One that is sealed meanwhile has another name, and is looked for again."""
    while True:
        try:
            found = [parsed(text) for path in files.segments(folder) for text in files.lines(path)]
        except FileNotFoundError:
            continue
        return [record for record in found if isinstance(record, Record)]


async def test_what_was_kept_long_enough_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole segments by time and by room, contents by their own time; the log tells, and stays good."""
    async with pair(tmp_path) as both:
        web = both.audits[WEB]
        now = [time.time()]
        monkeypatch.setattr(web.log, "clock", lambda: now[0])
        for _ in range(4):
            line = msgspec.json.encode(
                {"event": "a", "at": now[0], "data": {"x": 1}, "keep_s": 3600.0, "by_default": False}
            )
            web.on_audited(Audited(1, line), lambda reason: None)
            web.note("b", {})
            await web.log.flushed()
            await web.log.seal()
            now[0] += 7200
        await web.keeping.review()
        kept = records_of(web.log.folder)
        assert [record.data for record in kept if record.event == "a"] == [None] * 4
        now[0] += 91 * 86400 - 3 * 7200
        await web.keeping.review()
        await web.log.flushed()
        events = [record.event for record in records_of(web.log.folder)]
        assert EXPIRED in events
        assert events.count("b") < 4
        told = await both.answers[WEB].check(Verify(), Asker(WEB, True))
        assert told.report.findings == []
        (log,) = (await both.answers[WEB].records(Query(0.0, now[0] + 1), Asker(WEB, True))).logs
        assert any("kept no longer" in span.reason for span in log.missing)


def test_a_head_that_is_none_is_passed_over(tmp_path: Path) -> None:
    """A file of heads with rubbish in it has those that make sense."""
    from agent.audit import heads

    kept = Kept(Head("default", WEB, 1, "0" * 64, 1.0))
    assert heads.parsed([b"rubbish\n", heads.line(kept), b"{}\n", b"[" * 9000]) == [kept]
