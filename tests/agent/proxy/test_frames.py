"""What a worker makes of control's frames."""

from __future__ import annotations

from typing import Any

import pytest

from agent import frames
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
        assert play.worker.on_frame(frame) == []
        assert words in caplog.text
        assert play.worker.on_frame({"t": "ask", "id": 1, "what": "ping"}) == [{"t": "answer", "id": 1, "value": {}}]


def test_fields_that_are_not_known_are_ignored() -> None:
    """A newer control may say more."""
    found = frames.known({"t": "commit", "revision": 7, "agents": 2, "mood": "good"})
    assert found == frames.Commit(7, 2)


def test_what_is_encoded_is_what_is_known() -> None:
    """Over the wire, cut anywhere."""
    endpoint = frames.EndpointFrame(
        "i", "10.0.0.1", 80, "v1", "", 100.0, {}, True, False, False, "", "10.0.0.1", 80, False
    )
    policy = frames.PolicyFrame("*", 3, b"{}")
    told = frames.Stage("pets.production", 3, [endpoint], {"route": policy})
    sent = frames.encode(
        {
            "t": "service",
            "name": "pets.production",
            "revision": 3,
            "endpoints": [endpoint],
            "policies": {"route": policy},
        }
    )
    decoder = frames.Decoder()
    found = [frames.known(frame) for at in range(len(sent)) for frame in decoder.feed(sent[at : at + 1])]
    assert found == [told]
