# mypyc: interpreted, because it reads documents, and no request waits for that
"""Every policy kind there is, and what stands under its name in etcd: a document, or why there is none.

A value in etcd is JSON or YAML. Whatever its bytes are, `parse` returns; it never raises and never half believes.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from policies.kind import Kind, Side
from policies.language.document import Document, Invalid, convert, meant
from policies.language.names import parse_pattern
from policies.language.plain import Flaw, kind_of, load, read_at
from policies.language.work import check_work

# In the order of the phases in which requests meet them; a kind is a line here, and a folder of its name in kinds/.
KINDS: Final = (
    Kind("isolation", "for whom a service is there at all", Side.BOTH, fails_closed=True, every_level=True),
    Kind("export", "who of other meshes may call a service", Side.BOTH, fails_closed=True, every_level=True),
    Kind("tls", "whether hops between hosts are TLS", Side.CALLEE, fails_closed=True, every_level=True),
    Kind("egress", "which hosts outside the mesh a service may call", Side.LEAVING, fails_closed=True),
    Kind("path", "which spellings of a path are one place, and which are refused", Side.CALLER),
    Kind("authn", "who people are, by their tokens", Side.CALLEE, fails_closed=True, every_level=True),
    Kind("authz", "who may do what", Side.CALLEE, fails_closed=True, every_level=True),
    Kind("audit", "which requests are recorded", Side.CALLEE, fails_closed=True, every_level=True),
    Kind("ratelimit", "how many requests may pass, for an agent or for all together", Side.CALLER, fails_closed=True),
    Kind("fault", "delays, aborts and slow answers on purpose, for testing", Side.CALLER),
    Kind("route", "where requests go: rules, splits, canaries, blue-green, rewrites", Side.CALLER),
    Kind("import", "which service of another mesh has a name here, and where its gateways are", Side.CALLER),
    Kind("timeout", "how long connecting, a try, a request and silence may take", Side.CALLER),
    Kind("breaker", "when nothing is sent to a struggling service, and what callers get instead", Side.CALLER),
    Kind("outlier", "which bad instances are passed over for a while", Side.CALLER),
    Kind("shed", "what is let in when there is too much, and where the rest goes", Side.CALLEE),
    Kind("balance", "which instance takes a request", Side.CALLER),
    Kind("retry", "which failures are tried again, within a budget", Side.CALLER),
    Kind("shadow", "which requests are copied elsewhere, and whether the answers differ", Side.CALLER),
    Kind("trace", "which requests leave spans, and what is in them", Side.BOTH),
    Kind("health", "how instances are checked by the agent beside them", Side.ASIDE),
    Kind("rego", "modules that authz documents name", Side.ASIDE),
    Kind("webhook", "who is told of what happens, and how", Side.ASIDE),
)
BY_NAME: Final = {kind.name: kind for kind in KINDS}

_SAID_PATH: Final = 300
_SAID_REASON: Final = 1000


def parse(kind: str, key: str, text: bytes) -> Document | Invalid:
    """The document in a value that stands under `policies/<kind>/<key>`; `key` is a canonical pattern."""
    known = BY_NAME.get(kind)
    if known is None:
        reason = f"no policy kind {kind[:60]!r}{meant(kind, BY_NAME)}; there are: {', '.join(BY_NAME)}"
        return Invalid(kind, key, "$", reason)
    try:
        raw = load(text)
        if not isinstance(raw, dict):
            raise Flaw("$", f"a document is an object with fields, not {kind_of(raw)}")
        document = convert(raw, known.document)
        _agree(document, kind, key)
        if key and not document.service:
            document = msgspec.structs.replace(document, service=key)  # a check has to know whose document it is
        check_work(document)
        document.check()
    except Flaw as fault:
        return Invalid(kind, key, _sayable(fault.path, _SAID_PATH), _sayable(fault.reason, _SAID_REASON))
    return document


def schema(kind: str) -> dict[str, Any]:
    """JSON Schema of a kind, as plain JSON. Raises KeyError."""
    found = msgspec.json.schema(BY_NAME[kind].document)
    plain = msgspec.json.decode(msgspec.json.encode(found))  # defaults are tuples and structs until then
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **plain}


def _agree(document: Document, kind: str, key: str) -> None:
    if document.kind not in ("", kind):
        raise Flaw("$.kind", f"{document.kind!r}, but the key says {kind!r}; leave it out or make them agree")
    if document.service and key:
        service = read_at("$.service", parse_pattern, document.service)
        if service != key:
            raise Flaw("$.service", f"{service!r}, but the key says {key!r}; leave it out or make them agree")


def _sayable(text: str, length: int) -> str:
    """Fit for a log line, a terminal and a record: one line, no control characters, not endless."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: length + 1])
    return shown if len(shown) <= length else shown[: length - 1] + "…"
