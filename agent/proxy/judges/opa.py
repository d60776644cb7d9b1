# mypyc: compiled
"""An Open Policy Agent is asked by its REST API (openpolicyagent.org/docs/rest-api): `POST /v1/data/<path>`, on the
worker's own upstream connections, which are kept between questions.

Laws
- Only where the agent's settings say that one is. Nothing of the answer is believed but `result` and `decision_id`.
- One that fails is left alone for a while, twice as long each time, and then asked one question: requests do not each
  wait for their time to be over.
- A question that went to a connection which had been kept, and closed meanwhile, is asked once more on a new one: it
  changes nothing there.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from agent.proxy.http1.pool import Pool
from agent.proxy.judges.question import Question
from agent.proxy.messages.head import RequestHead, ResponseHead
from agent.proxy.stream import ResponseHandler
from policies.kinds.authz.judge import Judge

FAILURES: Final = 3
"""In a row, after which it is left alone."""
FIRST_HOLD_S: Final = 0.5
LONGEST_HOLD_S: Final = 10.0
MOST_ANSWER: Final = 64 * 1024
MOST_ID: Final = 128


class Place:
    """One OPA, as far as it has answered."""

    __slots__ = ("dial", "failures", "holds", "probing", "why")

    def __init__(self, dial: tuple[str, int]) -> None:
        self.dial = dial
        self.failures = 0
        self.holds = 0.0
        """Until when it is left alone (monotonic)."""
        self.probing = False
        """It is asked one question, to see whether it is back."""
        self.why = ""

    def hindrance(self, now: float) -> str:
        """Why it is not asked now."""
        if self.failures < FAILURES:
            return ""
        if self.holds > now:
            return f"{self.why}; asked again in {self.holds - now:.1f} s"
        if self.probing:
            return f"{self.why}; it is just asked whether it is back"
        return ""

    def failed(self, why: str, now: float) -> None:
        """It did not answer."""
        self.failures += 1
        self.probing = False
        self.why = why
        if self.failures >= FAILURES:
            self.holds = now + min(LONGEST_HOLD_S, FIRST_HOLD_S * 2.0 ** min(self.failures - FAILURES, 10))

    def answered(self) -> None:
        """It did."""
        self.failures = 0
        self.probing = False


class Opas:
    """All that documents name."""

    __slots__ = ("_places", "_pool", "allowed")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._places: dict[tuple[str, int], Place] = {}
        self.allowed: frozenset[tuple[str, int]] = frozenset()
        """Where the agent's settings say that one may be asked."""

    def _place(self, judge: Judge) -> Place:
        place = self._places.get(judge.dial)
        if place is None:
            place = self._places[judge.dial] = Place(judge.dial)
        return place

    def hindrance(self, judge: Judge, now: float) -> str:
        """Why it is not asked now."""
        if judge.dial not in self.allowed:
            return f"[opa] allow in this agent's settings does not name http://{judge.dial[0]}:{judge.dial[1]}"
        return self._place(judge).hindrance(now)

    def silent(self) -> list[dict[str, Any]]:
        """Those that did not answer when they were asked last, why, and how often in a row."""
        return [
            {"host": place.dial[0], "port": place.dial[1], "reason": place.why, "failures": place.failures}
            for place in self._places.values()
            if place.failures
        ]

    def prepare(self, judge: Judge) -> None:
        """There is nothing to be done."""

    def send(self, question: Question) -> None:
        """Ask."""
        place = self._place(question.judge)
        place.probing = place.failures >= FAILURES
        post = question.work = Post(self._pool, place, question)
        post.start(fresh=False)

    def forget(self, question: Question) -> None:
        """It is over; a connection on which its answer may still come is of no use to others."""
        post = question.work
        question.work = None
        if isinstance(post, Post):
            post.give_up()


