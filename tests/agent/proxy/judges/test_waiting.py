"""Requests that wait for what somebody says of them who is not asked in passing; the test is him."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from agent.proxy.judges.judges import MOST_OPEN
from agent.proxy.judges.question import Asker, Question
from agent.proxy.request.explain import explain
from agent.proxy.request.explaining.rounds import explain_soon
from agent.questions import Explain
from policies.kinds.authz.judge import Judge
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import CREDENTIALS, entrust

LAMPS = "lamps.production"
REGO = {"modules": {"x.rego": "package shoal\nallow if true"}, "reads": ["method", "path", "source.service"]}
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Oracle:
    """Who is asked."""

    def __init__(self) -> None:
        self.open: list[Question] = []
        self.asked = 0
        self.away = ""
        self.prepared: list[Judge] = []

    def hindrance(self, judge: Judge, now: float) -> str:
        return self.away

    def send(self, question: Question) -> None:
        self.asked += 1
        self.open.append(question)

    def forget(self, question: Question) -> None:
        self.open.remove(question)

    def prepare(self, judge: Judge) -> None:
        self.prepared.append(judge)

    def says(self, allows: bool) -> Any:
        """To the first that is open; returns what he was told."""
        question = self.open[0]
        told = question.told()
        question.say(allows, f"data.shoal.allow is {allows}")
        return told


ORACLES: WeakKeyDictionary[Playbook, Oracle] = WeakKeyDictionary()


@pytest.fixture
def play() -> Iterator[Playbook]:
    with Playbook(host="here") as play:
        entrust(play.worker)
        made = ORACLES[play] = Oracle()
        asker = Asker(made.hindrance, made.send, made.forget, made.prepare)
        play.worker.judges.rego = play.worker.judges.opa = asker
        play.put("shop", service="shop.production")
        guard(play, {"rego": REGO})
        yield play


def guard(play: Playbook, document: Any, **more: Any) -> None:
    play.put(play.instance("lamp", agent="here"), service=LAMPS, authz=document, **more)


def oracle(play: Playbook) -> Oracle:
    return ORACLES[play]


def asks(play: Playbook, first: str = "GET / HTTP/1.1", *lines: str, inbound: bool = False) -> Wire:
    client = play.client(inbound=inbound)
    assert client >> "\r\n".join([first, f"Host: {LAMPS}", *lines, "", ""]).encode()
    return client


def status(wire: Wire) -> int:
    """Of its answer; 0: there is none yet."""
    return int(wire.heard[9:12]) if wire.heard else 0


@pytest.mark.parametrize("inbound", [False, True])
@pytest.mark.parametrize("allows", [True, False])
def test_a_request_waits_for_its_answer(play: Playbook, inbound: bool, allows: bool) -> None:
    """And the instance sees nothing of it before. The second one of the same kind waits for nothing."""
    client = asks(play, inbound=inbound)
    assert play.idle and not status(client)
    assert oracle(play).says(allows) == {"method": "GET", "path": "/"}
    up = play.upstream("lamp") if allows else None
    if up is not None:
        up >> OK
    assert status(client) == (200 if allows else 403) and play.idle
    again = asks(play, inbound=inbound)
    assert oracle(play).asked == 1
    assert status(again) == (0 if allows else 403)
    assert up is None or up.heard.count(b"GET / HTTP/1.1") == 2


def test_the_same_question_is_asked_once(play: Playbook) -> None:
    """Whoever asks it meanwhile waits for the same answer; another question is another."""
    clients = [asks(play) for _ in range(5)]
    other = asks(play, "GET /other HTTP/1.1")
    assert oracle(play).asked == 2
    oracle(play).says(False)
    assert {status(client) for client in clients} == {403} and not status(other)
    oracle(play).says(True)
    assert not play.idle


def test_rules_come_first(play: Playbook) -> None:
    """What they deny, nobody is asked about; what they allow may be denied."""
    rules = [{"name": "no", "deny": "anybody", "match": {"path": {"prefix": "/closed"}}}, {"allow": "anybody"}]
    guard(play, {"rules": rules, "rego": REGO})
    assert status(asks(play, "GET /closed HTTP/1.1")) == 403 and not oracle(play).asked
    client = asks(play)
    oracle(play).says(False)
    assert status(client) == 403
    stats = play.worker.table.services[LAMPS].stats
    assert stats.authorized == {
        f"{LAMPS}\tno\tdenied": 1,
        f"{LAMPS}\trules[1]\tallowed": 1,
        f"{LAMPS}\trego\tdenied": 1,
    }
    assert stats.judged == {f"{LAMPS}\trego\tasked": 1}


def test_both_have_to_allow(play: Playbook) -> None:
    """Rego first, and then the OPA."""
    guard(play, {"rego": REGO, "opa": {"url": "http://127.0.0.1:8181", "path": "shoal/allow"}})
    client = asks(play)
    assert oracle(play).open[0].judge.who == "rego"
    oracle(play).says(True)
    assert oracle(play).open[0].judge.who == "opa" and not status(client)
    told = oracle(play).says(False)
    assert told["headers"] == {"host": LAMPS} and told["service"] == LAMPS and told["parsed_path"] == []
    assert status(client) == 403


@pytest.mark.parametrize(("document", "passes"), [({}, False), ({"on_failure": "allow"}, True)])
@pytest.mark.parametrize("how", ["fails", "late", "away", "nobody"])
def test_no_answer(play: Playbook, document: dict[str, str], passes: bool, how: str) -> None:
    """Denies, unless the document says otherwise; who operates is told, and nobody else."""
    guard(play, {"rego": {**REGO, **document}})
    play.worker.recorder.keep(True)
    if how == "away":
        oracle(play).away = "it is away"
    if how == "nobody":
        play.worker.judges.rego = None
    client = asks(play)
    if how == "fails":
        oracle(play).open[0].fail("it is neither")
    if how == "late":
        play.passes(0.9)
        assert not status(client) and play.idle
        play.passes(0.2)
    assert play.idle is not passes
    if not passes:
        assert status(client) == 403 and b"rego" not in client.heard
        records = play.worker.recorder.take(10)
        assert records is not None and b"on_failure: deny" in records.lines
    assert play.worker.table.services[LAMPS].stats.judged == {f"{LAMPS}\trego\tfailed": 1}


def test_who_goes_away_waits_no_longer(play: Playbook) -> None:
    """Neither does one whose time is over; the answer is remembered all the same."""
    client = asks(play)
    client.breaks()
    impatient = asks(play, "GET / HTTP/1.1", "X-Shoal-Deadline: 50", inbound=True)
    play.passes(0.1)
    assert status(impatient) == 504
    assert len(oracle(play).open) == 1
    oracle(play).says(True)
    assert play.idle
    assert play.worker.table.services[LAMPS].stats.active == 0
    asks(play)
    play.upstream("lamp")


def test_what_it_reads_is_asked_first(play: Playbook) -> None:
    """Where a document does not say it, the compiler does."""
    guard(play, {"rego": {"modules": REGO["modules"]}})
    client = asks(play, "GET /x HTTP/1.1", "X-Other: 1")
    (question,) = oracle(play).open
    assert question.asked is None
    question.judge.learn(("method",), False)
    question.learnt()
    assert not status(client)
    assert oracle(play).says(True) == {"method": "GET"}
    up = play.upstream("lamp")
    up >> OK
    assert status(client) == 200
    asks(play, "GET /y HTTP/1.1")
    assert b"GET /y " in up.heard


def test_a_body_waits_too(play: Playbook) -> None:
    """None of it is lost."""
    client = asks(play, "POST /x HTTP/1.1", "Content-Length: 10")
    client >> b"hello"
    oracle(play).says(True)
    client >> b"world"
    up = play.upstream("lamp")
    assert up.heard.endswith(b"helloworld")


def test_rules_that_change_meanwhile(play: Playbook) -> None:
    """Are those that it is judged by."""
    client = asks(play)
    guard(play, {"rules": []})
    assert not status(client)
    oracle(play).says(True)
    assert status(client) == 403 and play.idle


def test_what_is_under_way_is_judged_anew(play: Playbook) -> None:
    """By what the new document's Rego says; it goes on until that is known."""
    client = asks(play)
    oracle(play).says(True)
    up = play.upstream("lamp")
    up >> b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"
    assert client.heard.endswith(b"half")
    guard(play, {"rego": {**REGO, "query": "data.shoal.other"}})
    up >> b"more"
    assert client.heard.endswith(b"more") and not client.closed
    oracle(play).says(True)
    assert not client.closed
    guard(play, {"rego": {**REGO, "query": "data.shoal.third"}})
    oracle(play).says(False)
    assert client.closed


