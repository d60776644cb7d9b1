"""A request and its answer as a conversation, byte by byte: the story as it should be."""

from __future__ import annotations

import pytest

from tests.support.conversation import GET, HEARD, OK, POST, RELAYED, talk
from tests.support.playbook import Playbook


def test_there_and_back_and_once_more_on_the_same_connections() -> None:
    """The whole conversation, to the byte."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        assert up >> OK
        assert client << RELAYED
        assert client >> GET
        assert up << HEARD and play.idle
        assert up >> OK
        assert client << RELAYED
        assert not client.closed and not up.closed


@pytest.mark.parametrize("cut", range(1, len(GET), 7))
def test_a_head_in_two_pieces_is_one_head(cut: int) -> None:
    """Wherever it is cut."""
    with Playbook() as play:
        play.put("one")
        client = play.client()
        assert client >> GET[:cut]
        assert play.idle
        assert client >> GET[cut:]
        assert play.upstream("one") << HEARD


def test_bodies_go_both_ways_as_they_come() -> None:
    """And what a client says too early waits for its turn."""
    with Playbook() as play:
        play.put("one")
        client = play.client()
        assert client >> POST + b"he"
        up = play.upstream("one")
        assert up << b"POST /a ...\r\n\r\nhe"
        assert client >> b"llo" + GET
        assert up << b"llo"
        assert up >> b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        assert client << b"HTTP/1.1 200 OK\r\nvia: 1.1 shoal\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
        assert up << b""
        assert up >> b"0\r\nX-Sum: 1\r\n\r\n"
        assert client << b"0\r\nX-Sum: 1\r\n\r\n"
        assert up << HEARD, "the one that waited"


def test_a_chunked_body_is_sent_again_as_it_came() -> None:
    """Its pieces and its trailers, framed anew, at once where it is whole already; each attempt alike."""
    head = b"PUT /a HTTP/1.1\r\nHost: pets.production\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Playbook() as play:
        play.put("one", "two")
        client = play.client()
        assert client >> head + b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 5\r\n\r\n"
        first = play.upstream()
        body = b"5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n"
        assert first << b"PUT /a HTTP/1.1\r\n...transfer-encoding: chunked\r\n\r\n" + body
        first.breaks()
        play.passes(1.0)
        second = play.upstream()
        assert second << b"PUT /a HTTP/1.1\r\n...x-shoal-attempt: 2\r\ntransfer-encoding: chunked\r\n\r\n" + body
        assert second >> OK
        assert client << RELAYED


def test_who_takes_slowly_has_the_other_side_wait() -> None:
    """The upstream is not read from while the client takes nothing, and goes on afterwards."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        client.takes(0)
        assert up >> b"HTTP/1.1 200 OK\r\nContent-Length: 600000\r\n\r\n" + b"x" * 300_000
        exchange = play.connection(client).exchange
        attempt = exchange.attempt  # type: ignore[union-attr]
        assert not attempt.up.connection._events & 1, "it is read from although nobody takes it"
        client.takes(None)
        assert attempt.up.connection._events & 1
        assert up >> b"x" * 300_000
        assert client << b"HTTP/1.1 200 OK\r\n..." + b"x" * 600_000


def test_informational_answers_and_upgrades() -> None:
    """103 is passed on; after 101 bytes go both ways, and each side may be through first."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        assert up >> b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK
        assert client << b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + RELAYED
        assert client >> GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        assert up << b"...connection: upgrade\r\nupgrade: echo\r\n..."
        assert up >> b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhi"
        assert client << b"HTTP/1.1 101 ...\r\n\r\nhi"
        assert client >> b"\x00\x01"
        assert up << b"\x00\x01"
        assert up.ends() and client.finished and not up.finished
        assert client >> b"more"
        assert up << b"more"
        assert client.ends()
        assert up.closed
