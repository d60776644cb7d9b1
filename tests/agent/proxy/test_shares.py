"""The share of a split's target that nobody can serve: it fails, or goes to the others."""

from __future__ import annotations

from typing import Any

import pytest

from agent.proxy.request.explain import explain
from agent.questions import Explain
from tests.support.playbook import Playbook

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
CATS = "cats.production"
THIRDS: list[dict[str, Any]] = [{"version": "v1", "weight": 1}, {"version": "v2", "weight": 1}, {"service": CATS}]


def split(empty: str | None = "others", **more: Any) -> dict[str, Any]:
    return {"rules": [{"name": "r", "split": THIRDS, **({"empty": empty} if empty else {}), **more}]}


def put(play: Playbook, route: dict[str, Any], v1: Any = True, v2: Any = None, cats: Any = True) -> None:
    """Instances of each target: True: one that is healthy; a dict: as it says; None: none."""
    places = {"v1": v1, "v2": v2, "cats": cats}
    found = {
        name: [play.instance(name, version=name, **(state if isinstance(state, dict) else {}))] if state else []
        for name, state in places.items()
    }
    if cats is not None:
        play.put(*found["cats"], service=CATS)
    play.put(*found["v1"], *found["v2"], route=route)


def ask(play: Playbook, user: int = 0) -> str:
    """Who is asked for one request, or the answer's status."""
    client = play.client()
    assert client >> b"GET /old HTTP/1.1\r\nHost: pets.production\r\nX-User: u%d\r\n\r\n" % user
    if play.idle:
        return client.heard[9:12].decode()
    up = play.upstream()
    name = up.name
    assert up >> OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    return name


ILL: dict[str, Any] = {"healthy": False}


@pytest.mark.parametrize(
    ("states", "gets"),
    [
        ({}, {"v1", "cats"}),
        ({"v2": ILL}, {"v1", "cats"}),
        ({"v2": {"weight": 0.0}}, {"v1", "cats"}),
        ({"v2": {"suspect": True}}, {"v1", "cats"}),
        ({"v2": True}, {"v1", "v2", "cats"}),
        ({"v2": {"draining": True}}, {"v1", "v2", "cats"}),
        ({"cats": None}, {"v1"}),
        ({"v1": None, "cats": ILL, "v2": True}, {"v2"}),
        ({"v1": None, "cats": None}, {"503"}),
        ({"v1": ILL, "cats": None, "v2": None}, {"v1", "503"}),
    ],
)
def test_the_others_take_it_over(states: dict[str, Any], gets: set[str]) -> None:
    """Where a target has no instance that is healthy, or its service is not there; a draining one serves still. Where
    nobody can serve, all is as if it were to fail."""
    with Playbook() as play:
        put(play, split(), **states)
        assert {ask(play) for _ in range(60)} == gets


@pytest.mark.parametrize("empty", ["fail", None])
def test_by_default_it_fails(empty: str | None) -> None:
    """As in Envoy and the Gateway API: a share is where the document says, or an answer that says why it is not."""
    with Playbook() as play:
        put(play, split(empty))
        assert {ask(play) for _ in range(60)} == {"v1", "cats", "503"}
        put(play, split(empty), v2=ILL)
        assert {ask(play) for _ in range(60)} == {"v1", "v2", "cats"}, "an ill one is tried, as where there is no split"


def test_users_go_to_their_second_choice_and_come_back() -> None:
    """Nobody else moves."""
    with Playbook() as play:
        route = split(sticky={"header": "x-user"})
        put(play, route, v2=True)
        before = {user: ask(play, user) for user in range(60)}
        put(play, route)
        during = {user: ask(play, user) for user in range(60)}
        assert {user for user in before if before[user] != during[user]} == {u for u in before if before[u] == "v2"}
        assert {during[user] for user in before if before[user] == "v2"} == {"v1", "cats"}
        assert during == {user: ask(play, user) for user in range(60)}
        put(play, route, v2=True)
        assert before == {user: ask(play, user) for user in range(60)}


def test_what_the_rule_makes_of_a_request_stays() -> None:
    """Its path, its headers, its cookie, by which the second choice is drawn too."""
    with Playbook() as play:
        edits = {"request": {"set": {"x-rule": "r"}}}
        put(play, split(sticky={"cookie": "user"}, rewrite={"path": "/new"}, headers=edits), cats=None)
        client = play.client()
        for _ in range(20):
            assert client >> b"GET /old HTTP/1.1\r\nHost: pets.production\r\n\r\n"
            up = up if play.idle else play.upstream("v1")  # noqa: F821
            assert up << b"GET /new HTTP/1.1\r\n...x-rule: r\r\n..."
            assert up >> OK
            assert client << b"HTTP/1.1 200 OK\r\n...set-cookie: user=..."


def test_explain_says_so() -> None:
    """Which target had nobody, and who has its share; and nothing where there is nothing to say."""
    with Playbook() as play:
        put(play, split(), cats=None)
        told = []
        for _ in range(30):
            play.worker.rng.random()
            found = explain(play.worker, Explain("http://pets.production/"))
            assert found["endpoint"] is not None and found["endpoint"]["id"] == "v1"
            told.append([each for each in found["decisions"] if each["phase"] == "route"])
        reasons = {entry["reason"] for entries in told for entry in entries[1:]}
        assert reasons == {
            "r: no instance of pets.production with version v2 is healthy, and the others have its share",
            f"r: no instance of {CATS} is healthy, and the others have its share",
        }
        assert {len(entries) for entries in told} == {1, 2}
        assert all(entries[-1]["decision"].startswith("forward to pets.production version v1") for entries in told)
