"""A question to a thousand agents by way of some of them: merged on its way, and nobody is left out without a word."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from random import Random

import msgspec
import pytest
import trio
import trio.testing

from agent import questions
from agent.control.asking.answering import Answering, Asker
from agent.control.asking.fanout import Fanout
from agent.control.asking.tree import BRANCHES, DIRECT, MOST_BYTES, QUICK_BYTES, Tree
from agent.control.figures.counted import edges
from agent.control.figures.figures import Figures
from agent.control.figures.sampler import Sampler
from agent.control.identity.way import NoAnswer, TooLarge, TooLate
from agent.figures.questions import FiguresTold
from agent.figures.tally import Key, Rows, merged
from agent.frames import Peer
from agent.questions import RELAY, Question, Relay, Relayed
from registry.records import Agent
from tests.support.figures import Workers, edge

NOW = 1_700_000_000


class Asked(msgspec.Struct, frozen=True):
    of: str = ""


class Counted(msgspec.Struct, frozen=True):
    hosts: list[str]


def together(asked: Asked, told: Sequence[Counted]) -> Counted:
    return Counted(sorted(host for each in told for host in each.hosts))


COUNT = Question("count", Asked, Counted, merge=together)
PLAIN = Question("plain", Asked, Counted)


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "PATHS", (*questions.PATHS, COUNT.path, PLAIN.path))


class Mesh:
    """Agents in one process: each has its tree, and what they ask each other goes through their answering."""

    def __init__(self, count: int) -> None:
        self.agents = {f"h{n:04}": Agent(address="10.0.0.1", inbound_port=1) for n in range(count)}
        self.answering = {host: Answering(host, self.agents) for host in self.agents}
        self.trees = {
            host: Tree(Fanout(host, self.agents, partial(self._ask, host), of)) for host, of in self.answering.items()
        }
        self.odd: dict[str, str] = {}
        """By host: gone, hangs, older, garbage, fails, huge, or liar."""
        self.read_bytes = 0
        self.asked: list[tuple[str, str, str]] = []
        for host, of in self.answering.items():
            of.register(COUNT, partial(self._count, host))

    async def _count(self, host: str, asked: Asked, asker: Asker) -> Counted:
        return Counted([host])

    async def _ask(
        self, asks: str, host: str, path: str, body: bytes, timeout_s: float, most_bytes: int = 0
    ) -> tuple[int, bytes]:
        self.asked.append((asks, host, path))
        odd = self.odd.get(host, "")
        if odd == "gone" or asks + ">" + host in self.odd:
            raise NoAnswer("Connection refused")
        if odd == "older" and path == RELAY.path:
            return 404, questions.not_known(path, "0.1")
        if odd == "fails" and path == RELAY.path:
            raise RuntimeError("a mistake of ours, or of a library's")
        if odd == "huge" and path == RELAY.path:
            raise TooLarge("more than is read")
        if odd == "garbage" and path == RELAY.path:
            return 200, b"\xc1"
        if odd == "liar" and path == RELAY.path:
            answer = msgspec.msgpack.encode(Counted(["made up"]))
            return 200, msgspec.msgpack.encode(
                {"answer": answer, "missing": {"h9999": ["gone", "no"], host: ["odd", "?"]}}
            )
        try:
            with trio.fail_after(timeout_s):
                if odd == "hangs":
                    await trio.sleep_forever()
                send, receive = trio.open_memory_channel[tuple[int, bytes]](1)
                told = Peer(1, path, body, "10.0.0.1", f"spiffe://shoal.example/agent/{asks}")
                self.answering[host].asked(told, lambda *answer: send.send_nowait(answer))
                status, answered = await receive.receive()
        except trio.TooSlowError:
            raise TooLate(f"no answer within {timeout_s:g} s") from None
        if len(answered) > most_bytes:
            raise TooLarge("too large")
        if asks == "h0000":
            self.read_bytes += len(answered)
        return status, answered

    async def start(self, nursery: trio.Nursery) -> None:
        for of in self.answering.values():
            nursery.start_soon(of.run)
        await trio.testing.wait_all_tasks_blocked()


def heads(mesh: Mesh) -> list[str]:
    return [host for asks, host, path in mesh.asked if asks == "h0000" and path == RELAY.path]


@pytest.fixture
def patient_clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    """Answers are written in threads, which a clock that jumps at once would not wait for."""
    autojump_clock.autojump_threshold = 0.2
    return autojump_clock


async def ask(mesh: Mesh, deadline_s: float = 6.0) -> tuple[Counted | None, int, dict[str, str]]:
    async with trio.open_nursery() as nursery:
        await mesh.start(nursery)
        mesh.asked.clear()
        told = await mesh.trees["h0000"].ask(COUNT, Asked(), deadline_s)
        nursery.cancel_scope.cancel()
    return told.answer, told.heard, {host: each.why for host, each in told.missing.items()}


async def test_few_are_asked_directly() -> None:
    """No agent stands between."""
    mesh = Mesh(DIRECT)
    answer, heard, missing = await ask(mesh)
    assert answer == Counted(sorted(mesh.agents)) and heard == DIRECT and not missing
    assert not heads(mesh)


async def test_a_thousand_are_asked_by_way_of_some() -> None:
    """Each once, by sixteen agents at most; whoever asks has them all in one answer."""
    mesh = Mesh(1000)
    answer, heard, missing = await ask(mesh)
    assert answer == Counted(sorted(mesh.agents)) and heard == 1000 and not missing
    assert len(heads(mesh)) == BRANCHES
    counted = [host for _, host, path in mesh.asked if path == COUNT.path]
    assert len(counted) == len(set(counted)) == 1000 - 1 - BRANCHES


class Wordy(Mesh):
    """Each says so much that two are too much for the loop."""

    async def _count(self, host: str, asked: Asked, asker: Asker) -> Counted:
        return Counted([host, "x" * (QUICK_BYTES // 2)])


@pytest.mark.parametrize(("mesh", "aside"), [(Mesh, False), (Wordy, True)])
async def test_much_is_merged_aside_of_the_loop(mesh: type[Mesh], aside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of a hundred services from 48 agents are seconds of work."""
    threads: list[bool] = []

    def noted(asked: Asked, told: Sequence[Counted]) -> Counted:
        threads.append(threading.current_thread() is not threading.main_thread())
        return together(asked, told)

    monkeypatch.setattr(COUNT, "merge", noted)
    answer, heard, missing = await ask(mesh(4))
    assert answer is not None and {"h0000", "h0003"} <= set(answer.hosts)
    assert (heard, missing, threads) == (4, {}, [aside])


