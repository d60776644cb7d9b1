# mypyc: compiled
"""A question to somebody outside of the worker (Rego's evaluator, an OPA), and those who wait for its answer.

Laws
- Who asks the same is answered by the same: a question that is open is joined.
- A question has a deadline of its own, whoever is silent. Who waits may leave at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from agent.proxy.engine.reactor import Timed
from policies.kinds.authz.judge import Answer, Asked, Judge

Waiter: TypeAlias = Callable[[Judge, Asked | None, Answer | None], None]
"""Who waits: is called once it has come. No answer: it is known by now what has to be told; ask again."""


class Asker:
    """How those of a kind are asked."""

    __slots__ = ("forget", "hindrance", "prepare", "send")

    def __init__(
        self,
        hindrance: Callable[[Judge, float], str],
        send: Callable[[Question], None],
        forget: Callable[[Question], None],
        prepare: Callable[[Judge], None],
    ) -> None:
        self.hindrance = hindrance
        """Why somebody is not even asked now (monotonic); empty: he is."""
        self.send = send
        """Ask. It ends with `Book.answer`, now or later, or by its deadline."""
        self.forget = forget
        """It is over, however it ended."""
        self.prepare = prepare
        """Somebody will be asked."""


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
