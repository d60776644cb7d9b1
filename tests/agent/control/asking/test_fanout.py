"""One question to all agents: each answer by its host, and every host that is missing with the reason."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import pytest
import trio
import trio.testing

from agent import questions
from agent.control.asking import answering, fanout
from agent.control.asking.answering import Answering, Asker, Refusal
from agent.control.asking.fanout import MAX_AT_ONCE, Fanout, Missing
from agent.control.identity.way import NoAnswer, TooLarge, TooLate
from agent.control.mesh.table import Table
from agent.control.traffic.peers import Peers
from agent.frames import Peer
from agent.questions import Question
from registry.keys import Keys
from registry.records import Agent, encode
from registry.store import Change
from tests.support.proxy import running_proxy


class Mood(msgspec.Struct, frozen=True):
    of: str = "day"


class Answered(msgspec.Struct, frozen=True):
    mood: str


MOOD = Question("mood", Mood, Answered, most_bytes=4096)


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "PATHS", (*questions.PATHS, MOOD.path))


def agents(count: int) -> dict[str, Agent]:
    return {f"h{n:03}": Agent(address=f"10.0.{n // 200}.{n % 200 + 1}", inbound_port=1) for n in range(count)}


async def good(asked: Mood, asker: Asker) -> Answered:
    return Answered(f"{asked.of} of {asker.host or 'nobody'}")


@asynccontextmanager
async def running(
    host: str, known: dict[str, Agent], answer: Callable[..., Awaitable[Answered]] = good
) -> AsyncIterator[Answering]:
    of = Answering(host, known)
    of.register(MOOD, answer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(of.run)
        await trio.testing.wait_all_tasks_blocked()
        yield of
        nursery.cancel_scope.cancel()


class Network:
    """Other agents, by what each of them does."""

    def __init__(self, **odd: object) -> None:
        """`odd`: by host, what it answers, raises, or (None) that it hangs; everybody else answers well."""
        self.odd = odd
        self.now = self.most = 0
        self.asked: list[str] = []

    async def ask(self, host: str, path: str, body: bytes, timeout_s: float, most_bytes: int = 0) -> tuple[int, bytes]:
        self.asked.append(host)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            with trio.fail_after(timeout_s):
                await trio.sleep(0.01)
                found = self.odd.get(host, (200, msgspec.msgpack.encode(Answered(f"of {host}"))))
                if found is None:
                    await trio.sleep_forever()
        except trio.TooSlowError:
            raise TooLate(f"no answer within {timeout_s:g} s") from None
        finally:
            self.now -= 1
        if isinstance(found, BaseException):
            raise found
        assert isinstance(found, tuple)
        status, answer = found
        if len(answer) > most_bytes:
            raise TooLarge(f"an answer of more than {most_bytes} bytes")
        return status, answer


async def test_all_are_asked_and_each_answers_for_itself(autojump_clock: trio.testing.MockClock) -> None:
    """Hundreds of them, this one among them without a network between; no more at a time than may be."""
    known = agents(1200)
    network = Network()
    async with running("h007", known) as here:
        told = await Fanout("h007", known, network.ask, here).ask_all(MOOD, Mood("night"), 5)
    assert told.whole and list(told.answers) == sorted(known)
    assert told.answers["h007"] == Answered("night of h007") and told.answers["h008"] == Answered("of h008")
    assert "h007" not in network.asked and network.most == MAX_AT_ONCE


async def test_who_is_missing_is_told_with_the_reason(autojump_clock: trio.testing.MockClock) -> None:
    """Each by what is the matter; and the others are heard."""
    known = agents(12)
    network = Network(
        h001=None,
        h002=NoAnswer("Connection refused"),
        h003=(404, questions.not_known(MOOD.path, "0.1")),
        h004=(403, b"not you"),
        h005=(200, b"\xc1"),
        h006=(200, b"x" * 5000),
        h007=(413, b"9000 bytes"),
        h008=(200, msgspec.msgpack.encode(["no", "map"])),
        h009=KeyError("a bug"),
    )
    async with running("h000", known) as here:
        asking = Fanout("h000", known, network.ask, here)
        told = await asking.ask_all(MOOD, Mood(), 2, [*known, "gone"])
    assert list(told.answers) == ["h000", "h010", "h011"]
    assert {host: each.why for host, each in told.missing.items()} == {
        "gone": "no_agent",
        "h001": "late",
        "h002": "unreachable",
        "h003": "older",
        "h004": "refused",
        "h005": "failed",
        "h006": "too_large",
        "h007": "too_large",
        "h008": "failed",
        "h009": "failed",
    }
    assert told.missing["h002"] == Missing("unreachable", "Connection refused")
    assert "0.1" in told.missing["h003"].reason and "not you" in told.missing["h004"].reason
    assert asking.asked == 13 and asking.unanswered["failed"] == 3


async def test_those_that_hang_cost_the_deadline_and_nobody_an_answer(autojump_clock: trio.testing.MockClock) -> None:
    """More of them than are asked at a time."""
    known = agents(3 * MAX_AT_ONCE)
    network = Network(**dict.fromkeys(list(known)[: 2 * MAX_AT_ONCE]))
    async with running("elsewhere", known) as here:
        started = trio.current_time()
        told = await Fanout("elsewhere", known, network.ask, here).ask_all(MOOD, Mood(), 6)
    assert trio.current_time() - started <= 6.001
    assert len(told.answers) == MAX_AT_ONCE + 1 and {each.why for each in told.missing.values()} == {"late"}


async def test_this_agent_hangs_or_fails_as_any_other(autojump_clock: trio.testing.MockClock) -> None:
    """It is told, and costs nobody else's answer."""
    known = agents(2)

    async def hangs(asked: Mood, asker: Asker) -> Answered:
        await trio.sleep_forever()

    async def fails(asked: Mood, asker: Asker) -> Answered:
        raise ZeroDivisionError

    async def refuses(asked: Mood, asker: Asker) -> Answered:
        raise Refusal(400, "no such mood")

    for answer, why in ((hangs, "late"), (fails, "failed"), (refuses, "refused")):
        async with running("h000", known, answer) as here:
            told = await Fanout("h000", known, Network().ask, here).ask_all(MOOD, Mood(), 1)
        assert list(told.answers) == ["h001"] and told.missing["h000"].why == why


