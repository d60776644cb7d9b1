"""What agents ask each other: small messages of msgpack over their inbound listeners, to the host `agent.shoal`.

    POST /shares   Demand     → Grants      to the owner of rate limits (`agent.control.traffic.shared_limits`)
    POST /keys     KeyDemand  → KeyGrants   to the owner of hot keys of these (`agent.control.traffic.shared_keys`)
    POST /explain  Explain    → Explained   to the agent beside an instance (`agent.proxy.request.explain`)
    POST /sign     Sign       → SignAnswer  to an issuer, while etcd is away (`agent.control.identity.answering`)
    POST /join     `Joining`  → `Joined`    to an issuer, by who has a token (`agent.identity.tokens`)
    POST /countersign, /keep, /erase           about audit logs (`agent.audit.questions`)
    POST /ask/…    a `Question` that a person asks of all agents, by way of one (`agent.control.asking`)
    POST /ask/relay `Relay`    → `Relayed`   to an agent that asks others, and itself, and merges what they answer

Laws
- Hosts are upgraded one by one. Fields that an end does not know are ignored; what came later has a default.
- A question that an agent does not know is answered with 404, one that is malformed with 400, both in words.
- What stands under /ask/ changes nothing. Whether the person may ask is judged by the agent that he asked; the others
  believe agents, as with every question here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Generic, TypeAlias, TypeVar

import msgspec

from agent.carried import PolicyFrame

HOST: Final = "agent.shoal"
"""Under which an agent itself is asked; no service can have it."""
SHARES: Final = "/shares"
KEYS: Final = "/keys"
EXPLAIN: Final = "/explain"
SIGN: Final = "/sign"
JOIN: Final = "/join"
COUNTERSIGN: Final = "/countersign"
KEEP: Final = "/keep"
ERASE: Final = "/erase"
ASK: Final = "/ask/"
"""What people ask begins with this: it may take longer than what agents need for themselves."""
AUDIT: Final = "audit"
AUDIT_CHECK: Final = "audit-check"
AUDIT_HEADS: Final = "audit-heads"
FIGURES: Final = "figures"
SERIES: Final = "series"
PATHS: Final = (
    *(EXPLAIN, JOIN, KEYS, SHARES, SIGN, COUNTERSIGN, KEEP, ERASE),
    *(
        f"{ASK}{name}"
        for name in ("api", "requests", "taps", "output", AUDIT, AUDIT_CHECK, AUDIT_HEADS, FIGURES, SERIES, "relay")
    ),
)
MAX_WORDS: Final = 200
PATIENT_S: Final = 30.0
"""How long an agent may take for what a person asks: it may have to read much."""
MAX_ANSWER_BYTES: Final = 256 * 1024


class Figures(msgspec.Struct, frozen=True, array_like=True):
    """Of one limit: `policies.kinds.ratelimit.shares.Report`, in the order of its fields."""

    demand: float
    held: float
    for_s: float
    using: float
    rests: bool = False


class Demand(msgspec.Struct, frozen=True, array_like=True):
    """Who asks, and its report of each limit, by service and name."""

    member: str
    reports: dict[str, Figures]


Grants: TypeAlias = dict[str, float]
"""By limit: the part of it that the member may let pass."""


class KeyDemand(msgspec.Struct, frozen=True, array_like=True):
    """Who asks, and its report of each hot key, by service, limit and the key's hash."""

    member: str
    reports: dict[str, Figures]


class KeyPart(msgspec.Struct, frozen=True, array_like=True):
    """What a member may let pass of a key: `policies.kinds.ratelimit.hot.Granted`, in the order of its fields."""

    fraction: float
    tokens: float


KeyGrants: TypeAlias = dict[str, KeyPart]

Header: TypeAlias = Annotated[list[str], msgspec.Meta(min_length=2)]


class Supposed(msgspec.Struct, frozen=True):
    """What would be in force for a service, were other documents put."""

    service: str
    policies: dict[str, PolicyFrame]
    """By kind."""
    audits: dict[str, PolicyFrame] = {}
    """What would only be watched."""


class Explain(msgspec.Struct, frozen=True):
    """The request whose way is asked for."""

    url: str = ""
    """http://service/path, or service/path."""
    method: str = "GET"
    caller: str = ""
    """A service, a SPIFFE id of another trust domain, or empty."""
    headers: list[Header] = []
    """Name and value of each."""
    inbound: str | None = None
    """The instance (`service/id`) of this host's that another agent picked; None: it goes out from here."""
    shed: dict[str, str] = {}
    """Instances whose agents are taken to let no more in, each with the reason."""
    address: str = ""
    """Of the client; empty: not known."""
    gateway: str = ""
    """The host that let in a caller of another trust domain (`caller` is a SPIFFE id); empty: the one that is asked."""
    plain: bool = False
    """Whether it comes from another host in plain text."""
    claims: dict[str, str] | None = None
    """Of a token that it is supposed to have, as if it was verified; None: what it has counts."""
    shows_claims: bool = False
    """Whether the answer is for who operates, and says what is in a token."""
    supposed: list[Supposed] = []
    """Services for which other documents are taken to be in force."""
    seed: int | None = None
    """What is drawn is drawn from this; None: what the next request would draw."""


