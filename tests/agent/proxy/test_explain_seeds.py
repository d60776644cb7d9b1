"""Explanations of one seed differ by what their documents say, and by nothing that was drawn or whose turn it was."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.frames import PolicyFrame
from agent.proxy.request.explain import explain
from agent.proxy.request.explaining.rounds import explain_soon
from agent.questions import Explain, Supposed
from policies.decision import Subset
from tests.support.playbook import Playbook
from tests.support.proxy import SERVICE

SEEDS = 50
ROUTE = {"rules": [{"split": [{"version": "v1", "weight": 90}, {"version": "v2", "weight": 10}]}]}
UNRELATED: list[dict[str, Any]] = [
    {"timeout": {"request": "3s"}},
    {
        "fault": {
            "expires": "2999-01-01T00:00:00Z",
            "rules": [{"delay": {"least": "1ms", "most": "9ms"}, "percent": 50}],
        }
    },
    {"trace": {"share": 0.5}},
    {"ratelimit": {"limits": [{"name": "all", "rate": 5}]}},
    {"breaker": {"endpoint": {"trip": {"consecutive": 2}}}},
    {"shadow": {"copies": [{"to": "dogs.production", "percent": 50}]}},
]
ALGORITHMS = ["round-robin", "weighted", "least-request", "random", "peak-ewma"]


def supposed(documents: dict[str, Any]) -> list[Supposed]:
    frames = {kind: PolicyFrame(SERVICE, 0, msgspec.json.encode(said)) for kind, said in documents.items()}
    return [Supposed(SERVICE, frames)]


def told(play: Playbook, seed: int | None, documents: dict[str, Any] | None = None) -> dict[str, Any]:
    question = Explain(f"{SERVICE}/a", seed=seed, supposed=supposed(documents) if documents is not None else [])
    if documents is None:
        found = explain(play.worker, question)
    else:
        answers: list[dict[str, Any]] = []
        explain_soon(play.worker, question, answers.append)
        (found,) = answers
    assert isinstance(found, dict)
    return found


def goes(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Where to: what somebody who changed something else has not changed."""
    return [
        (each["phase"], each["decision"]) for each in found["decisions"] if each["phase"] in ("route", "balance", "hop")
    ]


def furnished(play: Playbook, documents: dict[str, Any]) -> None:
    """Instances of two versions, of which some have had more turns than others."""
    versions = ["v1", "v1", "v1", "v2", "v2"]
    play.put(*(play.instance(f"pet-{n}", version=version) for n, version in enumerate(versions)), **documents)
    balancer = play.worker.table.services[SERVICE].plan.group(Subset("v1"))
    for _ in range(4):
        assert balancer.pick(None, play.worker.reactor.now, play.worker.rng, []) is not None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_document_of_something_else_changes_nothing_of_where_it_goes(algorithm: str) -> None:
    """Whatever draws it brings along, and whoever's turn it is."""
    with Playbook(7) as play:
        documents = {"route": ROUTE, "balance": {"algorithm": algorithm}}
        furnished(play, documents)
        drawn = set()
        for seed in range(SEEDS):
            before = told(play, seed)
            drawn.add(str(before["endpoint"]))
            for other in UNRELATED:
                assert goes(told(play, seed, {**documents, **other})) == goes(before), (seed, other)
            assert told(play, seed, documents)["endpoint"] == before["endpoint"]
            assert told(play, seed) == before
        assert len(drawn) > 1, "a seed draws"


def test_a_split_is_told_whole_whatever_is_drawn() -> None:
    """Its shares before and after; who is drawn moves only from a share that has shrunk to one that has grown."""
    with Playbook(7) as play:
        furnished(play, {"route": ROUTE})
        half = {"rules": [{"split": [{"version": "v1", "weight": 50}, {"version": "v2", "weight": 50}]}]}
        moved = 0
        for seed in range(SEEDS):
            routes = [
                next(each for each in found["decisions"] if each["phase"] == "route")
                for found in (told(play, seed), told(play, seed, {"route": half}))
            ]
            assert routes[0]["shares"] == [{"to": "version v1", "percent": 90.0}, {"to": "version v2", "percent": 10.0}]
            assert routes[1]["shares"] == [{"to": "version v1", "percent": 50.0}, {"to": "version v2", "percent": 50.0}]
            went = tuple(each["decision"].rpartition(" ")[2] for each in routes)
            assert went in {("v1", "v1"), ("v1", "v2"), ("v2", "v2")}
            moved += went == ("v1", "v2")
        assert 0 < moved < SEEDS


def test_without_a_seed_it_is_what_the_next_request_would_draw() -> None:
    """And nothing moves that; a split of which only one can be drawn has no shares."""
    with Playbook(7) as play:
        furnished(play, {"route": {"rules": [{"split": [{"version": "v2"}]}]}})
        state = play.worker.rng.getstate()
        assert told(play, None) == told(play, None)
        told(play, 3)
        assert play.worker.rng.getstate() == state
        assert all("shares" not in each for each in told(play, 3)["decisions"])


def test_without_a_seed_a_trace_is_drawn_as_the_next_request_draws_it() -> None:
    """Its id stands already, and being told of it takes it from nobody; of a seed it is the same each time."""
    with Playbook(7) as play:
        play.put(play.instance("one"), trace={"share": 0.5})
        seen = set()
        for seed in range(20):
            (decision,) = [each["decision"] for each in told(play, None)["decisions"] if each["phase"] == "trace"]
            assert told(play, seed) == told(play, seed)
            client = play.client()
            assert client >> b"GET /a HTTP/1.1\r\nHost: pets.production\r\n\r\n"
            up = play.upstream()
            assert (b"-03\r\n" in up.heard) == (decision == "sampled") != (b"-02\r\n" in up.heard)
            up >> b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            up.breaks()
            seen.add(decision)
        assert seen == {"sampled", "not sampled"}
