"""What a document asks for does not stall a worker: neither when plans are made, nor when requests are decided."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest

from agent import frames, framing
from agent.frames import EndpointFrame, PolicyFrame
from agent.portions import said_once
from agent.proxy.phases.routes import Routes
from agent.proxy.table.table import Table
from policies.catalogue import KINDS, parse
from policies.kinds.balance.entries import LEAST, TOTAL
from policies.language.document import Invalid
from policies.request import Request
from tests.policies.expensive import documents

STALL_S = 0.1
WORKERS = [kind for kind in KINDS if kind.name not in ("health", "webhook")]


def endpoint(number: int) -> EndpointFrame:
    return EndpointFrame(
        id=f"e{number}", address="127.0.0.1", port=80, version="v1", zone="", weight=1.0, metadata={}, healthy=True,
        draining=False, suspect=False, agent="", dial_address="127.0.0.1", dial_port=80, via=False,
    )  # fmt: skip


THREE = [endpoint(n) for n in range(3)]


def cpu_s(call: Any) -> float:
    """The least of eight."""
    found = []
    for _ in range(8):
        began = time.thread_time()
        call()
        found.append(time.thread_time() - began)
        if found[-1] < STALL_S:
            break
    return min(found)


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in WORKERS])
def test_no_document_that_was_accepted_stalls_a_worker(kind: Any) -> None:
    """To stage one service with it; and the second service of a pattern costs no more."""
    slow = {}
    for name, text in dict(documents(kind.document)).items():
        if isinstance(parse(kind.name, "*", text), Invalid):
            continue
        policies = {kind.name: PolicyFrame("*", 5, text)}
        for service in ("one", "two"):
            took_s = cpu_s(lambda s=service, p=policies: Table().stage(s, 5, THREE, p, 0.0))  # type: ignore[misc]
            if took_s > STALL_S:
                slow[name] = took_s
    assert slow == {}


def test_a_route_with_every_rule_it_may_have() -> None:
    """Staged, and asked by a request that none of them matches."""
    rules = [{"match": {"path": {"regex": f"/v{n}/[a-z]+"}, "headers": {"x-a": str(n)}}} for n in range(1000)]
    text = json.dumps({"rules": rules}).encode()
    assert not isinstance(parse("route", "*", text), Invalid)
    table = Table()
    assert cpu_s(lambda: table.stage("pets", 5, THREE, {"route": PolicyFrame("*", 5, text)}, 0.0)) < STALL_S
    table.commit(5)
    route = table.services["pets"].plan.enforced.met["route"]
    assert isinstance(route, Routes)
    request = Request("GET", "/" + "a" * 8000, {"x-a": "no"})
    assert cpu_s(lambda: route.compiled.decide(request, random.Random(1))) < STALL_S


def test_the_text_of_a_pattern_goes_to_a_worker_once() -> None:
    """A thousand services with one large document are no gigabyte; the worker knows it in each of them."""
    text = json.dumps({"description": "x" * 4000, "rules": [{"respond": {"body": "y" * 60_000}}]}).encode()
    own = b'{"request": "3s"}'
    made = [
        frames.Stage(f"s{n}", 5, THREE, {"route": PolicyFrame("*", 5, text), "timeout": PolicyFrame(f"s{n}", 5, own)})
        for n in range(1000)
    ]
    said = said_once(made)
    sent = b"".join(map(framing.encode, said))
    assert len(sent) < len(text) + 1000 * 1000
    table = Table()
    for frame in framing.Decoder(frames.to_worker).feed(sent):
        assert isinstance(frame, frames.Stage)
        assert table.stage(frame.name, 5, THREE, frame.policies, 0.0) == []
    table.commit(5)
    plans = [service.plan for service in table.services.values()]
    assert len(plans) == 1000
    assert len({id(plan.policies["route"].document) for plan in plans}) == 1
    assert all(plan.timeouts is not None and "timeout" in plan.policies for plan in plans)


@pytest.mark.parametrize("algorithm", ["ring-hash", "maglev"])
def test_what_a_pattern_asks_for_is_bounded_in_sum(algorithm: str) -> None:
    """Large rings for a thousand services are smaller ones, the same on every agent; for a few they are what was asked
    for, and they are that again when the others are gone."""
    asked = 65_536 if algorithm == "ring-hash" else 65_537
    option = {"ring_min": asked} if algorithm == "ring-hash" else {"table": asked}
    text = json.dumps({"algorithm": algorithm, "hash": [{"path": True}], **option}).encode()
    table = Table()

    def stage(numbers: range, revision: int) -> None:
        for n in numbers:
            table.stage(f"s{n}", revision, THREE, {"balance": PolicyFrame("*", 5, text)}, 0.0)
        table.commit(revision)

    def granted() -> int:
        described = table.services["s0"].plan.balancer.describe()
        assert described["entries_asked"] == asked
        return int(described["entries_granted"])

    stage(range(10), 5)
    assert granted() >= 65_536
    first = table.services["s0"].plan.balancer
    first.pick(1, 0.0, random.Random(1))
    stage(range(10, 1000), 6)
    assert granted() == 1024
    assert 1000 * granted() <= TOTAL
    assert table.services["s0"].plan.balancer is first, "its plan is the same"
    assert cpu_s(lambda: first.pick(1, 0.0, random.Random(1))) < STALL_S
    for n in range(10, 1000):
        table.gone(f"s{n}")
    table.commit(7)
    assert granted() >= 65_536


def test_small_rings_are_left_alone() -> None:
    """The default asks for nothing that would be counted."""
    text = b'{"algorithm": "ring-hash", "hash": [{"path": true}]}'
    table = Table()
    for n in range(5000):
        table.stage(f"s{n}", 5, THREE, {"balance": PolicyFrame("*", 5, text)}, 0.0)
    table.commit(5)
    plan = table.services["s0"].plan
    assert plan.asked <= LEAST
    assert "entries_asked" not in plan.balancer.describe()