class Share(msgspec.Struct, frozen=True):
    """What a target of a split gets of what comes to its rule."""

    to: str
    percent: float


class Decision(msgspec.Struct, frozen=True):
    """One that the request would meet."""

    phase: str
    decision: str
    reason: str
    policy: str = ""
    """kind/pattern; empty: the built-in default."""
    revision: int = 0
    """0: it is only supposed."""
    mode: str = "enforce"
    shares: list[Share] = []
    """Of the split of a route; empty where there is none."""


class Explained(msgspec.Struct, frozen=True):
    """Where the request would go, and why."""

    decisions: list[Decision]
    endpoint: dict[str, Any] | None = None
    status: int | None = None
    """Of an answer that the mesh would give itself."""
    hop: Explain | None = None
    """What the agent before the endpoint is to be asked, where there is one."""
    record: Decision | None = None
    """What its audit log would be told of it, where it goes on to no other agent."""
    supposed: bool = False
    """Whether what was to be supposed was: an agent of before does not know of it."""


class Sign(msgspec.Struct, frozen=True):
    """A certificate that the host wants whose agent asks."""

    name: str
    """As requests are called: agent, or svc/<service>."""
    csr: str
    """PEM."""


class SignAnswer(msgspec.Struct, frozen=True):
    """The certificate, or why there is none."""

    chain: str = ""
    """PEM; empty: refused."""
    refused: str = ""
    bundle: str = ""
    """Whom the mesh believes by now, as a SPIFFE bundle document; to a person, who has no watch."""


T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")


class Question(Generic[Q, A]):
    """One that any agent can be asked: what is said, and what comes back, each a `msgspec.Struct`."""

    __slots__ = ("answer", "asks", "merge", "most_bytes", "path")

    def __init__(
        self,
        name: str,
        asks: type[Q],
        answer: type[A],
        most_bytes: int = MAX_ANSWER_BYTES,
        merge: Callable[[Q, Sequence[A]], A] | None = None,
    ) -> None:
        """`name`: one word, `audit`, which stands in `PATHS` as /ask/audit. `most_bytes`: of one host's answer.
        `merge`: one answer of several, whose order and grouping make no difference; None: each host's is wanted."""
        self.merge = merge
        self.path = ASK + name
        self.asks = asks
        self.answer = answer
        self.most_bytes = most_bytes


class ApiAsked(msgspec.Struct, frozen=True):
    """What an agent shows of itself (`agent.control.admin.v1`)."""

    path: str
    """Of the resource: /calls."""
    query: dict[str, str] = {}


class ApiTold(msgspec.Struct, frozen=True):
    """It."""

    body: bytes
    """JSON."""


API: Final = Question("api", ApiAsked, ApiTold, most_bytes=4 * 1024 * 1024)


class Relay(msgspec.Struct, frozen=True):
    """A question for others, whose answers can be merged."""

    path: str
    body: bytes
    """The question itself."""
    hosts: Annotated[list[str], msgspec.Meta(max_length=512)]
    """Whom to ask, beside the agent that is told this."""
    timeout_s: Annotated[float, msgspec.Meta(ge=0, le=PATIENT_S)]
    most_bytes: int = MAX_ANSWER_BYTES
    """Of the answer."""


class NotHeard(msgspec.Struct, frozen=True, array_like=True):
    """`agent.control.asking.fanout.Missing`, in the order of its fields."""

    why: str
    reason: str


class Relayed(msgspec.Struct, frozen=True):
    """One answer of all that answered."""

    answer: bytes
    missing: dict[str, NotHeard] = {}
    """By host; everybody else who was to be asked is in the answer."""


RELAY: Final = Question("relay", Relay, Relayed, most_bytes=1024 * 1024)


def read(body: bytes, wanted: type[T]) -> T | str:
    """What stands in a message of another host's; or why nothing does, whatever it was that the decoder raised."""
    try:
        return msgspec.msgpack.decode(body, type=wanted)
    except Exception as error:  # not only its own: text that is no UTF-8, depths beyond the stack, ...
        return f"{type(error).__name__}: {error}"[:300]


def not_known(path: str, version: str) -> bytes:
    """The words of a 404, of an agent of some version."""
    return f"the agent here ({version}) knows no question {path[:60]}, but {', '.join(PATHS)}".encode()


def refused(status: int, body: bytes) -> str:
    """What another agent's refusal is told as."""
    words = body[:MAX_WORDS].decode("utf-8", "replace")
    return f"it answers {status}: {words}" if words else f"it answers {status}"
