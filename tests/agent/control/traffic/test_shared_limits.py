"""Limits of the whole mesh: what an owner answers, and what two agents make of one limit."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from agent import questions
from agent.control.mesh.table import Table
from agent.control.traffic.shared_limits import SharedLimits, _among, _in_parts, _told, asked
from agent.frames import Peer, ToWorker
from agent.proxy.control.peers import MAX_BYTES
from agent.proxy.report import state
from agent.questions import SHARES, Demand, Figures, KeyDemand
from policies.kinds.ratelimit.shares import Report, owner
from policies.together import OWNERS, WORDS, Together
from registry.keys import Keys
from registry.store import Change
from tests.support.proxy import GET, Client, Proxy, always_ok, endpoint, refusing_port, running_proxy

KEYS = Keys()
LIMIT: dict[str, Any] = {"limits": [{"name": "all", "rate": "20/s", "scope": "mesh"}]}
NAME = "pets.production\0all"


def table(host: str, ports: dict[str, int], **policies: dict[str, Any]) -> Table:
    """What the agent of a host knows: agents by their inbound ports, one instance of pets.production, and limits."""
    known = Table(KEYS, host)
    records: dict[str, Any] = {
        KEYS.agent(name): {"address": "127.0.0.1", "inbound_port": port} for name, port in ports.items()
    }
    records[KEYS.instance("pets.production", "a")] = {"address": "127.0.0.1", "port": 80}
    for pattern, document in policies.items():
        records[KEYS.policy("ratelimit", pattern.replace("__", "*."))] = document
    known.apply([Change(key, json.dumps(value).encode(), 2) for key, value in records.items()], 2)
    return known


class Workers:
    """The workers of one agent, as SharedLimits sees them: here one, in this very process."""

    def __init__(self, proxy: Proxy) -> None:
        self._worker = proxy.worker

    async def ask_each(self, what: str) -> dict[int, Any]:
        return {0: state.demand(self._worker) if what == "demand" else state.keys(self._worker)}

    def tell(self, index: int, frame: ToWorker) -> None:
        assert index == 0
        self._worker.take(frame)


def together() -> Together:
    """Of one worker."""
    words = memoryview(bytearray(8 * WORDS)).cast("q")
    words[OWNERS] = 1
    return Together(words, 0)


def answer_by(proxy: Proxy, sharing: SharedLimits) -> None:
    """Whatever other agents ask the worker, this agent answers; later, as control does."""
    token = trio.lowlevel.current_trio_token()

    def passed_on(frame: Peer) -> None:
        status, body = asked(frame.path, frame.body, sharing, frame.address)
        token.run_sync_soon(proxy.worker.peers.answer, frame.id, status, body)

    proxy.worker.peers.connect(passed_on)


def alone(**policies: dict[str, Any]) -> SharedLimits:
    """An agent that has nobody to ask."""
    known = table("here", {"here": 1, "there": 2, "third": 3}, **policies)
    return SharedLimits(known, "here")


def report(member: str) -> bytes:
    """A question that is one."""
    return msgspec.msgpack.encode(Demand(member, {NAME: Figures(1.0, 0.0, 1.0, 0.0)}))


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/nothing", b"", 404),
        (SHARES, b"\xff\xfe garbage", 400),
        (SHARES, msgspec.msgpack.encode({"member": "here"}), 400),
        (SHARES, msgspec.msgpack.encode(Demand("stranger", {NAME: Figures(1.0, 0.0, 1.0, 0.0)})), 403),
        (SHARES, msgspec.msgpack.encode(Demand("here", {NAME: Figures(1.0, 0.0, 1.0, 0.0)})), 403),
        (SHARES, b"\x92\xa1\xff\x80", 400),
        (SHARES, b"\x92\xa5there\x81\xa1\xff\x94\x01\x00\x01\x00", 400),
        (SHARES, b"\x91" * 60_000, 400),
        (SHARES, b"\x93\xa5there\x80" + b"\x91" * 60_000 + b"\xc0", 400),
        (SHARES, b"\xdd\xff\xff\xff\xff", 400),
        (SHARES, b"", 400),
    ],
)
async def test_what_is_no_report_of_a_live_agent_is_refused(path: str, body: bytes, status: int) -> None:
    """Whatever it is that the decoder raises; and nothing changes."""
    sharing = alone(**{"pets.production": LIMIT})
    assert asked(path, body, sharing, "127.0.0.1")[0] == status
    assert sharing._ledger._divisions == {}


@pytest.mark.parametrize(
    ("address", "ranges", "status"),
    [
        ("127.0.0.1", (), 200),
        ("::ffff:127.0.0.1", (), 200),
        ("127.0.0.2", (), 403),
        ("127.0.0.2", ("127.0.0.2/31",), 200),
        ("127.0.0.2", ("10.0.0.0/8",), 403),
        ("nonsense", (), 403),
    ],
)
async def test_the_member_that_is_named_has_to_be_there(address: str, ranges: tuple[str, ...], status: int) -> None:
    """A question counts as that of the agent that is registered where it comes from."""
    known = table("here", {"here": 1, "there": 2}, **{"pets.production": LIMIT})
    sharing = SharedLimits(known, "here", ranges)
    assert asked(SHARES, report("there"), sharing, address)[0] == status


@given(st.binary(max_size=300))
@example(b"\x92\xa1\xff\x80")
def test_no_question_is_too_strange(body: bytes) -> None:
    """It is answered."""
    sharing = alone(**{"pets.production": LIMIT})
    assert asked(SHARES, body, sharing, "127.0.0.1")[0] in (200, 400, 403)


NUMBERS = st.floats() | st.integers(-(2**63), 2**64 - 1)


@given(st.lists(st.tuples(st.sampled_from([NAME, "other"]), st.tuples(*[NUMBERS] * 4)), max_size=20))
def test_no_member_takes_more_than_there_is(told: list[tuple[str, Any]]) -> None:
    """Whatever figures it sends, in whatever order: grants are parts of a limit, and limits that are none get none."""

    async def run() -> None:
        sharing = alone(**{"pets.production": LIMIT})
        for name, figures in told:
            body = msgspec.msgpack.encode(["there", {name: figures}])
            status, answer = asked(SHARES, body, sharing, "127.0.0.1")
            assert status == 200
            grants = msgspec.msgpack.decode(answer, type=dict[str, float])
            assert grants.keys() <= {NAME} and all(0.0 <= grant <= 1.0 for grant in grants.values())

    trio.run(run)


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\x81\xa1\xff",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\x81\xa1\xff\xca\x00",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\x91",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000,
        b"\xff\xfe\x00",
        b"",
    ],
)
async def test_an_owner_that_is_somebody_else_now(said: bytes) -> None:
    """Who answers under the address of an agent that has gone is not believed, and ends nothing."""
    async with running_proxy() as proxy, trio.open_nursery() as nursery:
        heard: list[bytes] = []

        async def rogue(client: Client) -> None:
            heard.append(await client.head())
            if said:
                await client.send(said)

        ports = {"here": proxy.inbound_port, **{f"gone-{n}": await proxy.upstream(rogue) for n in range(3)}}
        assert owner(NAME, ports) != "here"
        workers: Any = Workers(proxy)
        sharing = SharedLimits(table("here", ports, **{"pets.production": LIMIT}), "here")
        proxy.put(endpoint(1), ratelimit=LIMIT)
        nursery.start_soon(sharing.run, workers)
        with trio.fail_after(60):
            while len(heard) < 2:
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()


async def test_figures_beyond_reason_are_not_believed() -> None:
    """An agent gone mad gets no more than there is."""
    sharing = alone(**{"pets.production": LIMIT})
    for demand in (-1.0, float("inf"), float("nan"), 1e300):
        for member in ("there", "third"):
            body = msgspec.msgpack.encode(Demand(member, {NAME: Figures(demand, demand, demand, demand)}))
            status, answer = asked(SHARES, body, sharing, "127.0.0.1")
            grants = msgspec.msgpack.decode(answer, type=dict[str, float])
            assert status == 200 and all(0.0 <= grant <= 1.0 for grant in grants.values())


@pytest.mark.parametrize(
    ("policies", "found"),
    [
        ({"pets.production": LIMIT}, [NAME]),
        ({"__production": LIMIT}, [NAME]),
        ({"__production": LIMIT, "pets.production": {"limits": [{"name": "own", "rate": 1}]}}, []),
        ({"pets.production": {**LIMIT, "mode": "audit"}}, []),
    ],
)
async def test_which_limits_are_shared(policies: dict[str, Any], found: list[str]) -> None:
    """Those of the document in force, if it is enforced."""
    assert list(alone(**policies)._limits()) == found


def test_workers_share_by_what_they_are_asked_for() -> None:
    """Evenly while nobody asks; and never more than the agent's part."""
    assert _among({"0": 0.0, "1": 0.0}, 0.5) == {"0": 0.25, "1": 0.25}
    found = _among({"0": 90.0, "1": 10.0}, 0.5)
    assert found["0"] > 0.4 and sum(found.values()) <= 0.5


