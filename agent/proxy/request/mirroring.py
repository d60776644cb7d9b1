# mypyc: compiled
"""Copies of a request to other services and versions, as `shadow` policies want them.

Laws
- The request itself waits for none of it: copies leave from the timer wheel, after what is ready was served; what is
  collected is bounded, and beyond the bounds copies are dropped and counted.
- A copy is sent once: no retry, no redirect, no copy of a copy. Its answer is read to its end, or to a limit, and
  thrown away, unless answers are compared; then they go to control, which compares.
- What is compared with the primary's answer to see the noise was given by another process: an instance that answers
  twice shows no difference between instances, and is warm. Where there is no other, nothing is compared, and said.
- Whose token a copy has, the documents of the service say that it goes to; what those do not let pass is not copied.
- Copies count as load of the endpoints they go to, and for nothing else: no breaker, no ejection, no average.
- What badly behaved targets cost is bounded: so many bytes of answers a moment (`pacing`), and a pause for one that
  only fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agent import frames
from agent.proxy.engine.reactor import Timed
from agent.proxy.messages.head import ResponseHead
from agent.proxy.messages.outgoing import request_fields, target_of
from agent.proxy.messages.presented import Introduction
from agent.proxy.proof.securing import secure, wanted_of
from agent.proxy.request.attempt import Party
from agent.proxy.stream import ResponseHandler
from agent.proxy.table.service import Service
from policies.endpoint import Endpoint
from policies.kinds.shadow.answer import Answer as Told
from policies.kinds.shadow.answer import Asked
from policies.kinds.shadow.decide import SECONDARY, Compiled, Order

MAX_DISCARDED: Final = 1024 * 1024
"""Bytes of an answer that nobody wants: read for the connection's sake, and beyond that the connection is closed."""
FAILURES: Final = 5
HOLD_S: Final = 1.0
"""After so many failures in a row an endpoint gets one copy in so long: each costs a connection."""
ALONE: Final = "no other instance to ask a second time"
SAME: Final = "the instance asked a second time answered in the end"


class Answer:
    """What came of a request, or of a copy of it; of its body, what there is room for."""

    __slots__ = ("body", "error", "fields", "kept", "latency_s", "length", "room", "status")

    def __init__(self, room: int) -> None:
        self.status = 0
        self.fields: list[tuple[str, str]] = []
        self.body: list[bytes] = []
        self.kept = 0
        self.length = 0
        self.room = room
        self.error = ""
        self.latency_s = 0.0

    def begin(self, head: ResponseHead) -> None:
        """The answer's head."""
        self.status = head.status
        if self.room:
            self.fields = [(field.name.decode("latin-1"), field.value.decode("latin-1")) for field in head.fields]

    def feed(self, data: bytes) -> None:
        """A piece of its body."""
        self.length += len(data)
        room = self.room - self.kept
        if room > 0:
            piece = data[:room]
            self.kept += len(piece)
            self.body.append(piece)

    def as_told(self) -> Told:
        """For control."""
        return Told(
            self.status,
            tuple(self.fields),
            b"".join(self.body),
            self.length > self.kept,
            self.error,
            self.latency_s,
        )


def begin(exchange: Party, orders: Sequence[Order], copies: Compiled) -> Mirror | None:
    """Collect for the copies of a request whose way is decided; None where too many are under way."""
    service = exchange.service
    assert service is not None
    if service.copying + len(orders) > copies.concurrency:
        service.stats.copied("dropped", len(orders))
        return None
    return Mirror(exchange, service, orders, copies)


