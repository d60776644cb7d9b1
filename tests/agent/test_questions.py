"""What agents ask each other, across versions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.msgpack import encode

from agent import questions
from agent.control.mesh.table import Table
from agent.control.traffic.shared_limits import SharedLimits, asked
from agent.questions import EXPLAIN, Decision, Demand, Explain, Explained, Figures, read
from registry.keys import Keys
from tests.support.playbook import Playbook, Wire

ASKS = b"POST %b HTTP/1.1\r\nHost: agent.shoal\r\nContent-Length: %d\r\n\r\n%b"


def ask(play: Playbook, path: str, body: bytes) -> Wire:
    agent = play.client(inbound=True)
    assert agent >> ASKS % (path.encode(), len(body), body)
    return agent


def test_what_a_newer_agent_says_besides_is_ignored() -> None:
    """Fields of maps, and the ends of arrays."""
    assert read(encode(["there", {"a": [1, 2, 3, 4, True, 5]}, "more"]), Demand) == Demand(
        "there", {"a": Figures(1, 2, 3, 4, True)}
    )
    assert read(encode({"url": "pets/", "mood": "good"}), Explain) == Explain("pets/")
    decision = {"phase": "shed", "decision": "let in", "reason": "", "mood": "good"}
    told = {"decisions": [decision], "endpoint": None, "status": None, "mood": "good"}
    assert read(encode(told), Explained) == Explained([Decision("shed", "let in", "")])


def test_what_agents_of_the_version_before_say_is_known() -> None:
    """Its maps, word by word."""
    hop = {"method": "GET", "url": "http://p/a", "headers": [["x-a", "b"]], "caller": "", "inbound": "p/one"}
    assert read(encode(hop), Explain) == Explain("http://p/a", headers=[["x-a", "b"]], inbound="p/one")
    assert read(encode(["there", {"a": (1.0, 0.0, 1.0, 0.0)}]), Demand) == Demand("there", {"a": Figures(1, 0, 1, 0)})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\xff\xfe", b"ValidationError"),
        (b"", b"DecodeError"),
        (encode([1]), b"Expected `object`"),
        (encode({"url": 5}), b"$.url"),
        (encode({"headers": [["x-a"]]}), b"$.headers[0]"),
        (encode({"headers": [["x-a", 5]]}), b"$.headers[0][1]"),
        (encode({"shed": {"a": None}}), b"$.shed"),
        (b"\x81\xa1a" + b"\x91" * 60_000, b"RecursionError"),
    ],
)
def test_a_malformed_question_is_answered_in_words(body: bytes, words: bytes) -> None:
    """400, with where it is wrong; and the connection is used again."""
    with Playbook() as play:
        play.put("one")
        agent = ask(play, EXPLAIN, body)
        assert agent.heard.startswith(b"HTTP/1.1 400 ") and words in agent.heard
        agent.heard = b""
        good = encode({"url": "pets.production/"})
        assert agent >> ASKS % (EXPLAIN.encode(), len(good), good)
        assert agent.heard.startswith(b"HTTP/1.1 200 ")
        assert isinstance(read(agent.heard.partition(b"\r\n\r\n")[2], Explained), Explained)


def test_a_question_of_a_newer_version_is_answered_in_words() -> None:
    """404, with what is known here."""
    sharing = SharedLimits(Table(Keys(), "here"), "here")
    status, body = asked("/mood?of=day", b"", sharing, "127.0.0.1")
    assert status == 404 and b"/mood?of=day" in body and b"/explain, /join, /keys, /shares, /sign" in body
    assert questions.refused(status, body).startswith("it answers 404: the agent here (")
    with Playbook() as play:
        play.put("one")
        play.worker.peers.connect(lambda frame: play.worker.peers.answer(frame.id, status, body))
        agent = ask(play, "/mood?of=day", b"")
        assert agent << b"HTTP/1.1 404 Not Found\r\ncontent-type: text/plain; charset=utf-8\r\n..." + body


@given(st.recursive(st.none() | st.integers() | st.text(), lambda i: st.lists(i) | st.dictionaries(st.text(), i)))
def test_whatever_it_is_it_is_read_or_refused(value: Any) -> None:
    """And nothing is raised."""
    try:
        body = encode(value)
    except (OverflowError, ValueError):
        return
    for wanted in (Demand, Explain, Explained, dict[str, float]):
        found = read(body, wanted)
        assert isinstance(found, str) or msgspec.to_builtins(found) is not None
