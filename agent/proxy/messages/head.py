# mypyc: compiled
"""Message heads as everything behind the protocols sees them (RFC 9110): fields, what they mean to a proxy, framing.

Whoever reads a protocol makes these, judged: what stands here is passed on without another look.
"""

from __future__ import annotations

from typing import Final, final


@final
class Field:
    """One header line, judged. Shared between messages: never changed."""

    __slots__ = ("code", "name", "value", "wire")

    def __init__(self, name: bytes, value: bytes, wire: bytes, code: int) -> None:
        self.name = name
        """Lower case."""
        self.value = value
        self.wire = wire
        """How it is passed on: one space after the colon, nothing around the value."""
        self.code = code
        """What the proxy must know about it: one of the codes below; 0 for an end-to-end field that is passed on."""


# Codes of fields that mean something to a proxy. Below REBUILT they are passed on as they are; from REBUILT on they
# are passed on in a form of the proxy's own; from HOP_BY_HOP on, never.
TRACESTATE: Final = -4
TRACEPARENT: Final = -3
"""Where a trace is passed on and not continued, plain fields."""
UNDERSCORED: Final = -2
"""A name with an underscore, which many servers take for a hyphen."""
ODD_HOST: Final = -1
"""A Host that is no host name: no request's. To anybody else it is a plain field, as all below 0 are."""
PLAIN: Final = 0
HOST: Final = 1
CONTENT_LENGTH: Final = 2
EXPECT: Final = 3
REQUEST_ID: Final = 4
SHOAL_SHADOW: Final = 5
SHOAL_PRIORITY: Final = 6
SHOAL_REPLAY: Final = 7
"""These three words of the mesh go along the whole chain, and services see them and may pass them on."""
DATE: Final = 8
MAX_FORWARDS: Final = 9
REBUILT: Final = 10
VIA: Final = 11
FORWARDED_FOR: Final = 12
FORWARDED_PROTO: Final = 13
CONTINUED: Final = 14
"""A `traceparent` of which each try is told its own."""
HOP_BY_HOP: Final = 20
TRANSFER_ENCODING: Final = 21
CONNECTION: Final = 22
UPGRADE: Final = 23
PROXY_AUTHORIZATION: Final = 24
SHOAL: Final = 40
"""`x-shoal-*`: the mesh's own words, never passed on as they are. `agent.proxy.messages.words` says who is believed."""
SHOAL_DEADLINE: Final = 41
SHOAL_EXPLAIN: Final = 42
SHOAL_CALLER: Final = 43
SHOAL_ENDPOINT: Final = 44
SHOAL_UNSENT: Final = 45
SHOAL_NO_RETRY: Final = 46
SHOAL_SHED: Final = 47
SHOAL_NO_FAULT: Final = 48
SHOAL_POLICY: Final = 49
SHOAL_REASON: Final = 50
SHOAL_CLIENT: Final = 51
SHOAL_FLAG: Final = 52
SHOAL_DEADLINE_BY: Final = 53


def is_word(code: int) -> bool:
    """Whether a field's code is that of a word of the mesh."""
    return code >= SHOAL or SHOAL_SHADOW <= code <= SHOAL_REPLAY


CODES: Final = {
    b"host": HOST,
    b"content-length": CONTENT_LENGTH,
    b"expect": EXPECT,
    b"date": DATE,
    b"max-forwards": MAX_FORWARDS,
    b"via": VIA,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": FORWARDED_PROTO,
    b"x-request-id": REQUEST_ID,
    b"traceparent": TRACEPARENT,
    b"tracestate": TRACESTATE,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"proxy-authorization": PROXY_AUTHORIZATION,
    b"keep-alive": HOP_BY_HOP,
    b"proxy-connection": HOP_BY_HOP,
    b"proxy-authenticate": HOP_BY_HOP,
    b"te": HOP_BY_HOP,
    b"x-shoal-deadline": SHOAL_DEADLINE,
    b"x-shoal-deadline-by": SHOAL_DEADLINE_BY,
    b"x-shoal-explain": SHOAL_EXPLAIN,
    b"x-shoal-caller": SHOAL_CALLER,
    b"x-shoal-client": SHOAL_CLIENT,
    b"x-shoal-endpoint": SHOAL_ENDPOINT,
    b"x-shoal-unsent": SHOAL_UNSENT,
    b"x-shoal-no-retry": SHOAL_NO_RETRY,
    b"x-shoal-shed": SHOAL_SHED,
    b"x-shoal-no-fault": SHOAL_NO_FAULT,
    b"x-shoal-policy": SHOAL_POLICY,
    b"x-shoal-reason": SHOAL_REASON,
    b"x-shoal-flag": SHOAL_FLAG,
    b"x-shoal-shadow": SHOAL_SHADOW,
    b"x-shoal-priority": SHOAL_PRIORITY,
    b"x-shoal-replay": SHOAL_REPLAY,
}


