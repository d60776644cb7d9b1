# mypyc: compiled
"""What agents say to each other: small questions that come in by the inbound listener and are answered by control.

They share its port, so that there is nothing more to open in a firewall, and whatever secures it secures them. Agents
only may ask: everybody else is refused before any of the question is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent import questions
from agent.frames import Peer
from agent.proxy.control.waiting import Waiting
from agent.proxy.messages import answers
from agent.proxy.messages.answers import Refusal
from agent.proxy.messages.head import RequestHead
from agent.proxy.report.stats import count
from agent.proxy.stream import RequestHandler, Stream

HOST: Final = questions.HOST.encode()
JOIN: Final = b"/join"
"""All that may be asked by who has nothing to show."""
SIGN: Final = b"/sign"
"""And by a person: the next certificate."""
MAX_BYTES: Final = 64 * 1024
MAX_ASKED: Final = 256
ANSWER_S: Final = 5.0
ASK: Final = questions.ASK.encode()
ERASE: Final = questions.ERASE.encode()


class Peers:
    """Questions that wait for control's answer."""

    __slots__ = ("_asked", "_send", "answer_s", "here", "patient_s", "proven_only", "refused")

    def __init__(self, refused: dict[str, int]) -> None:
        self._asked: Waiting[Question] = Waiting(MAX_ASKED)
        self.answer_s = ANSWER_S
        self.patient_s = questions.PATIENT_S
        """For what a person wants to know."""
        self.proven_only = False
        """Whether an address makes nobody an agent."""
        self.refused = refused
        """Counts of the worker's, by policy."""
        self._send: Callable[[Peer], None] | None = None
        self.here: dict[bytes, Callable[[Question, bytes], None]] = {}
        """Questions that the worker answers by itself, now or later, by path; ValueError: it makes no sense."""

    def connect(self, send: Callable[[Peer], None]) -> None:
        """Where frames for control go."""
        self._send = send

    def ask(self, question: Question, body: bytes) -> int:
        """Pass a whole question on; its answer comes by `answer`, or never, and then its deadline does. Returns its
        number, or 0 when it cannot be asked."""
        if self._send is None or len(body) > MAX_BYTES:
            return 0
        number = self._asked.add(question)
        if number:
            path = question.request.target.decode("latin-1")
            self._send(Peer(number, path, body, question.address, question.identity))
        return number

    def answer(self, number: int, status: int, body: bytes) -> None:
        """Control's answer."""
        question = self._asked.take(number)
        if question is not None:
            question.answer(status, body)

    def forget(self, number: int) -> None:
        """The question ended before its answer."""
        self._asked.forget(number)


class Question(RequestHandler):
    """Another agent asks this one something. It goes to no service, and meets no phase."""

    __slots__ = ("_body", "_down", "_number", "_peers", "_request_id", "_size", "_started", "address", "identity")

    def __init__(self, peers: Peers, down: Stream, request: RequestHead, request_id: bytes) -> None:
        super().__init__(request)
        self._peers = peers
        self._down = down
        self._request_id = request_id
        self._body: list[bytes] = []
        self._size = 0
        self._number = 0
        self._started = down.reactor.now
        self.address = down.peer.address
        """Where it comes from."""
        identity = down.peer.identity
        self.identity = "" if identity is None else str(identity.id)
        """Who asks, where that is proven."""

    def start(self) -> None:
        """Ask, as soon as it is whole."""
        peer = self._down.peer
        if peer.joins:
            may = self.request.target == JOIN
        elif peer.person:
            may = self.request.target == SIGN and not peer.called
        else:
            may = peer.agent and not peer.called and (peer.identity is not None or not self._peers.proven_only)
        if not may:
            self._refuse(Refusal(403, "agent", "agents of this mesh may ask that, from where they are registered"))
            return
        patient = self.request.target.startswith(ASK) or self.request.target == ERASE
        self._down.arm(self._started + (self._peers.patient_s if patient else self._peers.answer_s))
        if self.request_sent:
            self._ask()

    def on_request_data(self, data: bytes) -> None:
        """A piece of the question."""
        self._size += len(data)
        if self._size > MAX_BYTES:
            self._refuse(Refusal(413, "agent", f"a question of more than {MAX_BYTES} bytes"))
        else:
            self._body.append(data)

    def on_request_end(self, trailers: list[bytes]) -> None:
        """It has come whole."""
        self.request_sent = True
        self._ask()

    def _ask(self) -> None:
        body = b"".join(self._body)
        answer = self._peers.here.get(self.request.target)
        if answer is not None:
            try:
                answer(self, body)
            except ValueError as error:
                self._refuse(Refusal(400, "agent", str(error)))
            return
        self._number = self._peers.ask(self, body)
        if not self._number:
            self._refuse(Refusal(503, "agent", "this agent cannot take that question now", 1, unsent=True))

    def answer(self, status: int, body: bytes) -> None:
        """Control's answer."""
        kind = b"application/msgpack" if status == 200 else b"text/plain; charset=utf-8"
        self._send(status, [b"content-type: %b\r\n" % kind], body)

    def on_bad_request(self, status: int, reason: str) -> None:
        """The rest cannot be read in one way only."""
        self._refuse(Refusal(status, "http", reason))

    def on_client_timeout(self) -> None:
        """Control is silent, or the question did not come whole."""
        self._refuse(Refusal(504, "agent", "no answer in time"))

    def on_client_gone(self) -> None:
        """Nobody waits for the answer."""
        self._end()

    def _refuse(self, refusal: Refusal) -> None:
        count(self._peers.refused, refusal.policy)
        self._send(refusal.status, answers.refusal_fields(refusal), answers.refusal_body(refusal, self._request_id))

    def _send(self, status: int, fields: list[bytes], body: bytes) -> None:
        if not self.over:
            self._down.send_own(status, fields, body)
            self._end()

    def _end(self) -> None:
        if not self.over:
            self.over = True
            self._peers.forget(self._number)
            self._down.on_handler_end()
