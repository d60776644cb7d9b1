"""The frames between control and a worker: the only place where the two meet.

A frame is a msgpack map with a `t` that names its kind, as `agent.framing` writes it. Both ends make and take them
as the types below: `ToWorker`, what control wants, and `ToControl`, what a worker says. Control sends what it wants to
be so; a worker stages it and makes it so at the next `commit`, whole.

Laws
- Fields that an end does not know are ignored, and what it knows has defaults where it came later than the kind.
- A kind that an end does not know, as of a newer version, is `Unknown` to it: told in words, and passed over.
"""

from __future__ import annotations

from typing import Any, Generic, TypeAlias, TypeVar, get_args

import msgspec

from agent.carried import ClientCertificate as ClientCertificate
from agent.carried import EndpointFrame as EndpointFrame
from agent.carried import Limits as Limits
from agent.carried import LocalUsers as LocalUsers
from agent.carried import Part as Part
from agent.carried import PolicyFrame as PolicyFrame
from agent.carried import Svid as Svid
from agent.carried import Topic as Topic
from agent.carried import Transition as Transition
from agent.carried import Uncompiled as Uncompiled
from agent.requests.filter import Filter
from agent.requests.taps import Wanted
from policies.kinds.shadow.answer import Answer as ShadowAnswer
from policies.kinds.shadow.answer import Asked

# Control to worker.


class Configure(msgspec.Struct, tag_field="t", tag="configure"):
    """What the agent is, and what it allows; comes first, and again at changes."""

    host: str = ""
    zone: str = ""
    share: float = 1.0
    """This worker's part of what the agent may let pass."""
    limits: Limits = Limits()
    callers: dict[str, str] = {}
    """Service to token."""
    access_log: bool = False
    spans: bool = False
    """Whether anybody takes them."""
    agents: list[str] = []
    """Ranges of addresses where agents are believed to be, beside those that are registered."""
    proxies: list[str] = []
    """Ranges of addresses of proxies that are believed about who is behind them."""
    local: LocalUsers = LocalUsers()
    client_certificates: dict[str, ClientCertificate] = {}
    """By the service that is called."""
    opas: list[str] = []
    """URLs of OPAs that documents may have asked."""


class Trust(msgspec.Struct, tag_field="t", tag="trust"):
    """Who this agent can prove to be, and whom it believes; at once. Without any, hops are plain text."""

    trust_domain: str = ""
    shown: dict[str, Svid] = {}
    """By service; under the empty name, the agent's own."""
    bundles: dict[str, list[bytes]] = {}
    """Roots (DER) by trust domain."""
    revoked: bytes = b""
    """As `agent.identity.revocations` has it; empty: nothing."""
    proven_only: bool = False
    """Whether other agents may ask this one by TLS only, where they have proven who they are."""


class IssuerKeys(msgspec.Struct, tag_field="t", tag="issuer_keys"):
    """What an issuer of tokens publishes by now; at once. A worker of before passes it over, and knows no document that
    needs it."""

    source: str
    """Where it is fetched from (`policies.kinds.authn.source`)."""
    jwks: list[dict[str, str]] | None = None
    """Public keys (RFC 7517); None: no document names the source any more."""
    said_s: float | None = None
    """When the issuer said so last (Unix time, s); None: a control of before does not tell."""


class Where(msgspec.Struct, tag_field="t", tag="agents"):
    """Who lives, and where; from the next commit on."""

    host: str
    """This one."""
    addresses: dict[str, str]


class Stage(msgspec.Struct, tag_field="t", tag="service"):
    """A service as it will be at the commit."""

    name: str
    revision: int
    endpoints: list[EndpointFrame]
    policies: dict[str, PolicyFrame]
    audits: dict[str, PolicyFrame] = {}
    """What is only watched, beside them."""


class Change(msgspec.Struct, tag_field="t", tag="change"):
    """What will be different at the commit of a service that was staged before; for workers that said so (`Ready`)."""

    name: str
    revision: int
    endpoints: list[EndpointFrame] = []
    """That are new, or something else than before; by id."""
    gone: list[str] = []
    """Ids of those that are no more."""
    policies: dict[str, PolicyFrame] | None = None
    """All of them; None: as before, and the audits too."""
    audits: dict[str, PolicyFrame] = {}
    more: bool = False
    """Another of this service follows: it is no use to compile it yet."""


