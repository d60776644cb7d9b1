# mypyc: compiled
"""Whom `authz` documents have requests ask besides their rules, and what they have said. Of one worker.

Laws
- What goes wrong is an answer too: that there is none. Nobody waits for longer than his document says.
- Open questions are bounded; who comes when there are too many is not answered.
"""

from __future__ import annotations

from typing import Any, Final

from agent.proxy.engine.reactor import Reactor
from agent.proxy.judges.question import Asker, Book, Question, Waiter
from policies.kinds.authz.judge import OPA, REGO, Answer, Asked, Judge

MOST_OPEN: Final = 1024


class Judges(Book):
    """All of them."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._open: dict[tuple[int, Asked | None], Question] = {}
        """By the judge's identity: it lives as long as its question, which refers to it."""
        self._number = 0
        self.rego: Asker | None = None
        self.opa: Asker | None = None
        self.started = 0
        """How many processes were, that evaluate Rego."""
        self.seconds: dict[str, float] = {}
        """By who was asked: how long answers took, all together."""
        self.answered: dict[str, int] = {}
        """How many there were."""
        self.failed: dict[str, int] = {}
        """Questions without an answer."""

    def __len__(self) -> int:
        return len(self._open)

    def as_frame(self) -> dict[str, Any]:
        """What `ask metrics` answers."""
        found: dict[str, Any] = {"open": len(self._open), "started": self.started}
        for who in (REGO, OPA):
            found[f"{who}_answers"] = self.answered.get(who, 0)
            found[f"{who}_failed"] = self.failed.get(who, 0)
            found[f"{who}_seconds"] = self.seconds.get(who, 0.0)
        return found

    def ask(self, judge: Judge, asked: Asked | None, waiter: Waiter | None) -> Answer | None:
        """Ask, or join who has asked already; the waiter hears of it. An answer: at once, and he does not."""
        now = self._reactor.now
        place = (id(judge), asked)
        question = self._open.get(place)
        if question is None:
            asker = self.rego if judge.who == REGO else self.opa
            reason = "nobody is there who could be asked" if asker is None else asker.hindrance(judge, now)
            if not reason and len(self._open) >= MOST_OPEN:
                reason = f"{MOST_OPEN} questions are open already"
            if reason:
                return self._count(judge, judge.answer(False, reason, failed=True))
            assert asker is not None
            self._number += 1
            question = self._open[place] = Question(self, judge, asked, self._number, now)
            self._reactor.wheel.arm(question, now + judge.timeout_s)
            if waiter is not None:
                question.waiters.append(waiter)
            asker.send(question)
        elif waiter is not None:
            question.waiters.append(waiter)
        return None

    def prepare(self, judge: Judge) -> None:
        """He will be asked."""
        asker = self.rego if judge.who == REGO else self.opa
        if asker is not None:
            asker.prepare(judge)

    def _count(self, judge: Judge, answer: Answer) -> Answer:
        if answer.failed:
            self.failed[judge.who] = self.failed.get(judge.who, 0) + 1
        return answer

    def answer(self, question: Question, answer: Answer | None) -> None:
        """A question is answered; None: it is known by now what has to be told."""
        if question.over:
            return
        question.over = True
        judge, asked, now = question.judge, question.asked, self._reactor.now
        self._open.pop((id(judge), asked), None)
        self._reactor.wheel.forget(question)
        asker = self.rego if judge.who == REGO else self.opa
        if asker is not None:
            asker.forget(question)
        if answer is not None:
            self._count(judge, answer)
            if not answer.failed:
                self.answered[judge.who] = self.answered.get(judge.who, 0) + 1
                self.seconds[judge.who] = self.seconds.get(judge.who, 0.0) + max(0.0, now - question.began)
            if asked is not None:
                judge.remember(asked, answer, now)
        waiters, question.waiters = question.waiters, []
        for waiter in waiters:
            waiter(judge, asked, answer)