class Mirror(Timed):
    """The copies of one request."""

    __slots__ = (
        "_body",
        "_compared",
        "_exchange",
        "_launched",
        "_max_body",
        "_orders",
        "_pending",
        "_primary",
        "_secondary",
        "_size",
        "_told",
        "_trailers",
        "_unusable",
    )

    def __init__(self, exchange: Party, service: Service, orders: Sequence[Order], copies: Compiled) -> None:
        super().__init__()
        self._exchange = exchange
        self._orders = orders
        self._body: list[bytes] = []
        self._trailers: list[bytes] = []
        self._size = 0
        self._max_body = copies.max_body
        self._launched = False
        self._pending = len(orders)
        self._secondary: Endpoint | None = None
        self._unusable = ""
        """Why nothing is compared."""
        self._told: Introduction | None = None
        """What the copy's endpoint that was picked last is told of people."""
        compared = any(order.compared for order in orders)
        self._primary = Answer(copies.max_answer if compared else 0)
        self._compared: dict[str, Answer] | None = {"primary": self._primary} if compared else None
        if compared:
            self._pending += 1
        service.copying += len(orders)
        if exchange.request_sent:
            self.launch_soon()

    # The request.

    def feed(self, data: bytes) -> None:
        """A piece of its body."""
        self._size += len(data)
        if self._size <= self._max_body:
            self._body.append(data)
        else:
            self._body.clear()

    def on_request_end(self, trailers: list[bytes]) -> None:
        """It has come whole."""
        self._trailers = trailers
        self.launch_soon()

    def launch_soon(self) -> None:
        """Nothing more of it comes."""
        if not self._launched:
            self._exchange.reactor.wheel.arm(self, self._exchange.reactor.now)

    def on_deadline(self, now: float) -> None:
        """Its turn has come."""
        if self._launched:
            return
        self._launched = True
        exchange = self._exchange
        too_large = self._size > self._max_body
        body, self._body = self._body, []
        for order in self._orders:
            endpoint = None if too_large or exchange.runtime.draining else self._pick(order)
            if order.role == SECONDARY:
                self._secondary = endpoint
            if endpoint is None:
                self._over(order, None, "dropped")
            else:
                Copy(self, exchange, order, endpoint, body, self._trailers, self._told).start()

    def _pick(self, order: Order) -> Endpoint | None:
        """The claims that hold meanwhile are its service's."""
        exchange = self._exchange
        service = exchange.runtime.table.services.get(order.service) if order.service else exchange.service
        if service is None or (order.compared and self._unusable) or not service.plan.is_there(exchange):
            return None
        claims, hidden = exchange.claims, exchange.hidden
        endpoint = self._pick_of(service, order) if exchange.supposes_known(service) else None
        exchange.bear(claims)
        exchange.hidden = hidden
        return endpoint

    def _pick_of(self, service: Service, order: Order) -> Endpoint | None:
        exchange = self._exchange
        runtime = exchange.runtime
        balancer = service.plan.group(order.subset)
        key = None
        if balancer.needs_key:
            key = balancer.key(exchange.view)
        now = runtime.reactor.now
        endpoint = balancer.pick(key, now, runtime.rng, [])
        if order.role == SECONDARY and endpoint is not None and _same(endpoint, exchange.endpoint):
            endpoint = balancer.pick(key, now, runtime.rng, [endpoint])
            if endpoint is None or _same(endpoint, exchange.endpoint):
                self._unusable = ALONE
                return None
        if endpoint is None or endpoint.load.copies_from > now or not self._may_reach(service, endpoint):
            return None
        if endpoint.load.copies_failed >= FAILURES:
            endpoint.load.copies_from = now + HOLD_S  # this one will tell
        return endpoint

    def _may_reach(self, service: Service, endpoint: Endpoint) -> bool:
        """Whether its guards let an instance of this host have a copy; of others' instances their agents ask."""
        exchange = self._exchange
        plan = exchange.plan
        assert plan is not None
        found = exchange.would_let_in(service, endpoint)
        self._told = exchange.telling(plan, service.plan, endpoint)
        return found

    # The answers.

    def on_primary(self, head: ResponseHead, body: bytes) -> None:
        """The head of the request's own answer, and what there is of its body."""
        if self._compared is not None:
            self._primary.begin(head)
            self._primary.feed(body)

    def on_primary_data(self, data: bytes) -> None:
        """A piece of its body."""
        if self._compared is not None:
            self._primary.feed(data)

    def on_end(self, why: str, duration_s: float) -> None:
        """The request is over; one that never came whole is not copied."""
        if not self._launched and not self._exchange.request_sent:
            self._launched = True
            for order in self._orders:
                self._over(order, None, "dropped")
        if self._compared is not None:
            self._primary.error = why
            self._primary.latency_s = duration_s
            self._count_down()

    def on_copy(self, order: Order, answer: Answer) -> None:
        """A copy is over."""
        self._over(order, answer, "failed" if answer.error else "answered")

    def _over(self, order: Order, answer: Answer | None, outcome: str) -> None:
        service = self._exchange.service
        assert service is not None
        service.copying -= 1
        service.stats.copied(outcome, 1)
        if self._compared is not None and order.compared and answer is not None:
            self._compared[order.role] = answer
        self._count_down()

    def _count_down(self) -> None:
        self._pending -= 1
        if self._pending or self._compared is None:
            return
        if _same(self._secondary, self._exchange.endpoint):
            self._unusable = SAME
        if self._unusable or len(self._compared) == 3:
            self._tell(self._compared)

    def _tell(self, compared: dict[str, Answer]) -> None:
        """Control, which compares; or which counts that nothing can be."""
        exchange = self._exchange
        service = exchange.service
        assert service is not None
        request = Asked(
            exchange.request.method.decode(),
            exchange.recorded_target().decode("latin-1"),
            exchange.request_id.decode("latin-1"),
            exchange.endpoint.version if exchange.endpoint is not None else "",
            self._unusable,
        )
        revision = service.plan.policies["shadow"].revision if "shadow" in service.plan.policies else 0
        answers = {} if self._unusable else {role: each.as_told() for role, each in compared.items()}
        if not exchange.runtime.send_comparison(frames.Compared(service.name, revision, request, answers)):
            service.stats.copied("uncompared", 1)


def _same(one: Endpoint | None, other: Endpoint | None) -> bool:
    """Whether they are one process; it may be an instance of two services."""
    if one is None or other is None:
        return False
    return (one.agent, one.address, one.port) == (other.agent, other.address, other.port)


