# mypyc: compiled
"""HTTP/1.1 message heads: bytes in, a judged head out (RFC 9112). No socket, no clock, no state between heads.

Laws
- What is ambiguous is refused; nothing is repaired. Two parsers that disagree about where a request ends are a
  security hole, so there is exactly one reading of everything accepted here, and it is re-serialised from that
  reading: the next hop never sees a byte that was not judged.
- Every line stands on its own: whether it is accepted depends on its bytes alone. That is why a line that was judged
  once may be remembered. Clients repeat most of their header lines, so the common head costs one dictionary look-up
  a line.
- Whose fault a broken head is, is told by the caller (400 downstream, 502 upstream), not here.
"""

from __future__ import annotations

import re
from typing import Final, final

MAX_HEAD_BYTES: Final = 60 * 1024
MAX_FIELDS: Final = 100

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([01])\Z")
_ANY_VERSION = re.compile(rb"(?:" + _TOKEN + rb") [\x21-\x7e]+ HTTP/\d(?:\.\d)?\Z")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t \x21-\x7e\x80-\xff]*)?\Z")
_FIELD_NAME = re.compile(_TOKEN + rb"\Z")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_DIGITS = re.compile(rb"[0-9]{1,18}\Z")
_HOST = re.compile(rb"(?:[A-Za-z0-9](?:[A-Za-z0-9._\-]*[A-Za-z0-9_.])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?\Z")
_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?#]*)(.*)\Z", re.DOTALL)
_FIELD_VALUE_BYTES = bytes(b for b in range(256) if b >= 0x20 and b != 0x7F) + b"\t"


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
PLAIN: Final = 0
HOST: Final = 1
CONTENT_LENGTH: Final = 2
EXPECT: Final = 3
REQUEST_ID: Final = 4
SHOAL_SHADOW: Final = 5
SHOAL_PRIORITY: Final = 6
SHOAL_REPLAY: Final = 7
"""These three words of the mesh go along the whole chain, and services see them and may pass them on."""
REBUILT: Final = 10
VIA: Final = 11
FORWARDED_FOR: Final = 12
FORWARDED_PROTO: Final = 13
HOP_BY_HOP: Final = 20
TRANSFER_ENCODING: Final = 21
CONNECTION: Final = 22
UPGRADE: Final = 23
PROXY_AUTHORIZATION: Final = 24
SHOAL: Final = 40
"""`x-shoal-*`: the mesh's own words, never passed on as they are. `agent.proxy.http1.words` says who is believed."""
SHOAL_DEADLINE: Final = 41
SHOAL_EXPLAIN: Final = 42
SHOAL_CALLER: Final = 43
SHOAL_ENDPOINT: Final = 44
SHOAL_UNSENT: Final = 45
SHOAL_NO_RETRY: Final = 46
SHOAL_SHED: Final = 47
SHOAL_NO_FAULT: Final = 48


def is_word(code: int) -> bool:
    """Whether a field's code is that of a word of the mesh."""
    return code >= SHOAL or SHOAL_SHADOW <= code <= SHOAL_REPLAY


