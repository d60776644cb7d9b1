"""An OPA, byte by byte: the test is it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from agent.frames import Configure
from agent.proxy.request.explain import explain
from agent.questions import Explain
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import CREDENTIALS, entrust

LAMPS = "lamps.production"
OPA = {"url": "http://127.0.0.1:8181", "path": "shoal/allow", "reads": ["method", "path"]}


@pytest.fixture
def play() -> Iterator[Playbook]:
    with Playbook(host="here") as play:
        play.worker.take(Configure(host="here", opas=["http://localhost:8181"]))
        entrust(play.worker)
        guard(play, {"opa": OPA})
        yield play


def guard(play: Playbook, document: Any) -> None:
    play._names[8181] = "opa"
    play.put(play.instance("lamp", agent="here"), service=LAMPS, authz=document)


def asks(play: Playbook, path: str = "/") -> Wire:
    client = play.client()
    assert client >> f"GET {path} HTTP/1.1\r\nHost: {LAMPS}\r\n\r\n".encode()
    return client


def answer(said: Any, status: str = "200 OK") -> bytes:
    body = json.dumps(said).encode()
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status.encode(),
        len(body),
        body,
    )


def status(wire: Wire) -> int:
    return int(wire.heard[9:12]) if wire.heard else 0


def reason(play: Playbook) -> str:
    """What who operates is told of the last request."""
    records = play.worker.recorder.take(100)
    assert records is not None
    return str(json.loads(records.lines.splitlines()[-1])["why"])


def test_it_is_asked(play: Playbook) -> None:
    """What Rego would be told, as JSON; on a connection that is kept."""
    asks(play)
    opa = play.upstream("opa")
    head, _, body = opa.heard.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/data/shoal/allow HTTP/1.1\r\nhost: 127.0.0.1:8181\r\n")
    assert b"content-length: %d" % len(body) in head
    assert json.loads(body) == {"input": {"method": "GET", "path": "/"}}
    assert play.idle
    opa >> answer({"result": True})
    play.upstream("lamp")
    opa.heard = b""
    client = asks(play, "/other")
    assert b'"path":"/other"' in opa.heard
    opa >> answer({"result": False, "decision_id": "4ca636c1"})
    assert status(client) == 403
    found = explain(play.worker, Explain(f"http://{LAMPS}/"))
    assert not isinstance(found, dict), "nothing is remembered, where the document does not say so"


def test_credentials_of_the_mesh_are_not_told(play: Playbook) -> None:
    """What a caller shows its agent is no business of an OPA's; what it shows the service is."""
    play.put("shop", service="shop.production")
    guard(play, {"opa": {**OPA, "reads": []}})
    client = play.client()
    credentials = CREDENTIALS.decode().strip()
    lines = ["GET / HTTP/1.1", f"Host: {LAMPS}", credentials, "Authorization: Bearer x", "X-Shoal-Explain: 1"]
    assert client >> "\r\n".join([*lines, "", ""]).encode()
    told = json.loads(play.upstream("opa").heard.partition(b"\r\n\r\n")[2])["input"]
    assert told["headers"] == {"host": LAMPS, "authorization": "Bearer x"}


def test_its_decision_id_is_told(play: Playbook) -> None:
    """To who operates."""
    play.worker.recorder.keep(True)
    client = asks(play)
    play.upstream("opa") >> answer({"result": False, "decision_id": "4ca636c1-55e4", "more": [1]})
    assert status(client) == 403 and b"4ca636c1" not in client.heard
    assert reason(play) == f"policies/authz/{LAMPS}: opa: shoal/allow is false (decision 4ca636c1-55e4)"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (answer({}), "opa: shoal/allow is undefined"),
        (answer({"result": "true"}), "neither true nor false"),
        (answer({"result": {"allow": True}}), "neither true nor false"),
        (answer({"result": 1}), "neither true nor false"),
        (answer([True]), "no object"),
        (answer({"result": True}, "500 Internal Server Error"), "answers 500"),
        (answer({"code": "unauthorized"}, "401 Unauthorized"), "answers 401"),
        (answer({"result": True}, "204 No Content")[:80], "answers 204"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrue", "no object"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n{'a':1", "no JSON"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + b"[" * 5000, "no JSON"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b" " * 100000, "more than 65536 bytes"),
        (b"garbage\r\n\r\n", "broken answer"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "broken answer"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 3])