class Copy(ResponseHandler):
    """One copy on its way."""

    __slots__ = (
        "_answer",
        "_began",
        "_body",
        "_deadline",
        "_endpoint",
        "_exchange",
        "_mirror",
        "_order",
        "_told",
        "_trailers",
    )

    def __init__(
        self,
        mirror: Mirror,
        exchange: Party,
        order: Order,
        endpoint: Endpoint,
        body: list[bytes],
        trailers: list[bytes],
        told: Introduction | None,
    ) -> None:
        super().__init__(exchange.request.method, b"")
        self._mirror: Mirror | None = mirror
        self._exchange = exchange
        self._order = order
        self._endpoint = endpoint
        self._body = body
        self._trailers = trailers
        self._told = told
        self._answer = Answer(order.max_answer)
        self._began = exchange.reactor.now
        self._deadline = self._began + order.timeout_s
        endpoint.load.active += 1
        self.expected = endpoint.service if endpoint.agent and not endpoint.via else ""

    def start(self) -> None:
        """On a connection of the pool, or a new one."""
        runtime = self._exchange.runtime
        lane = runtime.pool.plain
        target = runtime.table.services.get(self._endpoint.service)
        tls = wanted_of(target, self._endpoint, self._exchange.stranger)
        if target is not None and tls is not None:
            found = secure(runtime, target, self._endpoint, self._exchange.caller, tls)
            if isinstance(found, str):
                self._fail(found)
                return
            lane = found
        up = runtime.pool.take(lane, self._endpoint.dial, verify=True)
        if up is not None:
            self.up = up
            self.on_connected()
            return
        self.up = up = runtime.pool.open(lane, self._endpoint.dial, self, None)
        if up is None:
            return
        up.arm(self._deadline)
        up.connect(runtime.agents.source(self._endpoint.dial[0]) if self._endpoint.via else "")

    def on_connected(self) -> None:
        """The connection is there."""
        up, exchange, order = self.up, self._exchange, self._order
        assert up is not None
        up.arm(self._deadline)
        request, forward = exchange.request, exchange.forward
        own = exchange.lines_for_copy(self, self._endpoint, order.timeout_s)
        own.append(b"x-shoal-shadow: %b\r\n" % order.role.encode())
        body, self._body = self._body, []
        target, fields = target_of(request, forward), request_fields(request, forward, self._endpoint.remote)
        told = self._told
        if told is not None:
            target, fields = told.target(target), told.fields(fields)
        up.send_request(self, request, target, fields, own, body, self._trailers)

    def on_drained(self) -> None:
        """What was held is sent."""

    def on_informational(self, head: ResponseHead) -> None:
        """Of no interest."""

    def on_response(self, head: ResponseHead, body: bytes, complete: bool) -> None:
        """The answer's head, and all of the body if it came along."""
        self._answer.begin(head)
        self._answer.feed(body)
        if complete:
            self.on_response_end([])
        elif self.up is not None:
            self.up.arm(self._deadline)

    def on_response_data(self, data: bytes) -> None:
        """A piece of the answer's body."""
        pace = self._exchange.runtime.pace
        self._answer.feed(data)
        if self._answer.length > max(MAX_DISCARDED, self._answer.room):
            self._note_failure()
            self._end(reusable=False)
        pace.spend(self, len(data))

    def on_response_end(self, trailers: list[bytes]) -> None:
        """The answer has come whole."""
        self._endpoint.load.copies_failed = 0
        self._endpoint.load.copies_from = 0.0
        self._end(reusable=True)

    def on_switched(self, head: ResponseHead) -> None:
        """Nobody asked for it, and upstreams that do so are broken ones."""

    def on_tunnel_data(self, data: bytes) -> None:
        """There is no tunnel."""

    def on_tunnel_eof(self) -> None:
        """There is no tunnel."""

    def on_lost(self, reason: str, *, connecting: bool, sent: bool) -> None:
        """Connecting failed, or the connection broke."""
        self._fail(f"cannot connect: {reason}" if connecting else reason)

    def on_unable(self, reason: str, *, elsewhere: bool) -> None:
        """This host could not connect to anybody: no failure of the target's."""
        self._answer.error = f"this agent cannot connect: {reason}"
        self._end(reusable=False)

    def on_timeout(self, *, connecting: bool) -> None:
        """It took longer than its time."""
        self._fail("no answer in time")

    def on_bad_response(self, reason: str) -> None:
        """What cannot be read in one way only."""
        self._fail(f"a broken answer: {reason}")

    def _fail(self, reason: str) -> None:
        self._answer.error = reason
        self._note_failure()
        self._end(reusable=False)

    def _note_failure(self) -> None:
        load = self._endpoint.load
        load.copies_failed += 1
        if load.copies_failed >= FAILURES:
            load.copies_from = self._exchange.reactor.now + HOLD_S

    def _end(self, *, reusable: bool) -> None:
        mirror, self._mirror = self._mirror, None
        if mirror is None:
            return
        up, self.up = self.up, None
        if up is not None:
            up.release(reusable=reusable)
        self._endpoint.load.active -= 1
        exchange, order, answer = self._exchange, self._order, self._answer
        answer.latency_s = exchange.reactor.now - self._began
        exchange.on_copy_end(self, self._endpoint, order.role, self._began, answer.status, answer.error)
        mirror.on_copy(order, answer)
