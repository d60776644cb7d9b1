"""A document that is only watched is judged beside the one in force: that one goes on protecting; both are told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.frames import PolicyFrame
from agent.proxy.request.explain import explain
from agent.questions import Explain
from tests.support.playbook import Playbook
from tests.support.proxy import SERVICE, watched

GET = b"GET /secret HTTP/1.1\r\nHost: pets.production\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"
OUTLIER = {"min_requests": 3, "interval": "100ms", "ejection": "10s", "success_factor": 0}
FOREVER = "2999-01-01T00:00:00Z"


def limit(rate: str, **more: Any) -> dict[str, Any]:
    return {"limits": [{"name": "all", "rate": rate, "burst": 1, **more}]}


def abort(status: int, path: str = "/") -> dict[str, Any]:
    return {"expires": FOREVER, "rules": [{"match": {"path": {"prefix": path}}, "abort": {"status": status}}]}


def respond(status: int) -> dict[str, Any]:
    return {"rules": [{"respond": {"status": status}}]}


# By kind: what is in force and refuses, what is watched and would let all pass, and the request.
LENIENT: dict[str, tuple[dict[str, Any], dict[str, Any], int, bytes]] = {
    "ratelimit": (limit("1/h"), limit("1000/s"), 429, GET),
    "ratelimit, by the service": (limit("1/h", side="service"), limit("1000/s", side="service"), 429, GET),
    "fault": (abort(418), abort(503, "/nowhere"), 418, GET),
    "route": (respond(403), {"active": "v9"}, 403, GET),
    "path": ({"action": "refuse"}, {"action": "keep"}, 400, GET.replace(b"/secret", b"/a/../secret")),
    "breaker": ({"limits": {"requests": 1}}, {"limits": {"requests": 1000}}, 503, GET),
    "shed": ({"concurrency": 1}, {"concurrency": 1000}, 503, GET),
}


def answered(play: Playbook, request: bytes = GET, says: bytes = OK) -> int:
    """The status; with what an instance says where it gets as far."""
    client = play.client()
    assert client >> request
    if not play.idle:
        up = play.upstream()
        assert up >> says
        up.breaks()
    return int(client.heard.split(b" ")[1])


@pytest.mark.parametrize("name", LENIENT)
@pytest.mark.parametrize("wide", [False, True], ids=["same name", "the mesh's enforced"])
def test_what_is_in_force_goes_on_protecting(name: str, wide: bool) -> None:
    """Whatever is watched beside it, under the same name or for one service of the mesh."""
    document, lenient, status, request = LENIENT[name]
    kind = name.partition(",")[0]
    in_force: Any = PolicyFrame("*", 1, msgspec.json.encode(document)) if wide else document
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"), audits={kind: lenient}, **{kind: in_force})
        held = play.client()
        assert held >> request  # the first one takes what there is, and is under way
        client = play.client()
        assert client >> request
        assert client.heard.startswith(b"HTTP/1.1 %d " % status), client.heard
        told = explain(play.worker, Explain(f"{SERVICE}{request.split(b' ')[1].decode()}"))
        modes = [each["mode"] for each in told["decisions"] if each["policy"].startswith(f"{kind}/")]
        assert told["status"] == status and "audit" in modes and modes[0] == "enforce"


TIGHT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "ratelimit": (limit("1000/s", burst=100), limit("1/h", name="tight"), "refused by tight"),
    "fault": (abort(503, "/nowhere"), abort(418), "faulted by rules[0]"),
    "route": ({}, respond(403), "rules[0]"),
    "path": ({"action": "keep"}, {"action": "refuse"}, "refused"),
    "breaker": ({"limits": {"requests": 1000}}, {"trip": {"requests": 1}}, "refused"),
    "shed": ({"concurrency": 1000}, {"concurrency": 1}, "refused"),
}


@pytest.mark.parametrize("kind", TIGHT)
@pytest.mark.parametrize("alone", [False, True], ids=["beside", "alone"])
def test_a_tighter_one_refuses_nobody_and_tells_both(kind: str, alone: bool) -> None:
    """Counted with what was done and what would have been; alone it acts on nothing either."""
    loose, tight, would = TIGHT[kind]
    request = GET.replace(b"/secret", b"/a/../secret") if kind == "path" else GET
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"), audits={kind: tight}, **({} if alone else {kind: loose}))
        clients = [play.client() for _ in range(3)]
        for client in clients:
            assert client >> request
        while not play.idle:
            assert play.upstream() >> OK
        assert [client.heard.split(b" ")[1] for client in clients] == [b"200"] * 3
        stats = play.worker.table.services[SERVICE].stats
        told = {(found[0], found[3]): number for found, number in stats.audited().items()}
        assert told.get((kind, would), 0) >= 1, told
        assert stats.limited == {} and stats.faults == {} and stats.shed == {} and stats.refused == {}


def test_a_watched_limit_takes_no_token_of_the_one_in_force() -> None:
    """And gives none: each has buckets of its own, under one name of a limit."""
    with Playbook() as play:
        play.put(
            "one",
            ratelimit=limit("1/h") | {"limits": [{"name": "all", "rate": "1/h", "burst": 3}]},
            audits={"ratelimit": limit("1/h")},
        )
        assert [answered(play) for _ in range(4)] == [200, 200, 200, 429]
        stats = play.worker.table.services[SERVICE].stats
        assert stats.audited() == {
            ("ratelimit", SERVICE, "passed", "passed"): 1,
            ("ratelimit", SERVICE, "passed", "refused by all"): 2,
            ("ratelimit", SERVICE, "refused by all", "refused by all"): 1,
        }


def test_a_watched_breaker_opens_for_itself() -> None:
    """It learns from what passes, keeps out no retry and no request, and the one in force stays closed."""
    with Playbook() as play:
        play.put("one", breaker={"trip": {"consecutive": 50}}, audits={"breaker": {"trip": {"consecutive": 2}}})
        for _ in range(4):
            assert answered(play, says=BAD) == 500
        service = play.worker.table.services[SERVICE]
        assert service.circuit is not None and service.circuit.state == "closed"
        assert service.audits is not None and service.audits.circuit is not None
        assert service.audits.circuit.state == "open"
        assert watched(play.worker) == {"breaker": 2} and service.stats.transitions == {}
        assert [event.audit for event in play.worker.news.events] == [True]
        assert service.circuit.active == 0 and service.audits.circuit.active == 0


def test_what_is_watched_is_given_back_whatever_becomes_of_a_request() -> None:
    """Refused behind it, by another kind, or by a client that leaves: nothing stays counted."""
    quota = {"concurrency": 1}
    with Playbook(host="here") as play:
        play.put(
            play.instance("one", agent="here"),
            breaker={"limits": {"requests": 1}},
            shed=quota,
            audits={"breaker": {"limits": {"requests": 9}}, "shed": {"concurrency": 9}},
        )
        service = play.worker.table.services[SERVICE]
        clients = [play.client() for _ in range(3)]
        for client in clients:
            assert client >> GET
        clients[0].breaks()
        assert service.audits is not None
        assert service.audits.circuit is not None and service.audits.limiter is not None
        assert (service.audits.circuit.active, service.audits.limiter.active) == (0, 0)
        assert service.circuit is not None and service.circuit.active == 0


def test_an_ejector_that_is_watched_ejects_nobody() -> None:
    """Who would be is told and counted; who is ejected by the one in force is out, for all that is watched."""
    strict, loose = {**OUTLIER, "consecutive_5xx": 2}, {**OUTLIER, "consecutive_5xx": 50}
    for enforced, audited, out in ((loose, strict, False), (strict, loose, True)):
        with Playbook() as play:
            play.put("one", "two", retry={"attempts": 1}, outlier=enforced, audits={"outlier": audited})
            for _ in range(8):
                assert answered(play, says=BAD) == 500
            service = play.worker.table.services[SERVICE]
            now = play.worker.reactor.now
            assert any(each.load.refused_until > now for each in service.plan.endpoints) is out
            assert out or watched(play.worker)["outlier"] >= 1
            assert bool(service.stats.ejections) is out


def test_what_has_no_second_verdict_displaces_nothing() -> None:
    """Times, retries and the balancer in force are those in force."""
    with Playbook() as play:
        play.put(
            "one",
            timeout={"request": "3s"},
            retry={"attempts": 2},
            balance={"algorithm": "random"},
            audits={"timeout": {"request": "9s"}, "retry": {"attempts": 9}, "balance": {"algorithm": "round-robin"}},
        )
        plan = play.worker.table.services[SERVICE].plan
        assert plan.timeouts.request_s == 3.0 and plan.retry.attempts == 2
        assert plan.balancer.document.algorithm == "random" and answered(play) == 200
        assert play.worker.table.services[SERVICE].stats.audited() == {}


def test_a_service_without_such_a_document_has_nothing_of_it() -> None:
    """No phase, no book."""
    with Playbook() as play:
        play.put("one", ratelimit=limit("1/h"), breaker={"limits": {"requests": 1}})
        service = play.worker.table.services[SERVICE]
        assert service.audits is None and service.plan.watched is None
        assert all(phase.beside is None for phase in (*service.plan.outbound, *service.plan.towards))
        play.put("one", audits={"ratelimit": limit("1/h"), "outlier": {}})
        assert service.audits is not None and service.plan.endpoints[0].load.watched is not None
        play.put("one", ratelimit=limit("1/h"))
        assert service.audits is None and service.plan.endpoints[0].load.watched is None


def test_what_is_watched_survives_an_edit_of_what_is_in_force() -> None:
    """As what is in force survives its own."""
    with Playbook() as play:
        play.put("one", ratelimit=limit("1000/s", burst=9), audits={"ratelimit": limit("1/h")})
        assert answered(play) == 200
        play.put("one", ratelimit=limit("500/s", burst=9), audits={"ratelimit": limit("1/h")})
        assert answered(play) == 200
        assert watched(play.worker) == {"ratelimit": 1}


def test_a_control_of_before_says_it_in_the_document() -> None:
    """`mode: audit` among what is in force is watched, and a watched one beside it wins."""
    with Playbook() as play:
        play.put("one", ratelimit={**limit("1/h"), "mode": "audit"})
        assert [answered(play) for _ in range(3)] == [200] * 3 and watched(play.worker) == {"ratelimit": 2}
        other = limit("1000/s", name="other")
        play.put("one", ratelimit={**limit("1/h"), "mode": "audit"}, audits={"ratelimit": other})
        assert answered(play) == 200 and watched(play.worker) == {"ratelimit": 2}


def test_a_guard_that_nobody_knows_refuses_and_one_that_is_watched_refuses_nobody() -> None:
    """Whatever stands beside it."""
    with Playbook() as play:
        unknown = PolicyFrame("*", 1, b"", "nobody knows")
        play.put("one", ratelimit=unknown, audits={"ratelimit": limit("1000/s")})
        assert answered(play) == 503
        broken = PolicyFrame(SERVICE, 7, b'{"limitz": 5}')
        refused = play.worker.table.stage(SERVICE, 7, [play.instance("two")], {}, 0.0, {"ratelimit": broken})
        play.worker._commit(7, 1)
        assert [each.kind for each in refused] == ["ratelimit"] and answered(play) == 200
