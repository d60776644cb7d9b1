"""The frames of both directions, and what a worker makes of those that it cannot take."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.msgpack import encode

from agent import frames, framing
from agent.requests.filter import Filter
from agent.requests.taps import Wanted
from policies.kinds.shadow.answer import Asked
from tests.support.playbook import Playbook


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ({"t": "rollback", "revision": 7}, "rollback"),
        ({"t": "commit", "revision": "seven"}, "$.revision"),
        ({"t": "service", "name": "pets.production"}, "missing required field"),
        ({"t": "shares", "shares": {"pets.production": [1]}}, "$.shares"),
        ({}, "missing required field"),
    ],
)
def test_a_frame_that_makes_no_sense_is_told_of_and_passed_over(
    frame: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a newer version, or broken: an error in words, and the worker goes on."""
    with Playbook() as play:
        play.put("one")
        assert play.worker.take(frames.to_worker(encode(frame))) == []
        assert words in caplog.text
        assert play.worker.take(frames.Ask(1, "ping")) == [frames.Answer(1, {})]


def test_fields_that_are_not_known_are_ignored() -> None:
    """A newer control may say more."""
    found = frames.to_worker(encode({"t": "commit", "revision": 7, "agents": 2, "mood": "good"}))
    assert found == frames.Commit(7, 2)
    found = frames.to_control(encode({"mood": "good", "id": 7, "t": "answer", "value": [1]}))
    assert found == frames.Answer(7, [1])


def test_what_is_encoded_is_what_is_known() -> None:
    """Over the wire, cut anywhere."""
    endpoint = frames.EndpointFrame(
        "i", "10.0.0.1", 80, "v1", "", 100.0, {}, True, False, False, "", "10.0.0.1", 80, False
    )
    policy = frames.PolicyFrame("*", 3, b"{}")
    told = frames.Stage("pets.production", 3, [endpoint], {"route": policy})
    sent = framing.encode(told)
    decoder = framing.Decoder(frames.to_worker)
    found = [frame for at in range(len(sent)) for frame in decoder.feed(sent[at : at + 1])]
    assert found == [told]


def test_what_is_on_the_wire_is_msgpack_to_others() -> None:
    """Somebody else's reader finds the same in it: a map with its kind, structs as lists."""
    told = frames.Stage("pets.production", 3, [], {"route": frames.PolicyFrame("*", 3, b"{}")})
    sent = framing.encode(told)
    assert msgpack.unpackb(sent[framing.HEADER.size :]) == {
        "t": "service",
        "name": "pets.production",
        "revision": 3,
        "endpoints": [],
        "policies": {"route": ["*", 3, b"{}", "", []]},
        "audits": {},
    }
    read = frames.to_control(msgpack.packb({"t": "runs", "revision": 7, "refused": []}))
    assert read == frames.Runs(7, [])


@pytest.mark.parametrize("read", [frames.to_worker, frames.to_control])
@pytest.mark.parametrize(
    ("frame", "broken"),
    [
        ({"t": "rollback", "revision": 7}, False),
        ({"revision": 7, "t": "x" * 1000}, False),
        ({"t": ["commit"]}, True),
        ({"t": 7}, True),
        ({}, True),
    ],
)
def test_a_kind_that_is_not_known_is_told_from_what_is_none(read: Any, frame: dict[str, Any], broken: bool) -> None:
    """In both directions: the former may be a newer version's, the latter is nobody's."""
    found = read(encode(frame))
    assert isinstance(found, frames.Unknown)
    assert (found.broken, found.asks) == (broken, None)
    assert len(found.kind) <= 60 and found.reason


def test_a_known_kind_that_is_malformed_is_broken() -> None:
    """And a question keeps its number, so that it can be answered."""
    assert frames.to_worker(encode({"t": "ask", "id": 7})) == frames.Unknown(
        "ask", "Object missing required field `what`", True, 7
    )
    found = frames.to_worker(encode({"t": "ask", "id": "7"}))
    assert isinstance(found, frames.Unknown) and found.asks is None
    found = frames.to_control(encode({"t": "answer", "id": "7"}))
    assert isinstance(found, frames.Unknown) and found.broken