class BadHead(Exception):
    """A head that is refused. `status` is the answer that it deserves when a client sent it."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


# What becomes of names with an underscore.
ALLOW: Final = 0
DROP: Final = 1
REFUSE: Final = 2
_UNDERSCORES: Final = {"drop": DROP, "refuse": REFUSE}


class HeadRules:
    """What heads may be, as the agent's settings say. One of a worker, which all its connections look at."""

    __slots__ = ("max_bytes", "max_fields", "underscores")

    def __init__(self) -> None:
        self.max_bytes = 60 * 1024
        self.max_fields = 100
        self.underscores = ALLOW
        """Of requests."""

    def configure(self, max_bytes: int, max_fields: int, underscores: str) -> None:
        """As of the next head."""
        self.max_bytes = max_bytes
        self.max_fields = max_fields
        self.underscores = _UNDERSCORES.get(underscores, ALLOW)


# Framing of the body that follows a head.
NO_BODY: Final = 0
LENGTH: Final = 1
CHUNKED: Final = 2
UNTIL_CLOSE: Final = 3


_NOTHING: Final[frozenset[bytes]] = frozenset()
_CONNECTION_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade", b""})


class Head:
    """What heads of requests and of answers have in common. `special` holds the fields with a code, in their order."""

    __slots__ = ("close", "connection", "fields", "framing", "http10", "length", "special", "wires")

    def __init__(self) -> None:
        self.http10 = False
        self.fields: list[Field] = []
        self.special: list[Field] = []
        self.wires: list[bytes] = []
        """The fields that are passed on as they are, in wire form; those that Connection names are still there."""
        self.connection: frozenset[bytes] = _NOTHING
        """What the Connection field names, lower case."""
        self.close = False
        """Nothing else comes on this connection, or is to be sent there."""
        self.framing = NO_BODY
        self.length = 0


@final
class RequestHead(Head):
    """A request head that was accepted."""

    __slots__ = ("absolute", "has_trail", "has_words", "host", "max_forwards", "method", "place", "target", "upgrade")

    def __init__(self) -> None:
        super().__init__()
        self.method: bytes = b""
        self.target: bytes = b""
        """Origin form (`/path?query`), or `*`. In the path's normal form once it is settled (`policies.kinds.path`)."""
        self.place: bytes = b""
        """The path that rules judge; empty where it is that of the target."""
        self.host: bytes = b""
        """As sent: from the target in absolute form, else from the Host field."""
        self.max_forwards = -1
        """Of OPTIONS and TRACE: how many may still hand it on; -1: it does not say."""
        self.absolute = False
        """Whether it was asked for in absolute form: by a client that knows it speaks to a proxy."""
        self.has_trail = False
        """Whether there are Via or X-Forwarded fields, to which the proxy adds its own."""
        self.has_words = False
        """Whether there are words of the mesh, which not everybody may say."""
        self.upgrade: bytes = b""
        """Protocols asked for with Upgrade; empty when none, or when the request could not be tunnelled."""

    def special_value(self, code: int) -> bytes | None:
        """The value of the first field with a code."""
        for field in self.special:
            if field.code == code:
                return field.value
        return None


@final
class ResponseHead(Head):
    """A response head that was accepted."""

    __slots__ = ("dated", "status", "status_line")

    def __init__(self) -> None:
        super().__init__()
        self.status = 0
        self.dated = False
        """Whether it says when it was made."""
        self.status_line: bytes = b""
        """Rewritten to HTTP/1.1, with its CRLF."""


def connected() -> ResponseHead:
    """The answer to CONNECT once the other side is there."""
    head = ResponseHead()
    head.status = 200
    head.status_line = b"HTTP/1.1 200 Connection established\r\n"
    return head


def forwarded_fields(response: ResponseHead) -> list[bytes]:
    """The wire form of every end-to-end field: hop-by-hop ones, those that Connection names, and the mesh's own are
    left out (RFC 9110 section 7.6.1). Framing fields stay out of Connection's reach.
    """
    connection = response.connection
    if connection and connection - _CONNECTION_OPTIONS:
        return [f.wire for f in response.fields if f.code < HOP_BY_HOP and (f.code > 0 or f.name not in connection)]
    return response.wires
