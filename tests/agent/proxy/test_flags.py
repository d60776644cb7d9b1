"""Whose fault it was that a request got no whole answer: every refusal, failure and cut says so in its record."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from agent.proxy.messages.answers import FULL, OUT_OF_DESCRIPTORS, Refusal
from agent.proxy.messages.flags import FLAGS, POLICY, flag_of
from policies.catalogue import BY_NAME
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import GET

ROOT = Path(__file__).parents[3]
POST = b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: %d\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
PARTS = ("http", "service", "timeout", "endpoint", "agent", "caller")
"""Who refuses besides kinds of policies."""


def known(flag: str) -> bool:
    kind = flag.removeprefix(POLICY)
    return flag in FLAGS or (kind != flag and (kind in BY_NAME or kind == "caller"))


def records(play: Playbook) -> list[Any]:
    frame = play.worker.recorder.take(1000)
    return [json.loads(line) for line in frame.lines.splitlines()] if frame else []


def recording(play: Playbook, *names: str, **documents: Any) -> Wire:
    play.worker.recorder.keep(True)
    play.put(*(names or ("one",)), **{"retry": {"attempts": 1}, **documents})
    return play.client()


def record(play: Playbook) -> Any:
    (found,) = records(play)
    assert found["flag"] == "" or known(found["flag"]), found["flag"]
    assert bool(found["why"]) >= bool(found["flag"])
    return found


def refusals() -> list[tuple[str, ast.Call]]:
    """Every place where one is made."""
    found = []
    for path in sorted((ROOT / "agent/proxy").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refusal":
                found.append((f"{path.name}:{node.lineno}", node))
    return found


def test_every_refusal_that_there_is_has_a_flag_of_the_table() -> None:
    """Those whose status and policy stand where they are made; others are of kinds, which have one each."""
    looked_at = 0
    for where, call in refusals():
        arguments = [each.value if isinstance(each, ast.Constant) else None for each in call.args[:2]]
        if None not in arguments:
            status, policy = arguments
            assert isinstance(status, int) and isinstance(policy, str)
            assert policy in PARTS or policy in BY_NAME, where
            assert known(flag_of(policy, status)), where
            looked_at += 1
    assert looked_at > 20
    assert all(known(Refusal(status, kind, "").whose) for kind in BY_NAME for status in (403, 429, 503))
    assert FULL.whose == OUT_OF_DESCRIPTORS.whose == "agent.full"


def test_the_page_has_them_all() -> None:
    """And no other."""
    table = (ROOT / "docs/logs.md").read_text().partition("## Whose fault it was")[2].partition("\n## ")[0]
    said = re.findall(r"^\| `([a-z_.A-Z]+)` \|", table, re.M)
    assert said == [*FLAGS, "policy.KIND"]


def test_an_answer_of_an_instance_has_none() -> None:
    """Whatever its status is."""
    with Playbook() as play:
        client = recording(play)
        assert client >> GET
        assert play.upstream() >> OK.replace(b"200 OK", b"500 Oops")
        found = record(play)
        assert (found["status"], found["flag"], found["why"]) == (500, "", "")
        assert found["failed"] == ["one: status 500"] and found["first_byte_s"] == 0.0


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("ratelimit", {"limits": [{"name": "all", "rate": "1/h"}]}),
        ("fault", {"rules": [{"abort": {"status": 418}}], "expires": "2999-01-01T00:00:00Z"}),
        ("isolation", {"allow": ["*.staging"]}),
    ],
)
def test_what_a_document_refuses(kind: str, document: dict[str, Any]) -> None:
    """Is its kind's."""
    with Playbook() as play:
        client = recording(play, **{kind: document})
        for _ in range(2):
            assert client >> GET
            if not play.idle:
                assert play.upstream() >> OK
        assert record_of(play, last=True)["flag"] == f"policy.{kind}"


def test_a_name_that_is_no_service() -> None:
    """It is the caller's."""
    with Playbook() as play:
        client = recording(play)
        assert client >> GET.replace(b"pets", b"pest")
        assert record(play)["flag"] == "client.no_service"


def test_no_instance() -> None:
    """Nobody is there."""
    with Playbook() as play:
        client = recording(play, play.instance("one", healthy=False))  # type: ignore[arg-type]
        play.put()
        assert client >> GET
        assert record(play)["flag"] in ("service.no_endpoint", "client.no_service")


