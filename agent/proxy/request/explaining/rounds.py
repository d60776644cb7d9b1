# mypyc: compiled
"""An explanation to its end in this worker: by the table as it is supposed to be, and by what those say who have to be
asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from agent.proxy.phases.subject import Heard
from agent.proxy.phases.verdict import Consult
from agent.proxy.report import story
from agent.proxy.request.explain import explain
from agent.proxy.runtime import Runtime
from agent.proxy.table.supposing import SupposedTable
from agent.questions import Explain
from policies.kinds.authz.judge import Answer, Asked, Judge

MOST_ROUNDS: Final = 64
"""Questions that one explanation may depend on."""
UNSETTLED: Final = f"it depends on more than {MOST_ROUNDS} answers"


class Explaining:
    """One that is asked for. Where it depends on what somebody says who is not asked in passing, he is asked, and it is
    begun anew."""

    __slots__ = ("_asked", "_heard", "_rounds", "_runtime", "_table", "_take")

    def __init__(self, runtime: Runtime, asked: Explain, take: Callable[[dict[str, Any]], None]) -> None:
        """`take`: what an `agent.questions.Explained` is made of; called now or later, once."""
        self._runtime = runtime
        self._asked = asked
        self._take = take
        self._table = SupposedTable(runtime.table, asked.supposed) if asked.supposed else None
        self._heard: list[Heard] = []
        self._rounds = 0

    def tell(self) -> None:
        """As far as it is known what everybody says."""
        runtime = self._runtime
        while self._rounds < MOST_ROUNDS:
            self._rounds += 1
            found = self._found()
            if not isinstance(found, Consult):
                found["supposed"] = self._table is not None
                self._take(found)
                return
            answer = runtime.judges.ask(found.judge, found.asked, self.on_answer)
            if answer is None:
                return
            self._heard.append(Heard(found.judge, found.asked, answer))
        self._take(
            {"decisions": [story.entry(None, "admit", "", "not known", UNSETTLED)], "endpoint": None, "status": None}
        )

    def _found(self) -> dict[str, Any] | Consult:
        """By the table as it is supposed to be: nobody else looks at it meanwhile, for nothing is waited for."""
        runtime, table = self._runtime, self._table
        if table is None:
            return explain(runtime, self._asked, self._heard)
        real, runtime.table = runtime.table, table
        try:
            return explain(runtime, self._asked, self._heard)
        finally:
            runtime.table = real

    def on_answer(self, judge: Judge, asked: Asked | None, answer: Answer | None) -> None:
        """On."""
        if answer is not None:
            self._heard.append(Heard(judge, asked, answer))
        self.tell()


def explain_soon(runtime: Runtime, asked: Explain, take: Callable[[dict[str, Any]], None]) -> None:
    """What makes an `agent.questions.Explained`, now or later."""
    Explaining(runtime, asked, take).tell()