async def test_two_agents_and_one_limit() -> None:
    """All the load comes in at one: it gets nearly all of the limit. Together they never have more than there is."""
    async with running_proxy() as one, running_proxy() as two, trio.open_nursery() as nursery:
        ports = {"one": one.inbound_port, "two": two.inbound_port}
        buckets = []
        for name, proxy in (("one", one), ("two", two)):
            workers: Any = Workers(proxy)
            sharing = SharedLimits(table(name, ports, **{"pets.production": LIMIT}), name)
            answer_by(proxy, sharing)
            proxy.agents = 2
            proxy.put(endpoint(await proxy.upstream(always_ok)), ratelimit=LIMIT)
            found = proxy.worker.table.services["pets.production"].buckets
            assert found is not None and found.share("all") == 0.5, "until somebody divides"
            buckets.append(found)
            nursery.start_soon(sharing.run, workers)
        client = await one.client()
        with trio.fail_after(60):
            while buckets[0].share("all") < 0.9:
                await client.ask(GET, b"\r\n\r\n")
                client.received = b""
                assert buckets[0].share("all") + buckets[1].share("all") <= 1 + 1e-9
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()


async def test_two_agents_and_a_limit_for_each_key() -> None:
    """A user that comes in at one of them gets all of his limit there, though all the others come in at the other."""
    document = {"limits": [{"name": "all", "rate": "20/s", "scope": "mesh", "key": {"header": "x-user"}}]}
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        proxies = [await stack.enter_async_context(running_proxy(together=together())) for _ in range(2)]
        ports = {f"host{n}": proxy.inbound_port for n, proxy in enumerate(proxies)}
        meters = []
        for name, proxy in zip(ports, proxies, strict=True):
            workers: Any = Workers(proxy)
            sharing = SharedLimits(table(name, ports, **{"pets.production": document}), name)
            answer_by(proxy, sharing)
            proxy.agents = 2
            proxy.put(endpoint(await proxy.upstream(always_ok)), ratelimit=document)
            buckets = proxy.worker.table.services["pets.production"].buckets
            assert buckets is not None and buckets.share("all") == 0.5
            meters.append(buckets.meter("all"))
            nursery.start_soon(sharing.run, workers)
        clients = [await proxy.client() for proxy in proxies]
        with trio.fail_after(60):
            while list(meters[0].keys.values()) != [1.0]:
                for client, users in zip(clients, ([b"ann"], [b"bob", b"eve"]), strict=True):
                    for user in users:
                        await client.ask(GET[:-2] + b"x-user: %b\r\n\r\n" % user, b"\r\n\r\n")
                        client.received = b""
                await trio.sleep(0.005)
        assert meters[0].share == meters[1].share == 0.5, "of any other key"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("path", [SHARES, questions.KEYS])
