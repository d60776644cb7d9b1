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
from typing import Final

from agent.proxy.messages.head import (
    CHUNKED,
    CODES,
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    FORWARDED_PROTO,
    HOP_BY_HOP,
    HOST,
    LENGTH,
    NO_BODY,
    PLAIN,
    REBUILT,
    REQUEST_ID,
    SHOAL,
    TRANSFER_ENCODING,
    UNTIL_CLOSE,
    UPGRADE,
    VIA,
    BadHead,
    Field,
    Head,
    RequestHead,
    ResponseHead,
    is_word,
)

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
    code = CODES.get(lower, PLAIN)
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


def _read_fields(head: Head, data: bytes, lines: list[bytes], rebuilt: int) -> None:
    """The lines behind the first, and what they say of the body's framing and of the connection; fields whose code is
    `rebuilt` or more are not passed on as they are."""
    if len(data) > MAX_HEAD_BYTES:
        raise BadHead(f"a head of more than {MAX_HEAD_BYTES} bytes", 431)
    if len(lines) > MAX_FIELDS + 1:
        raise BadHead(f"more than {MAX_FIELDS} header fields", 431)
    lengths = 0
    chunked = False
    fields = head.fields
    special = head.special
    wires = head.wires
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
            if code == CONTENT_LENGTH:
                lengths += 1
                head.length = _length(field.value)
            elif code >= HOP_BY_HOP:
                if code == TRANSFER_ENCODING:
                    if chunked:
                        raise BadHead("two Transfer-Encoding fields")
                    chunked = _chunked(field.value)
                elif code == CONNECTION:
                    head.connection |= _tokens(field.value)
                continue
            elif code >= rebuilt:
                continue
        wires.append(field.wire)
    if lengths:
        if lengths > 1:
            raise BadHead("two Content-Length fields")
        if chunked:
            raise BadHead("both Content-Length and Transfer-Encoding")
        head.framing = LENGTH
    elif chunked:
        if head.http10:
            raise BadHead("Transfer-Encoding in HTTP/1.0")
        head.framing = CHUNKED
    if head.connection:
        if b"close" in head.connection:
            head.close = True
        elif head.http10 and b"keep-alive" in head.connection:
            head.close = False


def check_incomplete(data: bytes | bytearray, begins: int = 0, judged: int = 0) -> None:
    """Judges a head whose end has not come yet, and of which nothing is wrong up to `judged`. It is what stands in
    `data` from `begins` on. Raises BadHead for what no further byte can mend."""
    if len(data) - begins > MAX_HEAD_BYTES:
        raise BadHead(f"a head of more than {MAX_HEAD_BYTES} bytes", 431)
    if _BARE_LF.search(data, judged):
        raise BadHead("a line that ends with LF alone; lines end with CR LF")
    if data.find(b"\0", judged) >= 0:
        raise BadHead("a NUL byte in the head")


def parse_request(head: bytes) -> RequestHead:
    """A whole request head, without the empty line at its end. Raises BadHead.

    >>> parse_request(b"GET /x HTTP/1.1\\r\\nHost: pets.production").target
    b'/x'
    """
    lines = head.split(b"\r\n")
    line = _REQUEST_LINE.match(lines[0])
    if line is None:
        raise _why_no_request_line(lines[0])
    request = RequestHead()
    request.method, target, minor = line.groups()
    if minor == b"0":
        request.http10 = request.close = True
    _read_fields(request, head, lines, REBUILT)
    _judge_request(request)
    if target[:1] == b"/" and b"#" not in target and request.host:
        request.target = target
    else:
        _judge_target(request, target)
    return request


def _why_no_request_line(line: bytes) -> BadHead:
    if _ANY_VERSION.match(line):
        return BadHead("HTTP/1.1 and HTTP/1.0 are spoken here", 505)
    return BadHead("a request line that is not 'METHOD target HTTP/1.1'")


def _judge_request(request: RequestHead) -> None:
    hosts = 0
    upgrade = b""
    for field in request.special:
        code = field.code
        if code == HOST:
            hosts += 1
            request.host = field.value
        elif code <= REQUEST_ID:
            if code == EXPECT and field.value.lower() != b"100-continue":
                raise BadHead("an Expect that is not 100-continue", 417)
        elif VIA <= code <= FORWARDED_PROTO:
            request.has_trail = True
        elif code == UPGRADE:
            upgrade = field.value
        elif is_word(code):
            request.has_words = True
    if hosts > 1:
        raise BadHead("two Host fields")
    if hosts and not _HOST.match(request.host):
        raise BadHead("a Host that is no host name with an optional port")
    if upgrade and b"upgrade" in request.connection and not request.http10:
        tunnels = request.framing == NO_BODY or (request.framing == LENGTH and request.length == 0)
        # h2c would hand the rest of the connection to a protocol that nobody here has judged.
        if tunnels and b"h2c" not in upgrade.lower():
            request.upgrade = upgrade


def _judge_target(request: RequestHead, target: bytes) -> None:
    """Any but the usual `/path` of a request with a Host."""
    if target[:1] == b"/":
        if b"#" in target:
            raise BadHead("a fragment in the request target")
        raise BadHead("no Host field" if not request.http10 else "no Host field: a request needs one to be routed")
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
    lines = head.split(b"\r\n")
    response = ResponseHead()
    known = _status_lines.get(lines[0])
    if known is None:
        known = _parse_status_line(lines[0])
    response.status, response.status_line, response.http10 = known
    status = response.status
    if response.http10:
        response.close = True
    _read_fields(response, head, lines, HOP_BY_HOP)
    if request_method == b"HEAD" or status < 200 or status == 204 or status == 304:
        response.framing = NO_BODY
    elif response.framing == NO_BODY:
        response.framing = UNTIL_CLOSE
        response.close = True
    return response