class Post(ResponseHandler):
    """One question on its way."""

    __slots__ = ("_body", "_kept", "_place", "_pool", "_question", "_size", "_status")

    def __init__(self, pool: Pool, place: Place, question: Question) -> None:
        super().__init__(b"POST", b"")
        self._pool = pool
        self._place = place
        self._question: Question | None = question
        self._body: list[bytes] = []
        self._size = 0
        self._status = 0
        self._kept = False
        """Whether its connection had been used before."""

    def start(self, *, fresh: bool) -> None:
        """On a connection of the pool, unless it is to be a new one."""
        pool, dial, question = self._pool, self._place.dial, self._question
        assert question is not None
        up = None if fresh else pool.take(pool.plain, dial, verify=True)
        self._kept = up is not None
        if up is not None:
            self.up = up
            self.on_connected()
            return
        self.up = up = pool.open(pool.plain, dial, self, None)
        if up is not None:
            up.arm(pool.reactor.now + question.judge.timeout_s)
            up.connect()

    def on_connected(self) -> None:
        """The connection is there."""
        up, question = self.up, self._question
        if up is None or question is None:
            return
        judge = question.judge
        up.arm(self._pool.reactor.now + judge.timeout_s)
        body = msgspec.json.encode({"input": question.told()})
        host, port = self._place.dial
        named = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        head = RequestHead()
        head.method = b"POST"
        head.length = len(body)
        fields = [
            b"host: %b\r\n" % named.encode(),
            b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body),
            b"user-agent: shoal\r\n",
        ]
        up.send_request(self, head, b"/v1/data/%b" % judge.path.encode(), fields, [], [body], [])

    def on_drained(self) -> None:
        """What was held is sent."""

    def on_informational(self, head: ResponseHead) -> None:
        """Of no interest."""

    def on_response(self, head: ResponseHead, body: bytes, complete: bool) -> None:
        """The answer's head, and all of the body if it came along."""
        self._status = head.status
        self.on_response_data(body)
        if complete:
            self.on_response_end([])

    def on_response_data(self, data: bytes) -> None:
        """A piece of the answer's body."""
        self._keep(data)
        if self._size > MOST_ANSWER:
            self._fail(f"an answer of more than {MOST_ANSWER} bytes")

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= MOST_ANSWER:
            self._body.append(data)

    def on_response_end(self, trailers: list[bytes]) -> None:
        """The answer has come whole."""
        up, self.up = self.up, None
        question, self._question = self._question, None
        if question is None or up is None:
            return
        up.release(reusable=True)
        question.work = None
        body = b"".join(self._body)
        if self._status >= 500 or self._status == 429:
            why = f"{self._named()} answers {self._status}"
            self._place.failed(why, self._pool.reactor.now)
            question.fail(why)
            return
        self._place.answered()
        if self._status != 200:
            question.fail(f"{self._named()} answers {self._status}: {body[:100].decode('utf-8', 'replace')!r}")
            return
        allows, reason, failed = decided(question.judge, body)
        if failed:
            question.fail(reason)
        else:
            question.say(allows, reason)

    def on_switched(self, head: ResponseHead) -> None:
        """Nobody asked for it, and upstreams that do so are broken ones."""

    def on_tunnel_data(self, data: bytes) -> None:
        """There is no tunnel."""

    def on_tunnel_eof(self) -> None:
        """There is no tunnel."""

    def on_room(self) -> bool:
        """It waits for none."""
        return False

    def on_lost(self, reason: str, *, connecting: bool, sent: bool) -> None:
        """Connecting failed, or the connection broke."""
        if self._kept and self._question is not None and not self._status:
            self.up = None
            self.start(fresh=True)
            return
        self._fail(f"{self._named()} cannot be reached: {reason}" if connecting else f"{self._named()}: {reason}")

    def on_unable(self, reason: str, *, elsewhere: bool) -> None:
        """This host could not connect to anybody: no failure of the OPA's."""
        question, self._question = self._question, None
        self.up = None
        if question is not None:
            question.work = None
            self._place.probing = False
            question.fail(f"this agent cannot connect: {reason}")

    def on_timeout(self, *, connecting: bool) -> None:
        """It took longer than its time."""
        self._fail(f"{self._named()} does not answer in time")

    def on_bad_response(self, reason: str) -> None:
        """What cannot be read in one way only."""
        self._fail(f"{self._named()} gives a broken answer: {reason}")

    def give_up(self) -> None:
        """Its time is over, by the question's own clock: that is the OPA's doing."""
        if self._question is None:
            return
        self._question = None
        self._place.failed(f"{self._named()} does not answer in time", self._pool.reactor.now)
        self._cut()

    def _fail(self, reason: str) -> None:
        question, self._question = self._question, None
        self._cut()
        if question is not None:
            question.work = None
            self._place.failed(reason, self._pool.reactor.now)
            question.fail(reason)

    def _cut(self) -> None:
        up, self.up = self.up, None
        if up is not None:
            up.cut()

    def _named(self) -> str:
        return f"the OPA at {self._place.dial[0]}:{self._place.dial[1]}"


def decided(judge: Judge, body: bytes) -> tuple[bool, str, bool]:
    """Whether an answer allows, why, and whether it says neither."""
    try:
        said: Any = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        return False, f"an answer that is no JSON: {error}", True
    if not isinstance(said, dict):
        return False, "an answer that is no object", True
    id = said.get("decision_id")
    noted = f" (decision {id[:MOST_ID]})" if isinstance(id, str) and id.isprintable() else ""
    result = said.get("result")
    if "result" not in said:
        return False, f"{judge.path} is undefined{noted}", False
    if not isinstance(result, bool):
        return False, f"{judge.path} is neither true nor false{noted}", True
    return result, f"{judge.path} is {'true' if result else 'false'}{noted}", False