SAID: list[frames.ToWorker | frames.ToControl] = [
    frames.Configure("here", callers={"pets.production": "x"}, agents=["10.0.0.0/8"]),
    frames.Trust("default.shoal", {"": frames.Svid("/a.pem", "/a.key", 9.0)}, {"default.shoal": [b"der"]}, b"{}"),
    frames.IssuerKeys("https://login", [{"kty": "OKP", "x": "11qY"}]),
    frames.Where("here", {"there": "10.0.0.2"}),
    frames.Change("pets.production", 7, [], ["i"], {"route": frames.PolicyFrame("*", 3, b"{}")}, more=True),
    frames.Gone("pets.production"),
    frames.Commit(7, 3),
    frames.Ask(1, "state", {"service": "pets.production"}),
    frames.PeerAnswer(1, 200, b"\xff"),
    frames.Stored(1, "n", ""),
    frames.Recorded(1, "no space"),
    frames.Away(),
    frames.Shares(
        {"pets.production": {"all": 0.5}},
        {"pets.production": {"all": frames.Part(0.5, 0.25, 0.1)}},
        {"pets.production": {"each": {"7f": 1.0}}},
        {"pets.production": {"each": {"7f": 4.0}}},
    ),
    frames.Follow({"7": Filter("*.production", ("5xx",), 0.2, "/cats", "shop.production", failed=True)}),
    frames.Drain(5.0),
    frames.Ready(1, "compiled", changes=True),
    frames.Runs(7, [frames.Uncompiled("*", "$.rules", "no", "route")]),
    frames.Answer(1, {"a": [1, b"x", None]}),
    frames.Peer(1, "/shares", b"\xff", "10.0.0.2"),
    frames.Store(1, "n", frames.Topic("redis://r/0?stream=s", "me", {"file": "f"}), b"{}"),
    frames.Happened([frames.Transition("breaker", "s", "", "closed", "open", "5 in a row", False, 1.5)]),
    frames.Records(1, b"{}\n"),
    frames.Spans(1, b"{}\n"),
    frames.Tap({"8": Wanted(Filter("*.production", path="/cats"), headers=True)}),
    frames.Followed("7", 1, b"{}\n", 2),
    frames.Audited(1, b"{}\n", {"full": 2}, 7),
    frames.KeyMissed("https://login"),
    frames.Compared("s", 7, Asked("GET", "/", "id"), {}),
    frames.Drained(),
]


@pytest.mark.parametrize("said", SAID, ids=lambda said: type(said).__name__)
def test_every_frame_arrives_as_it_was_sent(said: frames.ToWorker | frames.ToControl) -> None:
    """And is what the other direction does not know."""
    there = frames.to_worker if isinstance(said, frames.ToWorker) else frames.to_control
    back = frames.to_control if isinstance(said, frames.ToWorker) else frames.to_worker
    sent = framing.encode(said)
    assert list(framing.Decoder(there).feed(sent)) == [said]
    (found,) = framing.Decoder(back).feed(sent)
    assert isinstance(found, frames.Unknown) and not found.broken


def test_every_kind_is_tried() -> None:
    """By the test above, or the one for `service`."""
    assert {str(said.__struct_config__.tag) for said in SAID} == frames.KINDS - {"service"}


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x05", b"\x81\xa1x", b"\x81\xa1t\xa1\xff", b"\x90"])
def test_what_is_no_map_is_no_frame(body: bytes) -> None:
    """Not msgpack, no map, cut off, text that is none."""
    for read in (frames.to_worker, frames.to_control):
        with pytest.raises(ValueError, match=r"."):
            read(body)


@given(
    st.dictionaries(
        st.sampled_from(["t", "id", "what", "name", "policies", "events", "value", "answers"]),
        st.recursive(
            st.none() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8) | st.binary(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=6,
        ),
    ),
    st.sampled_from(sorted(frames.KINDS)) | st.text(max_size=8),
)
def test_whatever_map_it_is_it_is_a_frame_or_unknown(frame: dict[str, Any], kind: str) -> None:
    """And nothing is raised."""
    for read in (frames.to_worker, frames.to_control):
        found = read(encode({**frame, "t": kind}))
        assert isinstance(found, frames.Unknown) or found.__struct_config__.tag == kind
