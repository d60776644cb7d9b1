# mypyc: compiled
"""Requests that wait until their audit record is on disk.

Law: whoever waits is answered once: by control, by WORD_S, or because control is gone. What is not known to be on disk
counts as not recorded. While control is executed anew its successor answers, and there is more time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from agent.audit.draft import Said
from agent.frames import Audited
from agent.proxy.control.waiting import Waiting
from agent.proxy.engine.reactor import Reactor, Timed
from policies.claim import as_text

MAX_WAITING: Final = 4096
WORD_S: Final = 2.0
AWAY_S: Final = 30.0
"""The same while control is executed anew."""
GONE: Final = "control is gone"
BUSY: Final = "too many requests wait for their records"


class Word(Timed):
    """Somebody who waits."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        """0: it does not wait."""

    def on_recorded(self, reason: str) -> None:
        """It is on disk; or why nobody knows that it is."""
        raise NotImplementedError


class Recordings:
    """Of one worker."""

    __slots__ = ("_encode", "_reactor", "_send", "_waiting", "_word_s")

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._waiting: Waiting[Word] = Waiting(MAX_WAITING)
        self._send: Callable[[Audited], bool] | None = None
        self._encode: Any = msgspec.json.Encoder(enc_hook=as_text).encode
        self._word_s = WORD_S

    def connect(self, send: Callable[[Audited], bool] | None) -> None:
        """Where frames for control go; None once it is gone."""
        self._send = send
        if send is None:
            for word in self._waiting.all():
                self._end(word, GONE)

    def be_patient(self, *, patient: bool) -> None:
        """Control is executed anew; or, not `patient`, its successor speaks."""
        self._word_s = AWAY_S if patient else WORD_S
        if patient:
            for word in self._waiting.each():
                self._reactor.wheel.arm(word, self._reactor.now + AWAY_S)

    def ask(self, word: Word, said: Said) -> str:
        """Have something recorded; why it is not even asked for: then nothing comes."""
        if self._send is None:
            return GONE
        number = self._waiting.add(word)
        if not number:
            return BUSY
        word.number = number
        if not self._send(Audited(1, self._encode(said) + b"\n", id=number)):
            self.forget(word)
            return BUSY
        self._reactor.wheel.arm(word, self._reactor.now + self._word_s)
        return ""

    def answer(self, number: int, reason: str) -> None:
        """Control's word; empty: it is on disk."""
        word = self._waiting.take(number)
        if word is not None:
            self._end(word, reason)

    def late(self, word: Word) -> None:
        """Control says nothing."""
        if word.number:
            self._waiting.forget(word.number)
            self._end(word, f"no word of it within {self._word_s:g} s")

    def _end(self, word: Word, reason: str) -> None:
        self.forget(word)
        word.on_recorded(reason)

    def forget(self, word: Word) -> None:
        """It waits no longer."""
        if word.number:
            self._waiting.forget(word.number)
            word.number = 0
            self._reactor.wheel.forget(word)