def test_answers_outlive_other_documents(play: Playbook) -> None:
    """They are forgotten with their own."""
    asks(play)
    oracle(play).says(True)
    play.upstream("lamp")
    guard(play, {"rego": REGO}, retry={"attempts": 2})
    asks(play)
    play.upstream("lamp")
    assert oracle(play).asked == 1
    guard(play, {"rego": {**REGO, "timeout": "2s"}})
    asks(play)
    assert oracle(play).asked == 2


def test_each_reading_is_asked_about(play: Playbook) -> None:
    """Where a service could take a request for another; one that is denied denies it."""
    client = asks(play, "GET / HTTP/1.1", "X-HTTP-Method-Override: DELETE")
    assert oracle(play).says(True)["method"] == "GET" and not status(client)
    assert oracle(play).says(False)["method"] == "DELETE"
    assert status(client) == 403
    assert status(asks(play, "GET / HTTP/1.1", "X-HTTP-Method: A, B, C, D, E, F")) == 403


def test_what_is_only_watched_holds_nobody_up(play: Playbook) -> None:
    """It is counted when it is known; also where its answer is remembered."""
    play.put(play.instance("lamp", agent="here"), service=LAMPS, audits={"authz": {"rego": REGO}})
    client = asks(play)
    play.upstream("lamp") >> OK
    assert status(client) == 200
    stats = play.worker.table.services[LAMPS].stats
    assert stats.audited() == {}
    oracle(play).says(False)
    assert stats.audited() == {("authz", LAMPS, "passed", "refused by rego"): 1}
    asks(play)
    assert stats.audited() == {("authz", LAMPS, "passed", "refused by rego"): 2}
    assert stats.authorized == {} and stats.judged == {}


