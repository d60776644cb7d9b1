"""Requests that tell the audit log of themselves, and those that wait until it is on disk; the test is control."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc import jwk, jws

from agent.frames import Audited, Away
from agent.proxy.control.recording import AWAY_S, BUSY, GONE, WORD_S
from agent.proxy.judges.question import Asker, Question
from agent.proxy.report.audit import AUTOMATIC_PER_S
from agent.proxy.request.explain import explain
from agent.questions import Explain
from policies.kinds.authz.judge import Judge
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import entrust
from tests.support.tokens import PRIVATE, provider

LAMPS = "lamps.production"
SYNC = {"requests": "all", "durability": "sync"}
CLOSED = {"rules": [{"deny": "anybody"}]}
OPEN = {"rules": [{"allow": "anybody"}]}
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Log:
    """Control, which is told what is to be recorded."""

    def __init__(self, play: Playbook) -> None:
        self.play = play
        self.open: list[Audited] = []
        self.takes = True
        play.worker.recordings.connect(self._hear)

    def _hear(self, frame: Audited) -> bool:
        if self.takes:
            self.open.append(frame)
        return self.takes

    def says(self, reason: str = "") -> Any:
        """Of the first that waits; returns what it is to record."""
        frame = self.open.pop(0)
        self.play.worker.recordings.answer(frame.id, reason)
        return json.loads(frame.lines)

    def later(self) -> list[tuple[str, str]]:
        """What nobody waits for: event, and decision."""
        frame = self.play.worker.audit.take(100)
        lines = frame.lines.splitlines() if frame is not None else []
        return [(found["event"], found["data"]["decision"]) for found in map(json.loads, lines)]


@pytest.fixture
def play() -> Iterator[Playbook]:
    with Playbook(host="here") as play:
        entrust(play.worker)
        yield play


def put(play: Playbook, **documents: Any) -> None:
    play.put(play.instance("lamp", agent="here"), service=LAMPS, **documents)


def token(sub: str, **claims: Any) -> str:
    """A header line."""
    told = {"iss": "https://login", "aud": "lamps", "sub": sub, "exp": time.time() + 3600, **claims}
    key = jwk.import_key(PRIVATE)
    return f"Authorization: Bearer {jws.serialize_compact({'alg': 'Ed25519'}, json.dumps(told), key, ['Ed25519'])}"


def asks(play: Playbook) -> Wire:
    client = play.client()
    assert client >> f"GET / HTTP/1.1\r\nHost: {LAMPS}\r\n\r\n".encode()
    return client


def status(wire: Wire) -> int:
    """Of its answer; 0: there is none yet."""
    return int(wire.heard[9:12]) if wire.heard else 0


def test_nothing_is_handed_on_before_its_record_is_on_disk(play: Playbook) -> None:
    """And it is recorded once."""
    put(play, audit=SYNC)
    log = Log(play)
    client = asks(play)
    assert play.idle and not status(client)
    told = log.says()
    assert (told["event"], told["data"]["decision"], told["data"]["service"]) == ("request.allowed", "allowed", LAMPS)
    play.upstream("lamp") >> OK
    assert status(client) == 200 and log.later() == [] == log.open


def test_nobody_is_refused_before_it_is_on_disk(play: Playbook) -> None:
    put(play, audit=SYNC, authz=CLOSED)
    log = Log(play)
    client = asks(play)
    assert not status(client)
    assert log.says("no space")["event"] == "authz.denied"
    assert status(client) == 403 and play.idle and log.later() == [], "denied whether it could be recorded or not"


@pytest.mark.parametrize("on_failure", ["deny", "allow"])
@pytest.mark.parametrize("how", ["said", "late", "full", "gone"])
def test_without_a_record(play: Playbook, on_failure: str, how: str) -> None:
    """However it is known that there is none: as the document says."""
    put(play, audit={**SYNC, "on_failure": on_failure})
    log = Log(play)
    log.takes = how != "full"
    client = asks(play)
    if how == "said":
        log.says("no space")
    elif how == "late":
        play.passes(WORD_S + 0.1)
    elif how == "gone":
        play.worker.recordings.connect(None)
    if on_failure == "allow":
        play.upstream("lamp") >> OK
        assert status(client) == 200
        return
    assert status(client) == 503 and play.idle and b"x-shoal-policy: audit" in client.heard
    why = {"said": "no space", "late": "within 2 s", "full": BUSY, "gone": GONE}[how]
    assert f"its audit record is not on disk: {why}".encode()[:30] in client.heard


def test_while_control_is_executed_anew_there_is_more_time(play: Playbook) -> None:
    """For who waits already, and for who comes; its successor's word counts, and ends it with `drain`."""
    put(play, audit=SYNC, timeout={"request": "2m"})
    log = Log(play)
    first = asks(play)
    play.worker.take(Away())
    play.passes(WORD_S + 0.1)
    second = asks(play)
    play.passes(AWAY_S - WORD_S - 1)
    assert not status(first) and not status(second)
    log.says()
    up = play.upstream("lamp")
    up >> OK
    log.says()
    up >> OK
    assert status(first) == status(second) == 200
    third = asks(play)
    play.passes(AWAY_S + 0.1)
    assert status(third) == 503 and b"within 30 s" in third.heard
    play.worker.recordings.be_patient(patient=False)
    fourth = asks(play)
    play.passes(WORD_S + 0.1)
    assert status(fourth) == 503 and b"within 2 s" in fourth.heard