def test_a_long_report_is_told_in_parts(path: str) -> None:
    """Each of which a listener takes."""
    many = {f"{'x' * 60}.production\0{n:016x}\0{n:016x}": Report(1e6, 0.5) for n in range(2000)}
    parts = list(_in_parts(many))
    assert sum(map(len, parts)) == 2000
    kind = Demand if path == SHARES else KeyDemand
    assert all(len(msgspec.msgpack.encode(kind("h" * 60, _told(part)))) <= MAX_BYTES for part in parts)


async def test_an_owner_that_is_gone() -> None:
    """Nobody listens there: everyone goes on with an equal part, and nothing fails."""
    async with running_proxy() as proxy, trio.open_nursery() as nursery:
        ports = {"here": proxy.inbound_port, **{f"gone-{n}": refusing_port() for n in range(3)}}
        assert owner(NAME, ports) != "here"
        workers: Any = Workers(proxy)
        sharing = SharedLimits(table("here", ports, **{"pets.production": LIMIT}), "here")
        proxy.put(endpoint(1), ratelimit=LIMIT)
        nursery.start_soon(sharing.run, workers)
        buckets = proxy.worker.table.services["pets.production"].buckets
        assert buckets is not None
        client = await proxy.client()
        with trio.fail_after(60):
            while buckets.share("all") > 0.3:
                await client.ask(GET, b"\r\n\r\n")
                client.received = b""
                await trio.sleep(0.005)
        assert buckets.share("all") > 0.2
        nursery.cancel_scope.cancel()
