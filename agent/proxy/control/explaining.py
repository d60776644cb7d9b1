# mypyc: compiled
"""Explanations that are known later, as where a rule is evaluated elsewhere: to control, or to another agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from agent import frames
from agent.frames import ToControl
from agent.proxy.control.peers import Question


class LaterAnswer:
    """What control asked for, which may be known now or later."""

    __slots__ = ("_answer", "_id", "_late", "_send")

    def __init__(self, id: int, send: Callable[[ToControl], None] | None) -> None:
        self._id = id
        self._send = send
        self._answer: list[ToControl] = []
        self._late = False

    def take(self, value: dict[str, Any]) -> None:
        """It is known."""
        answer = frames.Answer(self._id, value)
        if not self._late:
            self._answer.append(answer)
        elif self._send is not None:
            self._send(answer)

    def now(self) -> list[ToControl]:
        """What is known now; the rest is sent."""
        self._late = True
        return self._answer


class PeerExplained:
    """An explanation for another agent."""

    __slots__ = ("_question",)

    def __init__(self, question: Question) -> None:
        self._question = question

    def take(self, value: dict[str, Any]) -> None:
        """It is known."""
        self._question.answer(200, msgspec.msgpack.encode(value))