FORETOLD = [
    ({}, None),
    ({"authz": CLOSED}, ("recorded as authz.denied", "no audit document says more")),
    ({"audit": {"requests": "denied"}}, ("not recorded", "requests: denied")),
    ({"audit": {"requests": "denied"}, "authz": CLOSED}, ("recorded as authz.denied", "behind the request; by audit/")),
    ({"audit": {"requests": "all"}}, ("recorded as request.allowed", "behind the request; by audit/")),
    ({"audit": {"requests": "all", "share": 0.1}}, ("0.1 of such are recorded as request.allowed", "behind")),
    ({"audit": SYNC}, ("recorded as request.allowed", "on disk before the instance sees it, or it is refused")),
    ({"audit": {**SYNC, "on_failure": "allow"}}, ("recorded as request.allowed", "before the instance sees it; by")),
    ({"audit": SYNC, "authz": CLOSED}, ("recorded as authz.denied", "on disk before it is answered; by audit/")),
    ({"audit": SYNC, "ratelimit": {"limits": [{"name": "x", "rate": "1/h", "burst": 1, "side": "service"}]}},
     ("recorded as request.allowed", "on disk before")),
]  # fmt: skip


@pytest.mark.parametrize(("documents", "said"), FORETOLD)
def test_what_would_be_recorded_is_told_beforehand(
    play: Playbook, documents: dict[str, Any], said: tuple[str, str] | None
) -> None:
    """And it is, and in that way."""
    put(play, **documents)
    record = explain(play.worker, Explain(LAMPS))["record"]
    log = Log(play)
    client = asks(play)
    waited = bool(log.open)
    if waited:
        found = [log.says()["event"]]
    if not status(client):
        play.upstream("lamp") >> OK
    if not waited:
        found = [event for event, _ in log.later()]
    if said is None:
        assert record is None and found == []
        return
    assert record["decision"] == said[0] and said[1] in record["reason"], record
    assert waited == ("on disk before" in record["reason"])
    if "share" not in documents.get("audit", {}):
        assert found == ([said[0].rpartition(" ")[2]] if said[0].startswith("recorded") else [])


def test_who_goes_while_he_waits_is_forgotten(play: Playbook) -> None:
    """A word that comes afterwards meets nobody."""
    put(play, audit=SYNC)
    log = Log(play)
    asks(play).ends()
    log.says()
    assert play.idle


def test_who_is_let_in_and_then_not_is_recorded_as_both(play: Playbook) -> None:
    """Rules that change while its instance has not answered yet."""
    put(play, audit=SYNC, authz=OPEN)
    log = Log(play)
    client = asks(play)
    assert log.says()["event"] == "request.allowed"
    assert play.upstream("lamp")
    put(play, audit=SYNC, authz=CLOSED)
    assert not status(client), "this waits, too"
    assert log.says()["event"] == "authz.denied"
    assert status(client) == 403


def test_it_waits_for_a_judge_and_then_for_its_record(play: Playbook) -> None:
    """Each time it goes on from where it stood: neither is asked again."""
    open_: list[Question] = []

    def prepare(judge: Judge) -> None:
        pass

    play.worker.judges.rego = Asker(lambda judge, now: "", open_.append, open_.remove, prepare)
    put(play, audit=SYNC, authz={"rego": {"modules": {"x.rego": "package shoal\nallow if true"}, "reads": ["path"]}})
    log = Log(play)
    client = asks(play)
    assert play.idle and not log.open
    open_[0].say(True, "it is")
    assert play.idle and not status(client)
    log.says()
    play.upstream("lamp") >> OK
    assert status(client) == 200 and open_ == [] == log.open


def test_what_is_denied_needs_no_document(play: Playbook) -> None:
    """Up to so many in a second; of the others it is told how many they were."""
    put(play, authz=CLOSED)
    log = Log(play)
    for _ in range(3):
        assert status(asks(play)) == 403
    assert log.later() == [("authz.denied", "denied")] * 3
    for _ in range(AUTOMATIC_PER_S + 7):
        asks(play)
    frame = play.worker.audit.take(1000)
    assert frame is not None and frame.count + sum(frame.lost.values()) == AUTOMATIC_PER_S + 7
    assert 4 <= sum(frame.lost.values()) <= 10
    put(play, authz=OPEN)
    asks(play)
    play.upstream("lamp") >> OK
    assert log.later() == []


@pytest.mark.parametrize("durability", ["sync", "async"])
def test_claims_that_are_no_texts_are_recorded(play: Playbook, durability: str) -> None:
    """As their JSON; they are a kind of text to conditions, which no encoder knows by itself."""
    chosen = ["groups", "tier", "age"]
    put(play, authn={"providers": [provider()]}, audit={**SYNC, "durability": durability, "claims": chosen})
    log = Log(play)
    groups = ["sre", "ä"]
    client = play.client()
    line = token("ann", groups=groups, tier="gold", age=7)
    assert client >> f"GET / HTTP/1.1\r\nHost: {LAMPS}\r\n{line}\r\n\r\n".encode()
    if durability == "sync":
        told = log.says()
    else:
        play.upstream("lamp") >> OK
        frame = play.worker.audit.take(100)
        assert frame is not None
        told = json.loads(frame.lines)
    found = {name: told["personal"][f"claim.{name}"] for name in chosen}
    assert found == {"groups": '["sre","ä"]', "tier": "gold", "age": "7"}
