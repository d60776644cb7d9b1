"""Whatever a client sends and however it is cut: an independent parser at the upstream sees whole requests, framed
without doubt, in order, and nothing else.
"""

import h11
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.proxy import OK, Client, endpoint, running_proxy


class Seen:
    """An upstream that reads with h11 and remembers every request."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, bytes, bytes]] = []
        self.errors: list[str] = []

    async def serve(self, client: Client) -> None:
        connection = h11.Connection(h11.SERVER)
        method = target = body = b""
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                self.errors.append(str(error))
                return
            if event is h11.NEED_DATA:
                data = await client.stream.receive_some(65536)
                connection.receive_data(data)
                if not data:
                    return
            elif isinstance(event, h11.Request):
                method, target, body = event.method, event.target, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.requests.append((method, target, body))
                connection.send(h11.Response(status_code=200, headers=[("content-length", "2")]))
                connection.send(h11.Data(data=b"ok"))
                connection.send(h11.EndOfMessage())
                connection.start_next_cycle()
                await client.send(OK)
            else:
                return


def wire(method: bytes, number: int, chunks: list[bytes], chunked: bool) -> bytes:
    head = b"%b /%d HTTP/1.1\r\nHost: pets.production\r\n" % (method, number)
    if chunked:
        body = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks if c) + b"0\r\n\r\n"
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + body
    body = b"".join(chunks)
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


_REQUESTS = st.lists(
    st.tuples(
        st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE"]),
        st.lists(st.binary(max_size=40), max_size=4),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    cut: list[bytes] = []
    while data:
        size = cuts.pop() if cuts else len(data)
        cut.append(data[:size])
        data = data[size:]
    return cut


async def through_the_proxy(sent: list[bytes], answers: int) -> Seen:
    seen = Seen()
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(seen.serve)))
        client = await proxy.client()
        for piece in sent:
            try:
                await client.send(piece)
            except trio.BrokenResourceError:
                break
            await trio.lowlevel.checkpoint()
        for _ in range(answers):
            await client.until(b"\r\n\r\nok")
        await trio.testing.wait_all_tasks_blocked(0.001)
    return seen


@settings(max_examples=60, deadline=None)
@given(_REQUESTS, st.lists(st.integers(1, 60), max_size=60))
def test_requests_arrive_as_they_were_sent(requests: list[tuple[bytes, list[bytes], bool]], cuts: list[int]) -> None:
    """Any framing, any cut, pipelined: the same requests, in order, whole."""
    data = b"".join(wire(method, n, chunks, chunked) for n, (method, chunks, chunked) in enumerate(requests))
    seen = trio.run(through_the_proxy, pieces(data, cuts), len(requests))
    assert seen.errors == []
    assert seen.requests == [(method, b"/%d" % n, b"".join(chunks)) for n, (method, chunks, _) in enumerate(requests)]


_POISON = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"\x00",
        b":",
        b"5",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"GET /smuggled HTTP/1.1\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
        b"Host: other\r\n",
    ]
)


@settings(max_examples=120, deadline=None)
@given(
    _REQUESTS, st.lists(st.tuples(st.integers(0, 400), _POISON), min_size=1, max_size=3), st.lists(st.integers(1, 60))
)
def test_poisoned_streams_never_break_the_upstreams_framing(
    requests: list[tuple[bytes, list[bytes], bool]], poison: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    """Bytes inserted anywhere: what reaches the upstream is still made of whole, well-framed requests."""
    data = b"".join(wire(method, n, chunks, chunked) for n, (method, chunks, chunked) in enumerate(requests))
    for where, bad in poison:
        where = min(where, len(data))
        data = data[:where] + bad + data[where:]
    seen = trio.run(through_the_proxy, pieces(data, cuts), 0)
    assert seen.errors == []
