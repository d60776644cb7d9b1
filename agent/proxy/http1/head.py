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
    DATE,
    EXPECT,
    FORWARDED_PROTO,
    HOP_BY_HOP,
    HOST,
    LENGTH,
    MAX_FORWARDS,
    NO_BODY,
    ODD_HOST,
    PLAIN,
    REBUILT,
    REFUSE,
    REQUEST_ID,
    SHOAL,
    TRANSFER_ENCODING,
    UNDERSCORED,
    UNTIL_CLOSE,
    UPGRADE,
    VIA,
    BadHead,
    Field,
    Head,
    HeadRules,
    RequestHead,
    ResponseHead,
    is_word,
)

RULES: Final = HeadRules()
"""The defaults."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([01])\Z")
_ANY_VERSION = re.compile(rb"(?:" + _TOKEN + rb") [\x21-\x7e]+ HTTP/\d(?:\.\d)?\Z")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t \x21-\x7e\x80-\xff]*)?\Z")
_FIELD_NAME = re.compile(_TOKEN + rb"\Z")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_DIGITS = re.compile(rb"[0-9]{1,18}\Z")
_HOST = re.compile(rb"(?:[A-Za-z0-9](?:[A-Za-z0-9._\-]*[A-Za-z0-9_.])?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?\Z")
_MAX_FORWARDS = re.compile(rb"[0-9]{1,9}\Z")
_AUTHORITY_WITH_PORT = re.compile(rb".+:[0-9]+\Z")
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
    elif code == PLAIN and lower.find(b"_") >= 0:
        code = _underscored(lower)
    elif code == HOST and not is_host(value):
        code = ODD_HOST
    field = Field(lower, value, b"%b: %b\r\n" % (name, value), code)
    if len(line) <= _REMEMBER_BYTES:
        if len(_remembered) >= _REMEMBER_LINES:
            _remembered.clear()
        _remembered[line] = field
    return field


def _underscored(lower: bytes) -> int:
    """Many servers tell an underscore from a hyphen no more (CGI, WSGI): what a hyphen would give a meaning to a proxy
    is not passed on, whatever the settings say, or it could say what nobody is believed."""
    hyphened = lower.replace(b"_", b"-")
    code = CODES.get(hyphened, PLAIN)
    if code >= SHOAL or is_word(code) or hyphened.startswith(b"x-shoal-"):
        return SHOAL
    return HOP_BY_HOP if code >= REBUILT or code in (HOST, CONTENT_LENGTH) else UNDERSCORED


def is_host(value: bytes) -> bool:
    """Whether it is a host name or an address, with an optional port that there can be."""
    found = _HOST.match(value)
    if found is None or value.find(b"..") >= 0:
        return False
    return found[1] is None or 0 < int(found[1]) <= 65535


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


def _read_fields(head: Head, data: bytes, lines: list[bytes], rebuilt: int, rules: HeadRules) -> None:
    """The lines behind the first, and what they say of the body's framing and of the connection; fields whose code is
    `rebuilt` or more are not passed on as they are."""
    if len(data) > rules.max_bytes:
        raise BadHead(f"a head of more than {rules.max_bytes} bytes", 431)
    if len(lines) > rules.max_fields + 1:
        raise BadHead(f"more than {rules.max_fields} header fields", 431)
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


def check_incomplete(data: bytes | bytearray, rules: HeadRules = RULES, begins: int = 0, judged: int = 0) -> None:
    """Judges a head whose end has not come yet, and of which nothing is wrong up to `judged`. It is what stands in
    `data` from `begins` on. Raises BadHead for what no further byte can mend."""
    if len(data) - begins > rules.max_bytes:
        raise BadHead(f"a head of more than {rules.max_bytes} bytes", 431)
    if _BARE_LF.search(data, judged):
        raise BadHead("a line that ends with LF alone; lines end with CR LF")
    if data.find(b"\0", judged) >= 0:
        raise BadHead("a NUL byte in the head")


def parse_request(head: bytes, rules: HeadRules = RULES) -> RequestHead:
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
    _read_fields(request, head, lines, REBUILT, rules)
    _judge_request(request, rules)
    if target[:1] == b"/" and target.find(b"#") < 0 and request.host and request.method != b"CONNECT":
        request.target = target
    else:
        _judge_target(request, target)
    return request


def _why_no_request_line(line: bytes) -> BadHead:
    if _ANY_VERSION.match(line):
        return BadHead("HTTP/1.1 and HTTP/1.0 are spoken here", 505)
    return BadHead("a request line that is not 'METHOD target HTTP/1.1'")


def _judge_request(request: RequestHead, rules: HeadRules) -> None:
    hosts = 0
    underscored = False
    upgrade = b""
    for field in request.special:
        code = field.code
        if code == HOST:
            hosts += 1
            request.host = field.value
        elif code <= REQUEST_ID:
            if code == EXPECT and field.value.lower() != b"100-continue":
                raise BadHead("an Expect that is not 100-continue", 417)
            if code == ODD_HOST:
                raise BadHead("a Host that is no host name with an optional port")
            if code == UNDERSCORED:
                underscored = True
        elif VIA <= code <= FORWARDED_PROTO:
            request.has_trail = True
        elif code == UPGRADE:
            upgrade = field.value
        elif code == MAX_FORWARDS:
            _read_max_forwards(request, field.value)
        elif is_word(code):
            request.has_words = True
    if underscored and rules.underscores:
        _judge_underscores(request, rules)
    if hosts > 1:
        raise BadHead("two Host fields")
    if upgrade and b"upgrade" in request.connection and not request.http10:
        tunnels = request.framing == NO_BODY or (request.framing == LENGTH and request.length == 0)
        # h2c would hand the rest of the connection to a protocol that nobody here has judged.
        if tunnels and b"h2c" not in upgrade.lower():
            request.upgrade = upgrade


def _judge_underscores(request: RequestHead, rules: HeadRules) -> None:
    if rules.underscores == REFUSE:
        name = next(field.name for field in request.special if field.code == UNDERSCORED)
        raise BadHead(f"an underscore in the header name {name[:80].decode()}, which this agent's settings refuse")
    request.fields = [field for field in request.fields if field.code != UNDERSCORED]
    request.special = [field for field in request.special if field.code != UNDERSCORED]
    request.wires = [field.wire for field in request.fields if field.code < REBUILT]


def _read_max_forwards(request: RequestHead, value: bytes) -> None:
    """It means something for two methods; for others, and where it is no number, it is a field like any other."""
    if request.method in (b"OPTIONS", b"TRACE") and _MAX_FORWARDS.match(value):
        request.max_forwards = int(value)


def _judge_target(request: RequestHead, target: bytes) -> None:
    """Any but the usual `/path` of a request with a Host."""
    if request.method == b"CONNECT":
        _judge_tunnel(request, target)
        return
    if target[:1] == b"/":
        if b"#" in target:
            raise BadHead("a fragment in the request target")
        raise BadHead("no Host field" if not request.http10 else "no Host field: a request needs one to be routed")
    if target == b"*" and request.method == b"OPTIONS" and request.host:
        request.target = target
        return
    absolute = _ABSOLUTE.match(target)
    if absolute is None or b"#" in target:
        raise BadHead("a request target that is neither /path nor http://service/path")
    scheme, authority, rest = absolute.groups()
    if scheme.lower() != b"http":
        raise BadHead("only http:// targets are proxied here; https is the mesh's own business")
    if not is_host(authority):
        raise BadHead("an authority that is no host name with an optional port")
    if not request.http10 and not request.host:
        raise BadHead("no Host field")
    request.host = authority
    request.absolute = True
    request.fields = [Field(b"host", authority, b"host: %b\r\n" % authority, HOST), *_but_host(request)]
    request.wires = [field.wire for field in request.fields if field.code < REBUILT]
    if not rest and request.method == b"OPTIONS":
        request.target = b"*"  # of the server, and not of one of its paths: RFC 9112 section 3.2.4
    else:
        request.target = rest if rest[:1] == b"/" else b"/" + rest


def _judge_tunnel(request: RequestHead, target: bytes) -> None:
    """CONNECT host:port (RFC 9110 section 9.3.6)."""
    if not is_host(target) or not _AUTHORITY_WITH_PORT.match(target):
        raise BadHead("CONNECT wants a host and a port: CONNECT api.example.com:443")
    if request.framing != NO_BODY:
        raise BadHead("a CONNECT with a body")
    request.host = request.target = target
    request.fields = [Field(b"host", target, b"host: %b\r\n" % target, HOST), *_but_host(request)]
    request.absolute = True


def _but_host(request: RequestHead) -> list[Field]:
    return [field for field in request.fields if field.code != HOST]


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


def _drop_length(response: ResponseHead) -> None:
    """These have no body, and no length of one (RFC 9110 section 8.6). Who says that there are bytes may send some."""
    if response.length:
        response.close = True
    response.fields = [field for field in response.fields if field.code != CONTENT_LENGTH]
    response.wires = [field.wire for field in response.fields if field.code < HOP_BY_HOP]


def parse_response(head: bytes, request_method: bytes, rules: HeadRules = RULES) -> ResponseHead:
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
    _read_fields(response, head, lines, HOP_BY_HOP, rules)
    for field in response.special:
        if field.code == DATE:
            response.dated = True
    if response.framing == LENGTH and (status < 200 or status == 204):
        _drop_length(response)
    if request_method == b"HEAD" or status < 200 or status == 204 or status == 304:
        response.framing = NO_BODY
    elif response.framing == NO_BODY:
        response.framing = UNTIL_CLOSE
        response.close = True
    return response