def test_what_goes_wrong_with_an_instance() -> None:
    """Refused, too slow to connect, broken off before and within its answer, no HTTP, no answer."""
    told = {}
    for name in ("connect", "connect_timeout", "reset", "cut", "broken", "timeout"):
        with Playbook() as play:
            client = recording(play, timeout={"connect": "1s", "request": "2s"})
            assert client >> GET
            if name == "connect":
                play.dialled().refuses()
            elif name == "connect_timeout":
                play.dialled()
                play.passes(1.1)
            else:
                up = play.upstream()
                if name == "reset":
                    up.breaks()
                elif name == "cut":
                    assert up >> b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
                    up.breaks()
                elif name == "broken":
                    assert up >> b"SSH-2.0-OpenSSH\r\n\r\n"
                else:
                    play.passes(2.1)
            told[f"service.{name}"] = record(play)["flag"]
    assert list(told) == list(told.values())


def test_what_goes_wrong_with_a_client() -> None:
    """It leaves; it sends no more; it is no HTTP; it has asked for an answer sooner than there can be one."""
    with Playbook() as play:
        client = recording(play)
        assert client >> GET
        play.upstream()
        client.breaks()
        found = record(play)
        assert (found["flag"], found["why"], found["status"]) == ("client.gone", "the client went away", 0)
        client = play.client()
        assert client >> b"GET / HTTP/1.1\r\n\r\n"
        assert record(play)["flag"] == "client.malformed"
        client = play.client()
        assert client >> GET[:-2] + b"X-Shoal-Deadline: 1\r\n\r\n"
        play.upstream()
        play.passes(0.1)
        assert record(play)["flag"] == "client.deadline"
        client = play.client()
        assert client >> POST % 5 + b"ab"
        play.upstream()
        play.passes(301.0)
        assert record(play)["flag"] == "client.slow"


def test_a_connection_that_this_agent_cuts() -> None:
    """No client's fault."""
    with Playbook() as play:
        client = recording(play)
        assert client >> GET
        play.upstream()
        play.worker.cut()
        found = record(play)
        assert (found["flag"], found["why"]) == ("agent.cut", "this agent closed the connection")


def test_of_another_agents_refusal_the_flag_is_by_its_policy() -> None:
    """The caller's record says what the other host's does."""
    refused = b"HTTP/1.1 429 No\r\nX-Shoal-Policy: ratelimit\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    for via, flag in ((True, "policy.ratelimit"), (False, "")):
        with Playbook() as play:
            play.worker.recorder.keep(True)
            play.put(play.instance("one", agent="there", via=via), retry={"attempts": 1})
            client = play.client()
            assert client >> GET
            assert play.upstream() >> refused
            found = record_of(play)
            assert (found["status"], found["flag"]) == (429, flag)


def record_of(play: Playbook, *, last: bool = False) -> Any:
    found = records(play)
    assert len(found) == 1 or last
    return found[-1]


def test_how_long_what_took_and_what_was_tried() -> None:
    """Connecting is of the last try; the first byte is the answer's; tries that failed are named."""
    with Playbook() as play:
        client = recording(play, "one", "two", retry={"attempts": 2})
        trace = b"4bf92f3577b34da6a3ce929d0e0e4736"
        assert client >> GET[:-2] + b"traceparent: 00-%b-00f067aa0ba902b7-01\r\n\r\n" % trace
        first = play.dialled()
        play.passes(0.25)
        first.refuses()
        play.passes(0.05)
        second = play.dialled()
        play.passes(0.5)
        assert second.accepts() >> b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok"
        play.passes(1.0)
        assert second >> b"ok"
        found = record_of(play)
    assert (found["attempts"], found["trace_id"]) == (2, trace.decode())
    (failed,) = found["failed"]
    assert failed.endswith(": no connection") and failed[:3] in ("one", "two")
    assert found["connect_s"] == pytest.approx(0.55, abs=0.03) and found["tls_s"] == found["queue_s"] == 0.0
    assert found["first_byte_s"] == pytest.approx(0.8, abs=0.05) and found["duration_s"] == pytest.approx(1.8, abs=0.05)


def test_what_documents_say_is_in_the_record() -> None:
    """The rule that decided, the limit that refused."""
    with Playbook() as play:
        route = {"rules": [{"match": {"path": {"prefix": "/old"}}, "name": "gone", "respond": {"status": 410}}, {}]}
        client = recording(play, route=route)
        assert client >> GET.replace(b"GET / ", b"GET /old ")
        found = record(play)
        assert found["status"] == 410 and found["verdicts"] == ["route: gone"] and found["flag"] == ""
