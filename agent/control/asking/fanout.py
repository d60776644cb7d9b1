"""One question to every agent of the mesh, and what came of it: answers by host, and who is missing and why.

Laws
- Who is asked for the mesh is told who did not answer. Nothing is left out without a word.
- What was waited for in vain costs the deadline and no more, however many agents hang: MAX_AT_ONCE are asked at a time,
  and where there are more, each has its part of the time.
- Who answers is judged as an agent before it is heard (`agent.control.traffic.peers`). What it says of its own host is
  believed, and of nothing else.

At 1,000 agents who asks has 1,000 connections: where answers can be merged on their way, `tree` asks instead.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Final, Generic, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec
import structlog
import trio

from agent import questions
from agent.control.asking.answering import Answering, Refusal
from agent.control.identity.way import NoAnswer, TooLarge, TooLate
from agent.questions import Question
from registry.records import Agent

MAX_AT_ONCE: Final = 512
"""Agents that are asked at the same time."""
MOST_BYTES: Final = 64 * 1024 * 1024
"""Of all answers to one question."""
log = structlog.get_logger()
Q = TypeVar("Q")
A = TypeVar("A")
Why: TypeAlias = Literal["late", "refused", "older", "unreachable", "too_large", "failed", "no_agent"]


class Missing(NamedTuple):
    """Why a host's answer is not there."""

    why: Why
    """`older`: its version does not know the question. `failed`: it answers what makes no sense. `no_agent`: none of
    that name lives."""
    reason: str
    """In words."""


class Told(NamedTuple, Generic[A]):
    """What came of a question."""

    answers: dict[str, A]
    """By host, sorted."""
    missing: dict[str, Missing]
    """Likewise."""
    size_bytes: int = 0
    """Of what was read from others."""

    @property
    def whole(self) -> bool:
        """Whether every agent that was asked has answered."""
        return not self.missing


class Ask(Protocol):
    """`Peers.ask`."""

    async def __call__(
        self, host: str, path: str, body: bytes, timeout_s: float, most_bytes: int = ...
    ) -> tuple[int, bytes]:
        """Status and body. Raises NoAnswer."""
        ...


class Fanout:
    """One agent's, which asks itself as well, without a network between."""

    def __init__(self, host: str, agents: Mapping[str, Agent], ask: Ask, answering: Answering) -> None:
        """`agents`: those that live, by host, as they are known now."""
        self.host = host
        self._agents = agents
        self.ask = ask
        self.answering = answering
        self.asked = 0
        """Questions, each of them of one host."""
        self.unanswered: dict[str, int] = {}
        """Of them, by why."""

    async def ask_all(
        self, question: Question[Q, A], asked: Q, deadline_s: float, hosts: Collection[str] | None = None
    ) -> Told[A]:
        """Every agent that lives, or those of `hosts`, this one among them; returns after `deadline_s` at the latest,
        which is at most `questions.PATIENT_S`."""
        wanted = self.wanted(hosts)
        asking = _Asking(question, asked)
        for host in wanted - set(self._agents) - {self.host}:
            asking.missing[host] = Missing("no_agent", "no such agent lives in this mesh")
        others = sorted(wanted & set(self._agents) - {self.host})
        with trio.move_on_after(min(deadline_s, questions.PATIENT_S)):
            async with trio.open_nursery() as nursery:
                if self.host in wanted:
                    nursery.start_soon(self._ask_here, asking)
                nursery.start_soon(self._ask_others, asking, others, deadline_s)
        for host in [*others, self.host]:
            if host in wanted and host not in asking.answers and host not in asking.missing:
                asking.missing[host] = Missing("late", f"no answer within {deadline_s:.3g} s")
        if question.merge is None:
            self.count(len(wanted), asking.missing)
        size_bytes = MOST_BYTES - asking.room_bytes
        return Told(dict(sorted(asking.answers.items())), dict(sorted(asking.missing.items())), size_bytes)

    def wanted(self, hosts: Collection[str] | None) -> set[str]:
        """Who is to be asked; None: all that live, and this one."""
        return set(self._agents) | {self.host} if hosts is None else set(hosts)

    async def _ask_here(self, asking: _Asking[Q, A]) -> None:
        try:
            asking.answers[self.host] = await self.answering.here(asking.question, asking.asked)
        except Refusal as refusal:
            asking.missing[self.host] = Missing("refused", str(refusal))
        except Exception as error:
            log.exception("a question to all agents failed here", path=asking.question.path)
            asking.missing[self.host] = Missing("failed", f"{type(error).__name__}, see this agent's log")

    async def _ask_others(self, asking: _Asking[Q, A], hosts: list[str], deadline_s: float) -> None:
        """As many at a time as may be; each has its part of the time, so that those that hang take none of others'."""
        rounds = max(1, math.ceil(len(hosts) / MAX_AT_ONCE))
        ahead = iter(hosts)

        async def one_after_the_other() -> None:
            for host in ahead:
                await self._ask_one(asking, host, deadline_s / rounds)

        async with trio.open_nursery() as nursery:
            for _ in range(min(MAX_AT_ONCE, len(hosts))):
                nursery.start_soon(one_after_the_other)

    async def _ask_one(self, asking: _Asking[Q, A], host: str, timeout_s: float) -> None:
        question = asking.question
        most = min(question.most_bytes, asking.room_bytes)
        try:
            status, body = await self.ask(host, question.path, asking.body, timeout_s, most)
        except TooLate as late:
            asking.missing[host] = Missing("late", str(late))
        except TooLarge as large:
            asking.missing[host] = Missing("too_large", f"{large}; ask for less")
        except NoAnswer as no:
            asking.missing[host] = Missing("unreachable", str(no))
        except Exception as error:  # one host must not cost the answers of the others
            log.exception("a question to another agent failed", host=host, path=question.path)
            asking.missing[host] = Missing("failed", f"{type(error).__name__}, see this agent's log")
        else:
            asking.hear(host, status, body)

    def count(self, asked: int, missing: dict[str, Missing]) -> None:
        """So many hosts were asked, and some of them did not answer."""
        self.asked += asked
        for each in missing.values():
            self.unanswered[each.why] = self.unanswered.get(each.why, 0) + 1


class _Asking(Generic[Q, A]):
    """One question, while it is asked."""

    def __init__(self, question: Question[Q, A], asked: Q) -> None:
        self.question = question
        self.asked = asked
        self.body = msgspec.msgpack.encode(asked)
        self.answers: dict[str, A] = {}
        self.missing: dict[str, Missing] = {}
        self.room_bytes = MOST_BYTES

    def hear(self, host: str, status: int, body: bytes) -> None:
        """What a host answered."""
        if len(body) > self.room_bytes:
            self.missing[host] = Missing("too_large", f"all answers have more than {MOST_BYTES} bytes; ask for less")
            return
        self.room_bytes -= len(body)
        if status == 200:
            found: Any = questions.read(body, self.question.answer)
            if isinstance(found, self.question.answer):
                self.answers[host] = found
            else:
                self.missing[host] = Missing("failed", f"what it answers makes no sense: {found}")
        elif status == 404:
            self.missing[host] = Missing("older", questions.refused(status, body))
        elif status == 413:
            self.missing[host] = Missing("too_large", questions.refused(status, body))
        else:
            self.missing[host] = Missing("refused", questions.refused(status, body))