async def test_who_is_in_the_middle_and_fails_is_asked_around(patient_clock: trio.testing.MockClock) -> None:
    """One that is gone, one that hangs, one that is older, one that answers garbage: only they themselves are missing,
    and of them those that cannot be asked."""
    mesh = Mesh(400)
    await ask(mesh)
    gone, hangs, older, garbage, *_ = heads(mesh)
    mesh.odd = {gone: "gone", hangs: "hangs", older: "older", garbage: "garbage"}
    started = trio.current_time()
    answer, heard, missing = await ask(mesh)
    assert trio.current_time() - started <= 6.001
    assert missing == {gone: "unreachable", hangs: "late"}
    assert heard == 398 and answer == Counted(sorted(set(mesh.agents) - {gone, hangs}))


async def test_a_question_that_fails_by_way_of_another_is_asked_around() -> None:
    """Whatever it was; and so is who would tell too much of all of them: each for itself may tell less."""
    mesh = Mesh(400)
    await ask(mesh)
    fails, huge, *_ = heads(mesh)
    mesh.odd = {fails: "fails", huge: "huge"}
    answer, heard, missing = await ask(mesh)
    assert not missing and heard == 400 and answer == Counted(sorted(mesh.agents))


async def test_who_is_missing_below_is_named(patient_clock: trio.testing.MockClock) -> None:
    """By way of the one who asked in vain. Whom only that one cannot reach is asked directly."""
    mesh = Mesh(400)
    await ask(mesh)
    middle = heads(mesh)
    leaves = {asks: [h for a, h, p in mesh.asked if a == asks and p == COUNT.path] for asks in middle}
    gone, hangs, unseen = leaves[middle[0]][:3]
    mesh.odd = {gone: "gone", hangs: "hangs", f"{middle[0]}>{unseen}": "cut"}
    answer, heard, missing = await ask(mesh)
    assert missing == {gone: "unreachable", hangs: "late"} and heard == 398
    assert answer is not None and unseen in answer.hosts