class Gone(msgspec.Struct, tag_field="t", tag="gone"):
    """A service that will be no more at the commit."""

    name: str


class Commit(msgspec.Struct, tag_field="t", tag="commit"):
    """Swap in all that is staged."""

    revision: int
    agents: int = 1
    """How many live."""


class Ask(msgspec.Struct, tag_field="t", tag="ask"):
    """Wants an `answer`."""

    id: int
    what: str
    """ping, state, metrics, demand, keys, handshakes, opas or explain."""
    args: dict[str, Any] = {}


class PeerAnswer(msgspec.Struct, tag_field="t", tag="peer_answer"):
    """To a `peer`."""

    id: int
    status: int
    body: bytes


class Stored(msgspec.Struct, tag_field="t", tag="stored"):
    """To a `store`."""

    id: int
    name: str
    reason: str
    """Empty: it is on disk."""


class Recorded(msgspec.Struct, tag_field="t", tag="recorded"):
    """To an `audited` that somebody waits for."""

    id: int
    reason: str = ""
    """Empty: it is on disk."""


class Away(msgspec.Struct, tag_field="t", tag="away"):
    """Control is executed anew: it hears and says nothing for a while, and its successor answers. Until that tells to
    drain. A worker of before does without, and takes what comes late for lost."""


class Shares(msgspec.Struct, tag_field="t", tag="shares"):
    """Parts of rate limits: by service, by limit."""

    shares: dict[str, dict[str, float]]
    """This worker's; of what it does not count together with others."""
    parts: dict[str, dict[str, Part]] = {}
    keys: dict[str, dict[str, dict[str, float]]] = {}
    """Of limits with keys: the agent's parts of those keys that have one of their own, by their hashes. All of them."""
    tokens: dict[str, dict[str, dict[str, float]]] = {}
    """What such keys get at once."""


class Follow(msgspec.Struct, tag_field="t", tag="follow"):
    """Which requests somebody follows from now on, by the number that `followed` says; all of them."""

    filters: dict[str, Filter]


class Tap(msgspec.Struct, tag_field="t", tag="tap"):
    """What somebody wants to see of live requests from now on, by the number that `followed` says; all of it. A worker
    of before passes it over."""

    wanted: dict[str, Wanted]


class Drain(msgspec.Struct, tag_field="t", tag="drain"):
    """Stop accepting, finish, leave. Told again it only comes sooner."""

    deadline_s: float
    """For who has said nothing, or not yet all of a request; and for what is under way, unless `alive_s` is longer."""
    alive_s: float = 0.0
    """For what is under way: streams, upgraded connections, long answers."""


ToWorker: TypeAlias = (
    Configure
    | Trust
    | IssuerKeys
    | Where
    | Stage
    | Change
    | Gone
    | Commit
    | Ask
    | PeerAnswer
    | Stored
    | Recorded
    | Away
    | Shares
    | Follow
    | Tap
    | Drain
)


# Worker to control.


class Ready(msgspec.Struct, tag_field="t", tag="ready"):
    """It listens, and the first commit is in force."""

    pid: int
    build: str
    """`agent.build.kind()`: what runs."""
    changes: bool = False
    """Whether it understands `Change`."""


class Runs(msgspec.Struct, tag_field="t", tag="runs"):
    """A commit is in force."""

    revision: int
    refused: list[Uncompiled]


class Answer(msgspec.Struct, tag_field="t", tag="answer"):
    """To an `ask`."""

    id: int
    value: Any = None
    error: str = ""
    """Empty: there is a value."""


class Peer(msgspec.Struct, tag_field="t", tag="peer"):
    """Another agent's question (`agent.questions`); wants a `peer_answer`."""

    id: int
    path: str
    body: bytes
    address: str
    """It comes from."""
    identity: str = ""
    """The SPIFFE id that is proven of who asks; empty: it is by plain text."""