async def test_all_answers_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond is told as missing, and is not kept."""
    monkeypatch.setattr(fanout, "MOST_BYTES", 100)
    known = agents(30)
    async with running("elsewhere", known) as here:
        told = await Fanout("elsewhere", known, Network().ask, here).ask_all(MOOD, Mood(), 5, known)
    kept = sum(len(msgspec.msgpack.encode(answer)) for answer in told.answers.values())
    assert told.answers and kept <= 100 and {each.why for each in told.missing.values()} == {"too_large"}


# Who is asked.


async def answer_to(
    of: Answering, path: str, body: bytes, address: str = "10.0.0.2", identity: str = ""
) -> tuple[int, bytes]:
    send, receive = trio.open_memory_channel[tuple[int, bytes]](1)
    of.asked(Peer(1, path, body, address, identity), lambda *answer: send.send_nowait(answer))
    with trio.fail_after(60):
        return await receive.receive()


async def test_a_question_is_answered_to_who_asks() -> None:
    """By address where nothing is proven, by certificate where it is; nobody is named where two may be there."""
    known = agents(3)
    known["twin"] = known["h001"]
    body = msgspec.msgpack.encode(Mood())
    async with running("h000", known) as here:
        answers = [
            await answer_to(here, MOOD.path, body, "10.0.0.3"),
            await answer_to(here, MOOD.path, body, "10.0.0.2"),
            await answer_to(here, MOOD.path, body, "10.9.9.9", "spiffe://shoal.example/agent/h002"),
            await answer_to(here, MOOD.path, body, "10.0.0.3", "spiffe:///"),
        ]
    told = [msgspec.msgpack.decode(found, type=Answered).mood for status, found in answers if status == 200]
    assert told == ["day of h002", "day of nobody", "day of h002", "day of nobody"]


async def test_what_cannot_be_answered_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """404 for what is not known, 400 for garbage, the answer's own refusal, 413 for too much, 500 for a bug."""
    known = agents(2)

    async def odd(asked: Mood, asker: Asker) -> Answered:
        if asked.of == "much":
            return Answered("x" * 5000)
        raise {"no": Refusal(403, "not this"), "bug": ZeroDivisionError()}[asked.of]

    def of(what: str) -> bytes:
        return msgspec.msgpack.encode(Mood(what))

    async with running("h000", known, odd) as here:
        assert (await answer_to(here, "/ask/weather", b""))[0] == 404
        assert (await answer_to(here, MOOD.path, b"\xc1"))[0] == 400
        assert await answer_to(here, MOOD.path, of("no")) == (403, b"not this")
        assert (await answer_to(here, MOOD.path, of("much")))[0] == 413
        assert (await answer_to(here, MOOD.path, of("bug")))[0] == 500


