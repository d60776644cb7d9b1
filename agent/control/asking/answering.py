"""Answers to what other agents ask on behalf of people: a registry of questions, each with who answers it.

    answering.register(AUDIT, answer_audit)        # async (AuditQuery, Asker) -> AuditAnswer

Laws
- An answer changes nothing, and shows what the person who asked may see: the agent that he asked has judged that.
- MAX_AT_ONCE are worked on, whoever asks; beyond it the answer is 503 at once, so that people's questions take no
  place from those that agents have of their own.
- What fails at a question is the answer to it, never the agent's end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import msgspec
import structlog
import trio

import agent
from agent import questions
from agent.frames import Peer
from agent.identity.spiffe import parse_id
from agent.questions import Question
from agent.trust import canonical
from registry.records import Agent

MAX_AT_ONCE: Final = 32
Q = TypeVar("Q")
A = TypeVar("A")
Reply: TypeAlias = Callable[[int, bytes], None]
log = structlog.get_logger()


class Asker(NamedTuple):
    """Which agent asks."""

    host: str
    """Its host: proven, or by the address where it is registered; empty where several may be there."""
    proven: bool
    """Whether a certificate says so."""


class Refusal(Exception):
    """Why a question is not answered, in words for the person who asked."""

    def __init__(self, status: int, reason: str) -> None:
        """`status`: 400 where something else would be answered, 403, 503 where it would be later."""
        super().__init__(reason)
        self.status = status


class _Known(NamedTuple):
    question: Question[Any, Any]
    answer: Callable[[Any, Asker], Awaitable[Any]]


class Answering:
    """One agent's registry. Questions are registered while the agent is made, before it starts."""

    def __init__(self, host: str, agents: Mapping[str, Agent]) -> None:
        """`agents`: those that live, by host, as they are known now."""
        self._host = host
        self._agents = agents
        self._known: dict[str, _Known] = {}
        self._working = 0
        self._nursery: trio.Nursery | None = None

    def register(self, question: Question[Q, A], answer: Callable[[Q, Asker], Awaitable[A]]) -> None:
        """Who answers a question. `answer` may take as long as it needs: who asks has a deadline. Raises ValueError for
        one that is registered already, or is not named among those that this version tells the mesh that it knows."""
        if question.path in self._known:
            raise ValueError(f"{question.path} is registered already")
        if question.path not in questions.PATHS:
            raise ValueError(f"{question.path} is to stand in agent.questions.PATHS, as what this version knows")
        self._known[question.path] = _Known(question, answer)

    def question(self, path: str) -> Question[Any, Any] | None:
        """One that is answered here."""
        known = self._known.get(path)
        return known.question if known is not None else None

    def asked(self, told: Peer, reply: Reply) -> None:
        """Another agent asks; it is answered now or later."""
        known = self._known.get(told.path)
        if known is None:
            reply(404, questions.not_known(told.path, agent.VERSION))
        elif self._nursery is None or self._working >= MAX_AT_ONCE:
            reply(503, f"this agent answers {MAX_AT_ONCE} questions already; ask again".encode())
        else:
            self._working += 1
            self._nursery.start_soon(self._work, known, told, reply)

    async def here(self, question: Question[Q, A], asked: Q) -> A:
        """This agent's own answer. Raises Refusal."""
        answer: A = await self._known[question.path].answer(asked, Asker(self._host, True))
        return answer

    async def run(self) -> None:
        """Work, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    async def _work(self, known: _Known, told: Peer, reply: Reply) -> None:
        try:
            with trio.fail_after(questions.PATIENT_S):
                reply(*await self._answered(known, told))
        except trio.TooSlowError:
            reply(503, f"this agent has no answer within {questions.PATIENT_S:g} s".encode())
        except Exception:
            log.exception("a question was not answered", path=told.path, address=told.address)
            reply(500, b"this agent failed at that question, see its log")
        finally:
            self._working -= 1

    async def _answered(self, known: _Known, told: Peer) -> tuple[int, bytes]:
        asked = questions.read(told.body, known.question.asks)
        if isinstance(asked, str):
            return 400, asked.encode("utf-8", "replace")
        try:
            answer = await known.answer(asked, self._asker(told))
        except Refusal as refusal:
            return refusal.status, str(refusal).encode("utf-8", "replace")
        if known.question.merge is None:
            body = await trio.to_thread.run_sync(partial(msgspec.msgpack.encode, answer))
        else:  # short: what is merged is, else it would be none of a thousand agents'
            body = msgspec.msgpack.encode(answer)
        if len(body) > known.question.most_bytes:
            return 413, f"{len(body)} bytes, and {known.question.most_bytes} are read; ask for less".encode()
        return 200, body

    def _asker(self, told: Peer) -> Asker:
        if told.identity:
            try:
                return Asker(parse_id(told.identity).host, True)
            except ValueError:
                return Asker("", False)
        at = canonical(told.address)
        hosts = [host for host, record in self._agents.items() if canonical(record.address) == at]
        return Asker(hosts[0] if len(hosts) == 1 else "", False)