def test_too_many_questions(play: Playbook) -> None:
    """Who comes then is not answered."""
    for number in range(MOST_OPEN):
        play.worker.judges.ask(play.worker.table.services[LAMPS].plan.judges[0], ("x", (str(number),)), None)
    assert status(asks(play)) == 403


def test_an_explanation_asks(play: Playbook) -> None:
    """The very question, and counts nothing; who waits is told when it is answered."""
    told: list[dict[str, Any]] = []
    explain_soon(play.worker, Explain(f"http://{LAMPS}/lamps", caller="shop.production"), told.append)
    assert not told
    assert oracle(play).says(False) == {
        "method": "GET",
        "path": "/lamps",
        "source": {"service": "shop.production"},
    }
    (found,) = told
    assert found["status"] == 403
    entry = next(each for each in found["decisions"] if each["policy"] == f"authz/{LAMPS}")
    assert entry["reason"] == f"policies/authz/{LAMPS}: rego: data.shoal.allow is False"
    assert entry["revision"] == play.revision
    stats = play.worker.table.services[LAMPS].stats
    assert stats.authorized == {} == stats.judged
    found = explain(play.worker, Explain(f"http://{LAMPS}/lamps", caller="shop.production"))
    assert isinstance(found, dict) and found["status"] == 403
    assert status(asks(play, "GET /lamps HTTP/1.1", CREDENTIALS.decode().strip())) == 403
    assert oracle(play).asked == 1


def test_an_explanation_tells_who_allows(play: Playbook) -> None:
    """By name."""
    told: list[dict[str, Any]] = []
    explain_soon(play.worker, Explain(f"http://{LAMPS}/"), told.append)
    oracle(play).says(True)
    entry = next(each for each in told[0]["decisions"] if each["policy"] == f"authz/{LAMPS}")
    assert entry["decision"] == "allowed by default"
    assert entry["reason"].endswith(f"policies/authz/{LAMPS}: rego: data.shoal.allow is True")


def test_who_is_asked_is_prepared(play: Playbook) -> None:
    """As soon as a document is in force, also where it is only watched."""
    assert [judge.who for judge in oracle(play).prepared] == ["rego"]
    play.put(play.instance("lamp", agent="here"), service=LAMPS, audits={"authz": {"rego": REGO}})
    assert len(oracle(play).prepared) == 2


def test_who_calls_is_told(play: Playbook) -> None:
    """By service, namespace and address; of whom nobody knows only where he is."""
    guard(play, {"rego": {**REGO, "reads": ["source"]}})
    asks(play, "GET / HTTP/1.1", CREDENTIALS.decode().strip())
    assert oracle(play).says(True)["source"] == {
        "service": "shop.production",
        "namespace": "production",
        "address": "127.0.0.1",
    }
    asks(play)
    assert oracle(play).says(True) == {"source": {"address": "127.0.0.1"}}


def test_a_copy_waits_for_nobody(play: Playbook) -> None:
    """The one that nobody has judged yet is not sent; the next one is, if it may."""
    play.put("pet", service="pets.production", shadow={"copies": [{"to": LAMPS}]})
    client = play.client()
    for number in range(2):
        assert client >> b"GET / HTTP/1.1\r\nHost: pets.production\r\n\r\n"
        if not number:
            play.upstream("pet") >> OK
            play.passes(0.05)
            assert play.idle and oracle(play).says(True)["path"] == "/"
    play.passes(0.05)
    play.upstream("lamp")
