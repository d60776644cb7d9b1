"""Every policy kind there is, and what stands under its name in etcd: a document, or why there is none.

A value in etcd is JSON or YAML. Whatever its bytes are, `parse` returns; it never raises and never half believes.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from policies.kinds.balance.document import Balance
from policies.kinds.breaker.document import Breaker
from policies.kinds.fault.document import FaultPolicy
from policies.kinds.health.document import HealthPolicy
from policies.kinds.outlier.document import Outlier
from policies.kinds.ratelimit.document import RateLimit
from policies.kinds.retry.document import Retry
from policies.kinds.route.document import Route
from policies.kinds.shadow.document import Shadow
from policies.kinds.shed.document import Shed
from policies.kinds.timeout.document import Timeout
from policies.kinds.webhook.document import Webhook
from policies.language.document import Document, Invalid, convert, meant
from policies.language.names import parse_pattern
from policies.language.plain import Flaw, kind_of, load, read_at
from policies.language.work import check_work


class Kind(msgspec.Struct, frozen=True):
    """One kind of policy."""

    name: str
    document: type[Document]
    summary: str
    guards: bool = False
    """Whether a refused document with no good one before it has to refuse requests rather than count as absent."""


KINDS: Final = (
    Kind("ratelimit", RateLimit, "how many requests may pass, for an agent or for all together", guards=True),
    Kind("fault", FaultPolicy, "delays, aborts and slow answers on purpose, for testing"),
    Kind("route", Route, "where requests go: rules, splits, canaries, blue-green, rewrites"),
    Kind("timeout", Timeout, "how long connecting, a try, a request and silence may take"),
    Kind("breaker", Breaker, "when nothing is sent to a struggling service, and what callers get instead"),
    Kind("outlier", Outlier, "which bad instances are passed over for a while"),
    Kind("shed", Shed, "what is let in when there is too much, and where the rest goes"),
    Kind("balance", Balance, "which instance takes a request"),
    Kind("retry", Retry, "which failures are tried again, within a budget"),
    Kind("shadow", Shadow, "which requests are copied elsewhere, and whether the answers differ"),
    Kind("health", HealthPolicy, "how instances are checked by the agent beside them"),
    Kind("webhook", Webhook, "who is told of what happens, and how"),
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
