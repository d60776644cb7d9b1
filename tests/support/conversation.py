"""What conversations with the proxy are made of, byte by byte."""

from __future__ import annotations

from tests.support.playbook import Playbook, Wire

GET = b"GET /a HTTP/1.1\r\nHost: pets.production\r\nX-Request-Id: 7\r\n\r\n"
HEARD = (
    b"GET /a HTTP/1.1\r\nHost: pets.production\r\nX-Request-Id: 7\r\nvia: 1.1 shoal\r\nx-forwarded-for: 127.0.0.1\r\n"
    b"x-forwarded-proto: http\r\n\r\n"
)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
RELAYED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nvia: 1.1 shoal\r\n\r\nok"
LEFT = b'ratelimit-policy: "all";q=1;w=3600\r\nratelimit: "all";r=0;t=3600\r\n'
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n%b\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: pets.production\r\nX-Request-Id: 7\r\nContent-Length: 5\r\n\r\n"
DELIVER = (
    b"GET /a HTTP/1.1\r\nHost: pets.production\r\nX-Request-Id: 7\r\nVia: 1.1 shoal\r\n"
    b"X-Shoal-Caller: shop.production\r\nX-Shoal-Endpoint: pets.production/%b\r\n\r\n"
)


def refusal(status: bytes, policy: bytes, reason: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nserver: shoal\r\nx-shoal-policy: %b\r\nx-shoal-reason: %b..." % (status, policy, reason)


def talk(play: Playbook) -> tuple[Wire, Wire]:
    """One request on its way to `one`."""
    client = play.client()
    assert client >> GET
    up = play.upstream("one")
    assert up << HEARD
    return client, up
