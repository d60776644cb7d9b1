"""Replays against a double of Pulsar, a real Redis, and an agent's place taken by a receiver."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from agent.topics.broker import Credentials
from agent.topics.brokers import broker_of
from agent.topics.replay import Outcome, Replay
from policies.kinds.shed.topic import parse_topic
from tests.support.pulsar import PulsarDouble
from tests.support.receiver import Received, Receiver

TOPIC = "public/default/orders"


@pytest.fixture
def pulsar() -> Iterator[PulsarDouble]:
    double = PulsarDouble()
    try:
        yield double
    finally:
        double.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    try:
        yield made
    finally:
        made.close()


def hold(pulsar: PulsarDouble, *records: object) -> None:
    waiting = pulsar.topics.setdefault(TOPIC, {}).setdefault("shoal-replay", {})
    for record in records:
        payload = base64.b64encode(record if isinstance(record, bytes) else json.dumps(record).encode()).decode()
        id = f"m{len(waiting)}"
        waiting[id] = {"messageId": id, "payload": payload, "properties": {}}


def stored(id: str, **more: Any) -> dict[str, Any]:
    told = {"id": id, "service": "orders.production", "at": 1.0, "method": "POST", "target": f"/{id}"}
    return {**told, "headers": [["host", "orders.production"], ["content-type", "text/plain"]], "body": "x", **more}


def replayed(pulsar: PulsarDouble, receiver: Receiver, **more: Any) -> list[Outcome]:
    outcomes: list[Outcome] = []
    broker = broker_of(parse_topic(pulsar.url()), Credentials())
    run = Replay(broker, ("127.0.0.1", receiver.port), outcomes.append, **{"rate": 1000, "patience_s": 0.3, **more})
    trio.run(run.run)
    return outcomes


def test_what_is_done_goes_and_what_is_not_stays(pulsar: PulsarDouble, receiver: Receiver) -> None:
    """A 4xx is an answer; a 5xx, a 429 and the mesh's own word are none. What is no request stays where it is."""
    answers: dict[str, tuple[int, dict[str, str]]] = {
        "/gone": (404, {}),
        "/bad": (500, {}),
        "/much": (429, {"retry-after": "0"}),
        "/nobody": (404, {"x-shoal-policy": "service", "x-shoal-reason": "no service"}),
    }
    receiver.answer = lambda request, number: answers.get(request.path, (204, {}))
    hold(pulsar, *[stored(id) for id in ("good", "gone", "bad", "much", "nobody")], b"garbage", b"{}", b"\xff")
    hold(pulsar, stored("odd", target="no target\r\nx: y"), stored("base", body=None, body_base64="???"))
    outcomes = replayed(pulsar, receiver, attempts=2)
    done = {outcome.stored.id: outcome.done for outcome in outcomes if not isinstance(outcome.stored, str)}
    wanted = {"good": True, "gone": True, "bad": False, "much": False, "nobody": False, "odd": False, "base": False}
    assert done == wanted and len(outcomes) == 10
    assert sum(request.path == "/bad" for request in receiver.received) == 2
    assert len(pulsar.records()) == 8


def test_twice_in_the_topic_is_sent_once(pulsar: PulsarDouble, receiver: Receiver) -> None:
    hold(pulsar, stored("one"), stored("one"), stored("two"))
    outcomes = replayed(pulsar, receiver, rate=20)
    assert sorted(request.path for request in receiver.received) == ["/one", "/two"]
    assert all(outcome.done for outcome in outcomes) and pulsar.records() == []


def test_it_is_tried_again_until_it_is_done(pulsar: PulsarDouble, receiver: Receiver) -> None:
    def answer(request: Received, number: int) -> tuple[int, dict[str, str]]:
        return (503, {"x-shoal-policy": "shed"}) if number < 3 else (200, {})

    receiver.answer = answer
    hold(pulsar, stored("one"))
    assert replayed(pulsar, receiver)[0].said == "200" and len(receiver.received) == 3
    assert {request.headers["x-shoal-replay"] for request in receiver.received} == {"one"}


def test_so_many_and_no_more(pulsar: PulsarDouble, receiver: Receiver) -> None:
    hold(pulsar, *[stored(f"r{n}") for n in range(40)])
    assert len(replayed(pulsar, receiver, most=25)) == 25
    assert len(pulsar.records()) == 15
    assert len(replayed(pulsar, receiver)) == 15


def test_looking_changes_nothing(pulsar: PulsarDouble, receiver: Receiver) -> None:
    hold(pulsar, stored("one"), stored("two"))
    for _ in range(2):
        assert [outcome.done for outcome in replayed(pulsar, receiver, looking=True)] == [False, False]
    assert receiver.received == [] and len(pulsar.records()) == 2
