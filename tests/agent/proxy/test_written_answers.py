"""Answers that documents write, as clients hear them: their bodies, what these are, and what has none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.playbook import Playbook

GET = b"%b /a HTTP/1.1\r\nHost: pets.production\r\nX-Request-Id: 7\r\n\r\n"
PLAIN = b"content-type: text/plain; charset=utf-8\r\n"
JSON = b"content-type: application/json\r\n"


def fault(**answer: Any) -> dict[str, Any]:
    return {"fault": {"expires": "2099-01-01T00:00:00Z", "rules": [{"abort": answer}]}}


def fallback(**answer: Any) -> dict[str, Any]:
    trip = {"trip": {"consecutive": 1}, "fallback": {"respond": answer}}
    return {"breaker": trip, "retry": {"attempts": 1}}


def shed(**answer: Any) -> dict[str, Any]:
    return {"shed": {"concurrency": 1, "instead": [{"respond": answer}]}}


def route(**answer: Any) -> dict[str, Any]:
    return {"route": {"rules": [{"respond": answer}]}}


def heard(documents: dict[str, Any], method: bytes = b"GET") -> tuple[bytes, bytes]:
    """Head and body of what the document answers, on a connection that is asked once more behind it."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"), **documents)
        if "route" not in documents and "fault" not in documents:
            first = play.client()
            assert first >> GET % b"GET"
            up = play.upstream("one")
            if "breaker" in documents:
                assert up >> b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
        client = play.client()
        assert client >> GET % method
        head, _, body = client.heard.partition(b"\r\n\r\n")
        assert not client.closed
        return head + b"\r\n", body


WRITTEN = [fault, fallback, shed, route]


@pytest.mark.parametrize("write", WRITTEN)
def test_a_body_says_what_it_is(write: Any) -> None:
    """Plain text, unless the document says something else; and once."""
    head, body = heard(write(status=418, body="caf\u00e9"))
    assert head.startswith(b"HTTP/1.1 418 ") and body == "café".encode()
    assert PLAIN in head and head.count(b"content-type") == 1 and b"content-length: 5\r\n" in head
    head, body = heard(write(status=418, headers={"Content-Type": "text/html"}, body="<p>"))
    assert body == b"<p>" and b"Content-Type: text/html\r\n" in head and b"content-type" not in head
    assert heard(write(status=418, body="x"), b"HEAD")[1] == b""


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("write", WRITTEN)
def test_what_has_no_body_is_sent_without(write: Any, status: int) -> None:
    """Not even the reason: the client would take it for its next answer."""
    head, body = heard(write(status=status))
    assert head.startswith(b"HTTP/1.1 %d " % status) and body == b"" and b"content-length" not in head


@pytest.mark.parametrize("write", [fault, fallback, shed])
def test_without_a_body_the_reason_is_one(write: Any) -> None:
    """As the pages say: JSON, like any refusal's."""
    head, body = heard(write(status=503))
    assert JSON in head and b'"reason"' in body
