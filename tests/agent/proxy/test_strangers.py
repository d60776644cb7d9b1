"""Whatever bytes come, to either listener, under policies that look at everything: an answer or a closed connection,
and never an exception at the reactor's boundary, which is where it would be logged."""

from __future__ import annotations

import base64
import logging
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.frames import Answer, Configure, to_control, to_worker
from agent.framing import Decoder, encode
from agent.proxy.process import encoded
from tests.support.proxy import OK, STRANGER, Client, Proxy, endpoint, running_proxy

EYES: dict[str, Any] = {
    "route": {
        "rules": [
            {
                "match": {"headers": {"x-user": {"regex": "a+"}}, "path": {"prefix": "/a"}},
                "split": [{"version": "v1"}, {"labels": {"a": "b"}}],
                "sticky": {"cookie": "user"},
                "rewrite": {"path": "/b"},
            },
            {"match": {"query": {"q": "1"}}, "respond": {"status": 418}},
        ]
    },
    "balance": {"algorithm": "ring-hash", "hash": [{"header": "x-user"}, {"cookie": "user"}, {"path": True}]},
    "ratelimit": {"limits": [{"name": "each", "rate": "1000000/s", "key": {"header": "x-user"}}]},
    "shed": {"concurrency": 1000, "priorities": [{"match": {"headers": {"x-user": "root"}}, "priority": "high"}]},
}
NAMES = (
    b"x-user cookie host via connection expect upgrade content-length transfer-encoding x-request-id x-forwarded-for "
    b"proxy-authorization x-shoal-deadline x-shoal-explain x-shoal-caller x-shoal-endpoint x-shoal-priority "
    b"x-shoal-shadow x-shoal-attempt"
).split()
VALUES = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b"pets.production", b"1", b"100-continue", b"chunked", b"close", b"websocket", b"0", b"pets.production/x"]
    ),
    st.binary(max_size=20).map(lambda value: b"Basic " + base64.b64encode(value)),
)
LINES = st.tuples(st.sampled_from(NAMES), VALUES).map(lambda pair: b"%b: %b\r\n" % pair)
TARGETS = st.one_of(
    st.binary(max_size=20).map(lambda tail: b"/a" + tail),
    st.text("/%?&=aq1.é\x7f", max_size=20).map(lambda text: b"/" + text.encode("latin-1")),
    st.sampled_from([b"*", b"http://pets.production/", b"http://[::1]/", b"/?q=1", b"/%00%ff"]),
)
REQUESTS = st.builds(
    lambda method, target, host, lines, body: (
        b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n%b" % (method, target, host, b"".join(lines), body)
    ),
    st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"X"]),
    TARGETS,
    st.one_of(
        st.sampled_from([b"pets.production", b"agent.shoal", b"PETS.production:80", b"nobody"]), st.binary(max_size=10)
    ),
    st.lists(LINES, max_size=6),
    st.binary(max_size=20),
)
SAID = st.one_of(REQUESTS, st.binary(max_size=100), st.lists(REQUESTS, max_size=3).map(b"".join))


async def instance(client: Client) -> None:
    """Answers whatever looks like a head."""
    while True:
        await client.head()
        await client.send(OK)


async def tell(proxy: Proxy, data: bytes, *, inbound: bool, source: str) -> None:
    """Say it, say no more, and hear whatever comes."""
    client = await proxy.client(inbound=inbound, source=source)
    try:
        await client.send(data)
        client.stream.socket.shutdown(trio.socket.SHUT_WR)
        await client.rest()
    except (trio.BrokenResourceError, OSError):
        pass
    finally:
        await client.stream.aclose()
        proxy.clients.remove(client)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SAID, min_size=1, max_size=5))
def test_nothing_that_is_said_raises(caplog: pytest.LogCaptureFixture, said: list[bytes]) -> None:
    """Heads, halves of heads, bodies and garbage, from services, agents and strangers."""

    async def run() -> None:
        async with running_proxy() as proxy:
            proxy.worker.table.host = "here"
            proxy.worker.peers.connect(lambda frame: proxy.worker.peers.answer(frame.id, 200, b"") and None)
            proxy.worker.callers.configure({"web.production": "s3cret"})
            proxy.worker.recorder.keep(True)
            proxy.put(endpoint(await proxy.upstream(instance), agent="here"), **EYES)
            for data in said:
                await tell(proxy, data, inbound=False, source="127.0.0.1")
                await tell(proxy, data, inbound=True, source="127.0.0.1")
                await tell(proxy, data, inbound=True, source=STRANGER)
            while records := proxy.worker.recorder.take(100):
                assert list(Decoder(to_control).feed(encode(records))) == [records]

    caplog.clear()
    trio.run(run)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_host_that_nobody_has_is_not_remembered_at_length() -> None:
    """Names that are longer than any service's are looked up nowhere, so memory stays what it was."""
    async with running_proxy() as proxy:
        proxy.put()
        client = await proxy.client(inbound=True, source=STRANGER)
        for number in range(20):
            await client.ask(b"GET / HTTP/1.1\r\nHost: %b%d\r\n\r\n" % (b"x" * 50_000, number), b"}\n")
        assert proxy.worker.table._by_host == {}


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=10)
    | st.binary(max_size=10)
)
KEYS = "t id what args name revision endpoints policies addresses host limits callers shares status body reason agents"
FRAMES = st.dictionaries(
    st.sampled_from(KEYS.split(" ")),
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=6,
)
KINDS = st.sampled_from(
    ["service", "gone", "commit", "configure", "ask", "peer_answer", "stored", "shares", "agents", "?"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(KINDS, FRAMES), min_size=1, max_size=5))
def test_no_frame_of_controls_ends_a_worker(told: list[tuple[str, dict[str, Any]]]) -> None:
    """What cannot be done costs nothing but itself: questions are answered, and what comes next is done."""

    async def run() -> None:
        async with running_proxy() as proxy:
            proxy.put(endpoint(await proxy.upstream(instance)))
            for kind, more in told:
                wanted = to_worker(msgspec.msgpack.encode({**more, "t": kind}))
                answers = proxy.worker.take(wanted)
                assert all(frame for frame in map(encoded, answers))
                if kind == "ask" and type(more.get("id")) is int:
                    (answer,) = answers
                    assert isinstance(answer, Answer) and answer.id == more["id"]
            proxy.worker.take(Configure())
            proxy.put(endpoint(await proxy.upstream(instance)))
            assert b"200" in await (await proxy.client()).ask(b"GET / HTTP/1.1\r\nHost: pets.production\r\n\r\n")

    trio.run(run)


def test_a_frame_that_cannot_be_sent_costs_itself(caplog: pytest.LogCaptureFixture) -> None:
    """Told with its kind, and passed over."""
    assert encoded(Answer(1, "x")) != b""
    for value in ("\udcff", 2**65, object(), b"x" * (64 * 1024 * 1024 + 1)):
        assert encoded(Answer(1, value)) == b""
    assert [record.getMessage() for record in caplog.records] == ["a frame for control cannot be sent: 'answer'"] * 4
