"""A question whose answers can be merged, to as many agents as there are: some ask others, and merge on the way.

Law: nothing is left out without a word, and nobody is asked in vain because of somebody else. An agent in the middle
that is gone, hangs, is of a version that knows no relays, or says what makes no sense, is asked around: those that it
was to ask are asked directly, in the time that is left.

Up to DIRECT agents are asked directly, each for itself. In a tree whoever is in the middle is believed about those that
it asked, as agents are believed about requests that they hand on: it is an agent, proven as such, and what it could
make up are figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from hashlib import blake2b
from typing import Any, Final, Generic, NamedTuple, TypeVar, get_args

import msgspec
import structlog
import trio

from agent import questions
from agent.control.asking.answering import Asker, Refusal
from agent.control.asking.fanout import Fanout, Missing, Why
from agent.control.identity.way import NoAnswer, TooLarge, TooLate
from agent.questions import RELAY, NotHeard, Question, Relay, Relayed

DIRECT: Final = 48
"""Agents that are asked without anybody between."""
BRANCHES: Final = 16
"""Agents that others are asked by way of."""
MOST_LEAVES: Final = 250
"""That one agent asks for another."""
MOST_BYTES: Final = 1024 * 1024
"""That who asks reads, of all answers by way of others."""
QUICK_BYTES: Final = 64 * 1024
"""Answers of so many are merged without a thread: some ten milliseconds."""
_LEAVES: Final = 0.45
"""Which part of the time the agents in the middle have, for those that they ask ..."""
_MIDDLE: Final = 0.6
"""... and to be through with it; what is left is for asking around them."""
log = structlog.get_logger()
Q = TypeVar("Q")
A = TypeVar("A")
T = TypeVar("T")


class Merged(NamedTuple, Generic[A]):
    """What came of a question."""

    answer: A | None
    """Of all that were heard; None: nobody was."""
    heard: int
    missing: dict[str, Missing]
    """By host, sorted."""
    size_bytes: int
    """Of what was read from others."""

    @property
    def asked(self) -> int:
        """How many agents were."""
        return self.heard + len(self.missing)


class Tree:
    """One agent's."""

    def __init__(self, fanout: Fanout) -> None:
        self._fanout = fanout
        fanout.answering.register(RELAY, self._relay)

    async def ask(
        self, question: Question[Q, A], asked: Q, deadline_s: float, hosts: Collection[str] | None = None
    ) -> Merged[A]:
        """Every agent that lives, or those of `hosts`; returns after `deadline_s` at the latest. What `question.merge`
        gets wrong is raised."""
        fanout = self._fanout
        wanted = fanout.wanted(hosts)
        others = sorted(wanted - {fanout.host}, key=lambda host: _rank(fanout.host, host))
        asking = _Asking(fanout, question, asked, deadline_s)
        if len(others) <= DIRECT:
            await asking.directly(wanted)
        else:
            branches = max(BRANCHES, math.ceil(len(others) / MOST_LEAVES))
            async with trio.open_nursery() as nursery:
                if fanout.host in wanted:
                    nursery.start_soon(asking.directly, {fanout.host})
                for branch in range(branches):
                    nursery.start_soon(asking.by_way_of, *_headed(others[branch::branches]), branches)
        return await asking.told(wanted)

    async def _relay(self, relay: Relay, _: Asker) -> Relayed:
        """Ask others for another agent. Raises Refusal."""
        question = self._fanout.answering.question(relay.path)
        if question is None or question.merge is None:
            raise Refusal(404, f"nothing that is merged is known here of {relay.path[:60]}")
        asked: Any = questions.read(relay.body, question.asks)
        if isinstance(asked, str):
            raise Refusal(400, asked)
        hosts = {*relay.hosts[:MOST_LEAVES], self._fanout.host}
        told = await self._fanout.ask_all(question, asked, relay.timeout_s, hosts)
        body = await _aside(told.size_bytes, _encoded, question.merge, asked, list(told.answers.values()))
        if len(body) > relay.most_bytes:
            raise Refusal(413, f"{len(body)} bytes, and {relay.most_bytes} are read; ask for less")
        return Relayed(body, {host: NotHeard(each.why, each.reason) for host, each in told.missing.items()})


def _rank(asks: str, host: str) -> bytes:
    """So that not all who ask have the same agents ask for them."""
    return blake2b(f"{asks}\n{host}".encode(), digest_size=8).digest()


