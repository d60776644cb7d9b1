"""Chunked coding: however it is cut into pieces, the payload is the same; what is ambiguous is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.proxy.http1.framing import ChunkedDecoder, chunk, last_chunk
from agent.proxy.messages.head import BadHead


def decode(pieces: list[bytes]) -> tuple[bytes, ChunkedDecoder]:
    decoder = ChunkedDecoder()
    payload = b""
    for piece in pieces:
        payload += decoder.feed(piece)
    return payload, decoder


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.lists(st.integers(1, 40), max_size=200))
def test_any_cut_gives_the_same_payload(chunks: list[bytes], cuts: list[int]) -> None:
    """Encode, cut anywhere, decode: nothing changes, and what follows the body is left over whole."""
    wire = b"".join(map(chunk, chunks)) + last_chunk([b"x-t: 1\r\n"]) + b"GET"
    decoder = ChunkedDecoder()
    payload = b""
    rest = b""
    while wire:
        size = cuts.pop() if cuts else len(wire)
        piece, wire = wire[:size], wire[size:]
        if decoder.done:
            rest += piece
        else:
            payload += decoder.feed(piece)
    assert payload == b"".join(chunks)
    assert decoder.done
    assert decoder.trailers == [b"x-t: 1\r\n"]
    assert decoder.rest + rest == b"GET"


@pytest.mark.parametrize(
    "wire",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"0x5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"\r\nhello\r\n",
        b"5;\x00\r\nhello\r\n",
        b"11111111111111111\r\n",
        b"5" * 5000,
        b"5;" + b"a" * 5000 + b"\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\n" + b"x: 1\r\n" * 60 + b"\r\n",
        b"0\r\nx: " + b"a" * 20000,
    ],
)
def test_bad_chunks(wire: bytes) -> None:
    """Sizes that are no plain hexadecimal number, lines without CR LF, data longer than its size, endless trailers."""
    with pytest.raises(BadHead):
        decode([wire])
    with pytest.raises(BadHead):
        decode([wire[i : i + 1] for i in range(len(wire))])


def test_extensions_end_here_and_framing_trailers_are_dropped() -> None:
    """A trailer can change neither framing nor routing."""
    payload, decoder = decode(
        [b"3;a=b\r\nabc\r\n0\r\nContent-Length: 9\r\nHost: x\r\nX-Sum: 1\r\nX-Shoal-Caller: a\r\n\r\n"]
    )
    assert payload == b"abc"
    assert decoder.trailers == [b"X-Sum: 1\r\n"]