def test_what_is_no_yes_denies(play: Playbook, said: bytes, told: str, pieces: int) -> None:
    """Whatever it is."""
    play.worker.recorder.keep(True)
    client = asks(play)
    opa = play.upstream("opa")
    size = -(-len(said) // pieces)
    for n in range(pieces):
        if not opa.closed:
            opa >> said[n * size : (n + 1) * size]
    assert status(client) == 403 and play.idle
    assert told in reason(play)


def test_one_that_is_away_is_left_alone(play: Playbook) -> None:
    """After three failures; then one question finds out whether it is back."""
    play.worker.recorder.keep(True)
    for n in range(3):
        client = asks(play, f"/{n}")
        play.dialled("opa").refuses()
        assert status(client) == 403
    client = asks(play, "/3")
    assert status(client) == 403 and play.idle
    assert "asked again in 0.5 s" in reason(play)
    play.passes(0.6)
    first, second = asks(play, "/4"), asks(play, "/5")
    assert not status(first) and status(second) == 403
    play.dialled("opa").refuses()
    assert status(first) == 403
    play.passes(0.6)
    assert status(asks(play, "/6")) == 403 and play.idle, "for twice as long"
    play.passes(0.6)
    asks(play, "/7")
    play.upstream("opa") >> answer({"result": True})
    play.upstream("lamp")
    one, two = asks(play, "/8"), asks(play, "/9")
    assert not status(one) and not status(two)


def test_one_that_is_slow(play: Playbook) -> None:
    """Costs a request its document's time, and no more; its late answer reaches nobody."""
    client = asks(play)
    opa = play.upstream("opa")
    play.passes(0.6)
    assert status(client) == 403 and opa.closed


def test_who_goes_away_leaves_the_question(play: Playbook) -> None:
    """Its answer is of use to others."""
    guard(play, {"opa": {**OPA, "cache": "5s"}})
    client = asks(play)
    opa = play.upstream("opa")
    client.breaks()
    opa >> answer({"result": True})
    assert play.idle
    asks(play)
    play.upstream("lamp")
    play.passes(6)
    asks(play)
    assert opa.heard.count(b"POST ") == 2, "for as long as the document says"


def test_a_kept_connection_that_closed(play: Playbook) -> None:
    """Is no failure: it is asked again on another."""
    asks(play)
    opa = play.upstream("opa")
    opa >> answer({"result": False})
    client = asks(play, "/2")
    opa.ends()
    assert not status(client)
    play.upstream("opa") >> answer({"result": True})
    play.upstream("lamp")


def test_settings_say_where(play: Playbook) -> None:
    """And no document."""
    play.worker.recorder.keep(True)
    guard(play, {"opa": {**OPA, "url": "http://10.0.0.1:8181"}})
    assert status(asks(play)) == 403 and play.idle
    assert "[opa] allow in this agent's settings does not name http://10.0.0.1:8181" in reason(play)
    play.worker.take(Configure(host="here", opas=["http://10.0.0.1"]))
    asks(play)
    assert not play.idle


def test_on_failure(play: Playbook) -> None:
    """A document may let pass what nobody judges; what is denied stays so."""
    guard(play, {"opa": {**OPA, "on_failure": "allow"}})
    asks(play)
    play.dialled("opa").refuses()
    play.upstream("lamp")
    client = asks(play, "/2")
    play.upstream("opa") >> answer({"result": False})
    assert status(client) == 403