class KeyMissed(msgspec.Struct, tag_field="t", tag="key_missed"):
    """A token says that it is signed by a key that its issuer had not published when it was asked last."""

    source: str
    """As in `issuer_keys`."""


class Store(msgspec.Struct, tag_field="t", tag="store"):
    """A request that is to be kept; wants a `stored`."""

    id: int
    name: str
    topic: Topic
    record: bytes
    """JSON."""


class Happened(msgspec.Struct, tag_field="t", tag="happened"):
    """What changed since the last one."""

    events: list[Transition]


class Records(msgspec.Struct, tag_field="t", tag="records"):
    """Access records: so many JSON objects with the fields of `agent.proxy.report.record.Record`, one a line."""

    count: int
    lines: bytes


class Spans(msgspec.Struct, tag_field="t", tag="spans"):
    """So many `agent.carried.Span`, one a line, of requests that are traced. Wanted where `configure` says so."""

    count: int
    lines: bytes


class Followed(msgspec.Struct, tag_field="t", tag="followed"):
    """Requests that somebody follows: as in `records`; or taps (`agent.proxy.report.taps`)."""

    id: str
    """Of the filter, or the tap."""
    count: int
    lines: bytes
    lost: int = 0
    """So many more, behind these, that there was no room for."""


class Audited(msgspec.Struct, tag_field="t", tag="audited"):
    """Audit records: so many `agent.audit.draft.Said`, one a line."""

    count: int
    lines: bytes
    lost: dict[str, int] = {}
    """Records that were not handed over, by why."""
    id: int = 0
    """Of a request that waits until they are on disk, and wants a `recorded`; 0: nobody waits."""


class Compared(msgspec.Struct, tag_field="t", tag="compared"):
    """What a request and its copies got, for a shadow policy that compares."""

    service: str
    revision: int
    """Of the policy."""
    request: Asked
    answers: dict[str, ShadowAnswer]
    """By role."""


class Drained(msgspec.Struct, tag_field="t", tag="drained"):
    """Nothing is in flight any more; it ends."""

    metrics: dict[str, Any] = {}
    """What it has counted, to the last."""


ToControl: TypeAlias = (
    Ready
    | Runs
    | Answer
    | Peer
    | KeyMissed
    | Store
    | Happened
    | Records
    | Followed
    | Spans
    | Audited
    | Compared
    | Drained
)


# Both ways.


class Unknown(msgspec.Struct, frozen=True):
    """A frame that makes no sense to who gets it."""

    kind: str
    reason: str
    broken: bool
    """It says no kind, or says one that is known as no version does. Else it is of another version, perhaps."""
    asks: int | None = None
    """The number of the `ask` that it is."""


class _Named(msgspec.Struct):
    """What is looked at of a frame that is not understood."""

    t: Any = None
    id: Any = None


T = TypeVar("T")


class _Reader(Generic[T]):
    """Of the frames in one direction."""

    def __init__(self, union: Any) -> None:
        self.kinds = frozenset(str(kind.__struct_config__.tag) for kind in get_args(union))
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(union)
        self._named = msgspec.msgpack.Decoder(_Named)

    def read(self, body: bytes) -> T | Unknown:
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            named, reason = self._named.decode(body), str(error)
        if isinstance(named.t, str) and named.t not in self.kinds:
            return Unknown(named.t[:60], f"no frame that is known here is called {named.t[:60]!r}", False)
        number = named.id if named.t == Ask.__struct_config__.tag and type(named.id) is int else None
        return Unknown(str(named.t)[:60], reason, True, number)


_TO_WORKER: _Reader[ToWorker] = _Reader(ToWorker)
_TO_CONTROL: _Reader[ToControl] = _Reader(ToControl)
KINDS = _TO_WORKER.kinds | _TO_CONTROL.kinds


def to_worker(body: bytes) -> ToWorker | Unknown:
    """What control wants of a worker. Raises ValueError for what is no map of msgpack."""
    return _TO_WORKER.read(body)


def to_control(body: bytes) -> ToControl | Unknown:
    """What a worker says. Raises ValueError for what is no map of msgpack."""
    return _TO_CONTROL.read(body)