_CODES: Final = {
    b"host": HOST,
    b"content-length": CONTENT_LENGTH,
    b"expect": EXPECT,
    b"via": VIA,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": FORWARDED_PROTO,
    b"x-request-id": REQUEST_ID,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"proxy-authorization": PROXY_AUTHORIZATION,
    b"keep-alive": HOP_BY_HOP,
    b"proxy-connection": HOP_BY_HOP,
    b"proxy-authenticate": HOP_BY_HOP,
    b"te": HOP_BY_HOP,
    b"x-shoal-deadline": SHOAL_DEADLINE,
    b"x-shoal-explain": SHOAL_EXPLAIN,
    b"x-shoal-caller": SHOAL_CALLER,
    b"x-shoal-endpoint": SHOAL_ENDPOINT,
    b"x-shoal-unsent": SHOAL_UNSENT,
    b"x-shoal-no-retry": SHOAL_NO_RETRY,
    b"x-shoal-shed": SHOAL_SHED,
    b"x-shoal-no-fault": SHOAL_NO_FAULT,
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


# Framing of the body that follows a head.
NO_BODY: Final = 0
LENGTH: Final = 1
CHUNKED: Final = 2
UNTIL_CLOSE: Final = 3


_NOTHING: Final[frozenset[bytes]] = frozenset()


@final
class RequestHead:
    """A request head that was accepted. `special` holds the fields with a code, in the order they came."""

    __slots__ = (
        "close",
        "connection",
        "fields",
        "framing",
        "has_trail",
        "has_words",
        "host",
        "http10",
        "length",
        "method",
        "special",
        "target",
        "upgrade",
        "wires",
    )

    def __init__(self) -> None:
        self.method: bytes = b""
        self.target: bytes = b""
        """Origin form (`/path?query`), or `*`."""
        self.host: bytes = b""
        """As sent: from the target in absolute form, else from the Host field."""
        self.http10 = False
        self.has_trail = False
        """Whether there are Via or X-Forwarded fields, to which the proxy adds its own."""
        self.has_words = False
        """Whether there are words of the mesh, which not everybody may say."""
        self.fields: list[Field] = []
        self.special: list[Field] = []
        self.wires: list[bytes] = []
        """The fields that are passed on as they are, in wire form; those that Connection names are still there."""
        self.connection: frozenset[bytes] = _NOTHING
        """What the Connection field names, lower case."""
        self.close = False
        """The client wants no further request on this connection."""
        self.framing = NO_BODY
        self.length = 0
        self.upgrade: bytes = b""
        """Protocols asked for with Upgrade; empty when none, or when the request could not be tunnelled."""

    def special_value(self, code: int) -> bytes | None:
        """The value of the first field with a code."""
        for field in self.special:
            if field.code == code:
                return field.value
        return None


@final
class ResponseHead:
    """A response head that was accepted."""

    __slots__ = (
        "close",
        "connection",
        "fields",
        "framing",
        "http10",
        "length",
        "special",
        "status",
        "status_line",
        "wires",
    )

    def __init__(self) -> None:
        self.status = 0
        self.status_line: bytes = b""
        """Rewritten to HTTP/1.1, with its CRLF."""
        self.http10 = False
        self.fields: list[Field] = []
        self.special: list[Field] = []
        self.wires: list[bytes] = []
        """The end-to-end fields in wire form; those that Connection names are still there."""
        self.connection: frozenset[bytes] = _NOTHING
        self.close = False
        self.framing = NO_BODY
        self.length = 0


_remembered: dict[bytes, Field] = {}
_REMEMBER_LINES: Final = 8192
_REMEMBER_BYTES: Final = 256
_REMEMBER_STATUS_LINES: Final = 256


def parse_field(line: bytes) -> Field:
    """One header line, without its CRLF. Raises BadHead."""
    name, colon, value = line.partition(b":")
    if not colon or not _FIELD_NAME.match(name):
        raise BadHead(_why_no_field(line, name, colon))
    value = value.strip(b" \t")
    if value.translate(None, _FIELD_VALUE_BYTES):
        raise BadHead(f"a control character in the value of {name[:80].decode()}")
    lower = name.lower()
    code = _CODES.get(lower, PLAIN)
    if code == PLAIN and lower.startswith(b"x-shoal-"):
        code = SHOAL
    field = Field(lower, value, b"%b: %b\r\n" % (name, value), code)
    if len(line) <= _REMEMBER_BYTES:
        if len(_remembered) >= _REMEMBER_LINES:
            _remembered.clear()
        _remembered[line] = field
    return field


def _why_no_field(line: bytes, name: bytes, colon: bytes) -> str:
    if line[:1] in (b" ", b"\t"):
        return "a header line that begins with white space (obsolete line folding)"
    if not colon:
        return "a header line without a colon"
    if not name:
        return "a header line without a name"
    if name[-1:] in (b" ", b"\t"):
        return "white space before the colon of a header"
    return "a header name with a character that is not allowed in one"


def _split(head: bytes) -> list[bytes]:
    if len(head) > MAX_HEAD_BYTES:
        raise BadHead(f"a head of more than {MAX_HEAD_BYTES} bytes", 431)
    lines = head.split(b"\r\n")
    if len(lines) > MAX_FIELDS + 1:
        raise BadHead(f"more than {MAX_FIELDS} header fields", 431)
    return lines


def check_incomplete(data: bytes) -> None:
    """Judges a head whose end has not come yet. Raises BadHead for what no further byte can mend."""
    if len(data) > MAX_HEAD_BYTES:
        raise BadHead(f"a head of more than {MAX_HEAD_BYTES} bytes", 431)
    if _BARE_LF.search(data):
        raise BadHead("a line that ends with LF alone; lines end with CR LF")
    if b"\0" in data:
        raise BadHead("a NUL byte in the head")


def parse_request(head: bytes) -> RequestHead:
    """A whole request head, without the empty line at its end. Raises BadHead.

    >>> parse_request(b"GET /x HTTP/1.1\\r\\nHost: pets.production").target
    b'/x'
    """
    lines = _split(head)
    line = _REQUEST_LINE.match(lines[0])
    if line is None:
        raise _why_no_request_line(lines[0])
    request = RequestHead()
    request.method, target, minor = line.groups()
    if minor == b"0":
        request.http10 = request.close = True
    fields = request.fields
    special = request.special
    wires = request.wires
    remembered = _remembered
    for index in range(1, len(lines)):
        text = lines[index]
        field = remembered.get(text)
        if field is None:
            field = parse_field(text)
        fields.append(field)
        code = field.code
        if code:
            special.append(field)
            if code >= REBUILT:
                continue
        wires.append(field.wire)
    _judge_request(request)
    _judge_target(request, target)
    return request


def _why_no_request_line(line: bytes) -> BadHead:
    if _ANY_VERSION.match(line):
        return BadHead("HTTP/1.1 and HTTP/1.0 are spoken here", 505)
    return BadHead("a request line that is not 'METHOD target HTTP/1.1'")


def _judge_request(request: RequestHead) -> None:
    hosts = lengths = 0
    chunked = False
    upgrade = b""
    for field in request.special:
        code = field.code
        if code == HOST:
            hosts += 1
            request.host = field.value
        elif code == CONTENT_LENGTH:
            lengths += 1
            request.length = _length(field.value)
            request.framing = LENGTH
        elif code == TRANSFER_ENCODING:
            if chunked:
                raise BadHead("two Transfer-Encoding fields")
            chunked = _chunked(field.value)
        elif code == CONNECTION:
            request.connection |= _tokens(field.value)
        elif code == UPGRADE:
            upgrade = field.value
        elif VIA <= code <= FORWARDED_PROTO:
            request.has_trail = True
        elif is_word(code):
            request.has_words = True
        elif code == EXPECT and field.value.lower() != b"100-continue":
            raise BadHead("an Expect that is not 100-continue", 417)
    if hosts > 1:
        raise BadHead("two Host fields")
    if hosts and not _HOST.match(request.host):
        raise BadHead("a Host that is no host name with an optional port")
    if lengths > 1:
        raise BadHead("two Content-Length fields")
    if chunked:
        if lengths:
            raise BadHead("both Content-Length and Transfer-Encoding")
        if request.http10:
            raise BadHead("Transfer-Encoding in HTTP/1.0")
        request.framing = CHUNKED
    if request.connection:
        _judge_connection(request, upgrade)


def _judge_connection(request: RequestHead, upgrade: bytes) -> None:
    options = request.connection
    if b"close" in options:
        request.close = True
    elif request.http10 and b"keep-alive" in options:
        request.close = False
    tunnels = request.framing == NO_BODY or (request.framing == LENGTH and request.length == 0)
    # h2c would hand the rest of the connection to a protocol that nobody here has judged.
    if upgrade and b"upgrade" in options and tunnels and not request.http10 and b"h2c" not in upgrade.lower():
        request.upgrade = upgrade


def _judge_target(request: RequestHead, target: bytes) -> None:
    if target[:1] == b"/":
        if b"#" in target:
            raise BadHead("a fragment in the request target")
        request.target = target
        if not request.host:
            raise BadHead("no Host field" if not request.http10 else "no Host field: a request needs one to be routed")
        return
    if request.method == b"CONNECT":
        raise BadHead("CONNECT: this proxy speaks HTTP to services of the mesh and opens no tunnels", 405)
    if target == b"*" and request.method == b"OPTIONS" and request.host:
        request.target = target
        return
    absolute = _ABSOLUTE.match(target)
    if absolute is None or b"#" in target:
        raise BadHead("a request target that is neither /path nor http://service/path")
    scheme, authority, rest = absolute.groups()
    if scheme.lower() != b"http":
        raise BadHead("only http:// targets are proxied here; https is the mesh's own business")
    if not _HOST.match(authority):
        raise BadHead("an authority that is no host name with an optional port")
    if not request.http10 and not request.host:
        raise BadHead("no Host field")
    request.host = authority
    fields = [field for field in request.fields if field.code != HOST]
    request.fields = [Field(b"host", authority, b"host: %b\r\n" % authority, HOST), *fields]
    request.wires = [field.wire for field in request.fields if field.code < REBUILT]
    request.target = rest if rest[:1] == b"/" else b"/" + rest


def _length(value: bytes) -> int:
    if not _DIGITS.match(value):
        raise BadHead("a Content-Length that is no number of bytes")
    return int(value)


def _chunked(value: bytes) -> bool:
    if value.lower() != b"chunked":
        raise BadHead("a Transfer-Encoding other than chunked", 501)
    return True


def _tokens(value: bytes) -> frozenset[bytes]:
    return frozenset(token.strip(b" \t").lower() for token in value.split(b","))


_status_lines: dict[bytes, tuple[int, bytes, bool]] = {}


def _parse_status_line(line: bytes) -> tuple[int, bytes, bool]:
    """Status, the line as it is passed on, and whether it is HTTP/1.0's."""
    found = _STATUS_LINE.match(line)
    if found is None:
        raise BadHead("a status line that is not 'HTTP/1.1 status reason'")
    known = int(found[2]), b"HTTP/1.1%b\r\n" % line[8:], found[1] == b"0"
    if len(line) <= _REMEMBER_BYTES and len(_status_lines) < _REMEMBER_STATUS_LINES:
        _status_lines[line] = known
    return known


def parse_response(head: bytes, request_method: bytes) -> ResponseHead:
    """A whole response head, judged as strictly as a request. Raises BadHead."""
    lines = _split(head)
    response = ResponseHead()
    known = _status_lines.get(lines[0])
    if known is None:
        known = _parse_status_line(lines[0])
    response.status, response.status_line, response.http10 = known
    status = response.status
    if response.http10:
        response.close = True
    fields = response.fields
    special = response.special
    wires = response.wires
    remembered = _remembered
    for index in range(1, len(lines)):
        text = lines[index]
        field = remembered.get(text)
        if field is None:
            field = parse_field(text)
        fields.append(field)
        code = field.code
        if code:
            special.append(field)
            if code >= HOP_BY_HOP:
                continue
        wires.append(field.wire)
    _judge_response(response, request_method == b"HEAD" or status < 200 or status == 204 or status == 304)
    return response


def _judge_response(response: ResponseHead, bodiless: bool) -> None:
    lengths = 0
    chunked = False
    for field in response.special:
        code = field.code
        if code == CONTENT_LENGTH:
            lengths += 1
            response.length = _length(field.value)
        elif code == TRANSFER_ENCODING:
            if chunked:
                raise BadHead("two Transfer-Encoding fields")
            chunked = _chunked(field.value)
        elif code == CONNECTION:
            response.connection |= _tokens(field.value)
    if lengths > 1:
        raise BadHead("two Content-Length fields")
    if chunked and (lengths or response.http10):
        raise BadHead("Transfer-Encoding together with Content-Length or HTTP/1.0")
    if b"close" in response.connection:
        response.close = True
    elif response.http10 and b"keep-alive" in response.connection:
        response.close = False
    if bodiless:
        response.framing = NO_BODY
    elif chunked:
        response.framing = CHUNKED
    elif lengths:
        response.framing = LENGTH
    else:
        response.framing = UNTIL_CLOSE
        response.close = True


def forwarded_fields(response: ResponseHead) -> list[bytes]:
    """The wire form of every end-to-end field: hop-by-hop ones, those that Connection names, and the mesh's own are
    left out (RFC 9110 section 7.6.1). Framing fields stay out of Connection's reach.
    """
    connection = response.connection
    if connection and connection - _CONNECTION_OPTIONS:
        return [f.wire for f in response.fields if f.code < HOP_BY_HOP and (f.code or f.name not in connection)]
    return response.wires


_CONNECTION_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade", b""})