def _headed(hosts: list[str]) -> tuple[str, list[str]]:
    return hosts[0], hosts[1:]


class _Asking(Generic[Q, A]):
    """One question, while it is asked."""

    def __init__(self, fanout: Fanout, question: Question[Q, A], asked: Q, deadline_s: float) -> None:
        self._fanout = fanout
        self._question = question
        self._asked = asked
        self._deadline_s = min(deadline_s, questions.PATIENT_S)
        self._ends = trio.current_time() + self._deadline_s
        self._answers: list[A] = []
        self._missing: dict[str, Missing] = {}
        self._heard: set[str] = set()
        self._size_bytes = 0

    async def directly(self, hosts: Collection[str]) -> None:
        """Each for itself."""
        left_s = self._ends - trio.current_time()
        told = await self._fanout.ask_all(self._question, self._asked, max(0.0, left_s), hosts)
        self._answers += told.answers.values()
        self._heard.update(told.answers)
        self._missing |= told.missing
        self._size_bytes += told.size_bytes

    async def by_way_of(self, head: str, leaves: list[str], branches: int) -> None:
        """By way of one of them."""
        if not leaves:
            await self.directly({head})
            return
        question, most = self._question, min(self._question.most_bytes, MOST_BYTES // branches)
        body = msgspec.msgpack.encode(self._asked)
        relay = Relay(question.path, body, leaves, _LEAVES * self._deadline_s, most)
        around = {head, *leaves}
        try:
            status, told = await self._fanout.ask(
                head, RELAY.path, msgspec.msgpack.encode(relay), _MIDDLE * self._deadline_s, most + len(leaves) * 512
            )
        except TooLate as late:
            self._missing[head] = Missing("late", str(late))
            around.remove(head)  # it has had its time
        except TooLarge:
            pass  # what it says of all of them; what each says may be less
        except NoAnswer as no:
            self._missing[head] = Missing("unreachable", str(no))
            around.remove(head)
        except Exception:  # one host must not cost the answers of the others
            log.exception("a question by way of another agent failed", host=head, path=question.path)
        else:
            if status == 200:
                around = self._take(told, around)
        if around:
            await self.directly(around)

    def _take(self, told: bytes, hosts: set[str]) -> set[str]:
        """What an agent in the middle has told; who is to be asked directly still."""
        self._size_bytes += len(told)
        relayed = questions.read(told, Relayed)
        if isinstance(relayed, str):
            return hosts
        answer: Any = questions.read(relayed.answer, self._question.answer)
        if not isinstance(answer, self._question.answer):
            return hosts
        missing = {host: each for host, each in relayed.missing.items() if host in hosts}
        again = {host for host, each in missing.items() if each.why not in ("late", "refused", "too_large", "older")}
        if len(missing) < len(hosts):
            self._answers.append(answer)
        self._heard |= hosts - missing.keys()
        self._missing |= {host: _missing(each) for host, each in missing.items() if host not in again}
        return again

    async def told(self, wanted: Collection[str]) -> Merged[A]:
        """All in one. `wanted`: who was to be asked."""
        merge = self._question.merge
        assert merge is not None, "answers to it cannot be merged"
        for host in set(wanted) - self._heard - self._missing.keys():
            self._missing[host] = Missing("late", f"no answer within {self._deadline_s:.3g} s")
        missing = {host: each for host, each in sorted(self._missing.items()) if host not in self._heard}
        self._fanout.count(len(wanted), missing)
        size_bytes = self._size_bytes
        answer = await _aside(size_bytes, merge, self._asked, self._answers) if self._answers else None
        return Merged(answer, len(self._heard), missing, size_bytes)


async def _aside(size_bytes: int, merge: Callable[..., T], *answers: Any) -> T:
    """In a thread, where so much was read that the loop would stand still."""
    return merge(*answers) if size_bytes < QUICK_BYTES else await trio.to_thread.run_sync(merge, *answers)


def _encoded(merge: Callable[[Any, list[Any]], Any], asked: Any, answers: list[Any]) -> bytes:
    return msgspec.msgpack.encode(merge(asked, answers))


def _missing(told: NotHeard) -> Missing:
    why: Any = told.why if told.why in get_args(Why) else "failed"
    return Missing(why, told.reason[: questions.MAX_WORDS * 2])
