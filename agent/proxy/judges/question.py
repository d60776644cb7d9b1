# mypyc: compiled
"""A question to somebody outside of the worker (Rego's evaluator, an OPA), and those who wait for its answer.

Laws
- Who asks the same is answered by the same: a question that is open is joined.
- A question has a deadline of its own, whoever is silent. Who waits may leave at any time.
"""

from __future__ import annotations

from typing import Any

from agent.proxy.engine.reactor import Timed
from policies.kinds.authz.judge import Answer, Asked, Judge


class Waiter:
    """Who waits."""

    __slots__ = ()

    def on_answer(self, judge: Judge, asked: Asked | None, answer: Answer | None) -> None:
        """It has come. None: it is known by now what has to be told; ask again."""
        raise NotImplementedError


class Asker:
    """Who asks somebody of a kind."""

    __slots__ = ("started",)

    def __init__(self) -> None:
        self.started = 0
        """How many processes were, that answer."""

    def hindrance(self, judge: Judge, now: float) -> str:
        """Why he is not even asked now; empty: he is."""
        raise NotImplementedError

    def send(self, question: Question) -> None:
        """Ask. It ends with `Book.answer`, now or later, or by its deadline."""
        raise NotImplementedError

    def forget(self, question: Question) -> None:
        """Nobody waits for it any more, or its time is over."""
        raise NotImplementedError

    def prepare(self, judge: Judge) -> None:
        """He will be asked."""


class Book:
    """Open questions."""

    def answer(self, question: Question, answer: Answer | None) -> None:
        """One is answered; None: it is known by now what has to be told."""
        raise NotImplementedError


class Question(Timed):
    """One that is open."""

    __slots__ = ("_book", "asked", "began", "judge", "number", "over", "tries", "waiters", "work")

    def __init__(self, book: Book, judge: Judge, asked: Asked | None, number: int, now: float) -> None:
        super().__init__()
        self._book = book
        self.judge = judge
        self.asked = asked
        """None: it is asked what has to be told."""
        self.number = number
        self.began = now
        self.over = False
        self.tries = 0
        self.waiters: list[Waiter] = []
        self.work: Any = None
        """Of who asks."""

    def told(self) -> dict[str, Any]:
        """What makes `input`."""
        inputs, asked = self.judge.inputs, self.asked
        assert inputs is not None and asked is not None
        return inputs.document(asked[1])

    def fail(self, reason: str) -> None:
        """There is no answer."""
        if not self.over:
            self._book.answer(self, self.judge.answer(False, reason, failed=True))

    def say(self, allows: bool, reason: str) -> None:
        """The answer."""
        if not self.over:
            self._book.answer(self, self.judge.answer(allows, reason))

    def learnt(self) -> None:
        """It is known what has to be told."""
        if not self.over:
            self._book.answer(self, None)

    def on_deadline(self, now: float) -> None:
        """It took too long."""
        self.fail(f"no answer within {self.judge.timeout_s:g} s")