async def test_what_it_says_of_others_is_heard_of_no_others() -> None:
    """One in the middle tells of hosts that it was not to ask, and in no known words."""
    mesh = Mesh(200)
    await ask(mesh)
    liar = heads(mesh)[0]
    mesh.odd = {liar: "liar"}
    _, heard, missing = await ask(mesh)
    assert "h9999" not in missing and heard + len(missing) == 200


async def test_everybody_is_gone(patient_clock: trio.testing.MockClock) -> None:
    """All are named, and this one has answered."""
    mesh = Mesh(300)
    mesh.odd = dict.fromkeys(sorted(mesh.agents)[1:], "hangs")
    started = trio.current_time()
    answer, heard, missing = await ask(mesh, 2)
    assert trio.current_time() - started <= 2.001
    assert answer == Counted(["h0000"]) and heard == 1 and len(missing) == 299 and set(missing.values()) == {"late"}


async def test_what_is_not_merged_is_not_asked_for_others() -> None:
    """Neither what each host answers for itself, nor a relay of a relay, nor garbage."""
    mesh = Mesh(2)
    of = mesh.answering["h0001"]
    of.register(PLAIN, partial(mesh._count, "h0001"))
    async with trio.open_nursery() as nursery:
        await mesh.start(nursery)
        for path, body, status in (
            (PLAIN.path, msgspec.msgpack.encode(Asked()), 404),
            (RELAY.path, msgspec.msgpack.encode(Asked()), 404),
            ("/ask/other", b"", 404),
            (COUNT.path, b"\xc1", 400),
        ):
            relay = msgspec.msgpack.encode(Relay(path, body, [], 1.0))
            told = await mesh._ask("h0000", "h0001", RELAY.path, relay, 5.0, 10_000)
            assert told[0] == status, path
        relay = msgspec.msgpack.encode(Relay(COUNT.path, msgspec.msgpack.encode(Asked()), ["h0000"], 1.0, 3))
        assert (await mesh._ask("h0000", "h0001", RELAY.path, relay, 5.0, 10_000))[0] == 413
        relay = msgspec.msgpack.encode(Relay(COUNT.path, msgspec.msgpack.encode(Asked()), ["h0000", "x"], 1.0))
        _, body = await mesh._ask("h0000", "h0001", RELAY.path, relay, 5.0, 10_000)
        told = msgspec.msgpack.decode(body, type=Relayed)
        assert {host: each.why for host, each in told.missing.items()} == {"x": "no_agent"}
        nursery.cancel_scope.cancel()


# Figures.


async def test_figures_of_a_thousand_agents() -> None:
    """Each has counted ten of sixty services, with callers and instances: by service, edge and instance the sums are
    what one would have counted who had seen everything, and who asks has read a MiB at most."""
    mesh = Mesh(1000)
    rng = Random(1)
    figures: dict[str, Figures] = {}
    seen: dict[str, Rows] = {}
    for host, tree in mesh.trees.items():
        workers = Workers()
        services = {
            f"service-{rng.randrange(60)}.production": {
                "edges": [edge(rng.randrange(1, 500), caller=f"caller-{rng.randrange(6)}.production") for _ in range(2)]
            }
            for _ in range(10)
        }
        workers.figures = [{"services": services}]
        sampler = Sampler(workers)
        sampler._before = {}
        await sampler.look(NOW, ended=True)
        seen[host] = edges(workers.figures)
        figures[host] = Figures(sampler, tree, mesh.answering[host], clock=lambda: NOW + 2.0)
    everything = merged(rows.items() for rows in seen.values())
    async with trio.open_nursery() as nursery:
        await mesh.start(nursery)
        for by in ("service", "edge"):
            mesh.read_bytes = 0
            told = await figures["h0000"].ask(figures["h0000"].asked(60, by), 20.0)  # type: ignore[arg-type]
            assert told.heard == 1000 and not told.missing and isinstance(told.answer, FiguresTold)
            assert told.answer.folded == 0 and told.answer.covered_s == 10
            wanted: dict[Key, int] = {}
            for key, tally in everything.items():
                short = Key(key.service, key.caller if by == "edge" else "")
                wanted[short] = wanted.get(short, 0) + tally.total
            assert {key: tally.total for key, tally in told.answer.rows} == wanted
            assert mesh.read_bytes <= MOST_BYTES and told.size_bytes <= MOST_BYTES
        nursery.cancel_scope.cancel()
