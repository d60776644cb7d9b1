"""Every policy kind there is, in the order of the phases in which requests meet them. The one list to add a kind to."""

from __future__ import annotations

from typing import Final

import msgspec

from policies.balance import Balance
from policies.breaker import Breaker
from policies.document import Document
from policies.fault import FaultPolicy
from policies.health import HealthPolicy
from policies.outlier import Outlier
from policies.ratelimit import RateLimit
from policies.retry import Retry
from policies.route import Route
from policies.shadow import Shadow
from policies.shed import Shed
from policies.timeout import Timeout
from policies.webhook import Webhook


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