async def test_too_many_at_once_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """And when these are answered, others are."""
    monkeypatch.setattr(answering, "MAX_AT_ONCE", 2)
    gate = trio.Event()

    async def waits(asked: Mood, asker: Asker) -> Answered:
        await gate.wait()
        return Answered("")

    body = msgspec.msgpack.encode(Mood())
    heard: list[int] = []
    async with running("h000", agents(2), waits) as here:
        for _ in range(2):
            here.asked(Peer(1, MOOD.path, body, ""), lambda status, _: heard.append(status))
        assert (await answer_to(here, MOOD.path, body))[0] == 503
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(60):
            while heard != [200, 200]:
                await trio.sleep(0.005)
        assert (await answer_to(here, MOOD.path, body))[0] == 200


async def test_a_question_is_registered_once_and_by_a_name_that_the_mesh_is_told() -> None:
    """Else no other agent could know of it."""
    here = Answering("h000", {})
    here.register(MOOD, good)
    with pytest.raises(ValueError, match="already"):
        here.register(MOOD, good)
    with pytest.raises(ValueError, match=r"agent\.questions\.PATHS"):
        here.register(Question("other", Mood, Answered), good)


async def test_before_it_runs_it_says_so() -> None:
    """503, and no failure."""
    here = Answering("h000", {})
    here.register(MOOD, good)
    assert (await answer_to(here, MOOD.path, b"\x80"))[0] == 503


# By way of a real worker.


async def test_questions_go_through_the_inbound_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    """To an agent that knows them, which may take its time, and to one that does not."""
    async with running_proxy() as there:
        there.put()
        there.worker.peers.answer_s = 0.05
        records = {"there": Agent(address="127.0.0.1", inbound_port=there.inbound_port)}
        known = Table(Keys(), "here")
        known.apply([Change(Keys().agent(host), encode(record), 2) for host, record in records.items()], 2)

        async def slowly(asked: Mood, asker: Asker) -> Answered:
            await trio.sleep(0.3)
            return Answered("there")

        async with running("there", records, slowly) as other, running("here", records) as here:
            there.worker.peers.connect(lambda told: other.asked(told, partial(there.worker.peers.answer, told.id)))
            peers = Peers(known)
            asking = Fanout("here", known.agents, peers.ask, here)
            told = await asking.ask_all(MOOD, Mood(), 20)
            assert told.answers == {"here": Answered("day of here"), "there": Answered("there")}
            other._known.clear()
            told = await asking.ask_all(MOOD, Mood(), 20)
            assert list(told.answers) == ["here"] and told.missing["there"].why == "older"
            there.worker.peers.connect(lambda told: None)
            there.worker.peers.patient_s = 0.05
            told = await asking.ask_all(MOOD, Mood(), 20)
            assert told.missing["there"].why == "refused" and "504" in told.missing["there"].reason
            await peers.aclose()
