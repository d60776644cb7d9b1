# mypyc: compiled
"""Whom an `authz` document asks besides its rules (Rego, an external OPA), as far as a request meets it: what it reads,
what it has answered before, and what its silence means.

Laws
- An answer is remembered by all that was told of the request: whoever would be told the same is answered the same. It
  is forgotten with the document, and by the time that it counts for.
- What is remembered is bounded in number and in size; the oldest goes first.
- Nothing is asked here. Time is handed in (monotonic seconds).
"""

from __future__ import annotations

from typing import Final, TypeAlias

from policies.kinds.authz.document import DEFAULT
from policies.kinds.authz.input import EVERYTHING, Inputs, Values, size_of
from policies.kinds.authz.outside import CACHE_S, Opa, Rego, origin
from policies.kinds.authz.several import Asks
from policies.language.duration import seconds
from policies.request import RequestView

MOST_ANSWERS: Final = 4096
MOST_SIZE: Final = 512 * 1024
"""Characters of what was told, in all of them."""
MOST_REMEMBERED: Final = 2048
"""Characters of what was told: of more no answer is remembered."""
FAILED_S: Final = 1.0
"""How long it counts that the very same question could not be answered."""
REGO: Final = "rego"
OPA: Final = "opa"
FOREVER: Final = float("inf")

Asked: TypeAlias = tuple[str, Values]
"""Which service is called, and what was told of the request."""


MOST_LISTED: Final = 5
"""Modules that are named to who operates."""


class Ruling:
    """What a rule, or who is asked besides, says of each request that it decides."""

    __slots__ = ("allows", "counted", "reason", "rule")

    def __init__(self, key: str, rule: str, *, allows: bool, whose: str = "") -> None:
        self.allows = allows
        self.rule = rule
        whose = whose or ("no rule allows it" if rule == DEFAULT else f"by the rule {rule}")
        self.reason = f"policies/authz/{key}: {whose}"
        """Of a denial, for who operates."""
        self.counted = f"{key}\t{rule}\t{'allowed' if allows else 'denied'}"


class Answer:
    """To one question."""

    __slots__ = ("failed", "ruling", "until")

    def __init__(self, ruling: Ruling, *, failed: bool) -> None:
        self.ruling = ruling
        self.failed = failed
        """It is none: nobody could be asked, or said neither yes nor no."""
        self.until = 0.0
        """How long it counts."""


class Judge:
    """Who is asked."""

    __slots__ = (
        "_answers",
        "_size",
        "allows_unanswered",
        "asks",
        "cache_s",
        "data",
        "dial",
        "inputs",
        "key",
        "modules",
        "path",
        "query",
        "reads",
        "said",
        "target",
        "timed",
        "timeout_s",
        "who",
    )

    def __init__(self, key: str, rego: Rego | None, opa: Opa | None = None) -> None:
        """`key`: the pattern that the document was put for. One of the two is given."""
        self.key = key
        self._answers: dict[Asked, Answer] = {}
        self._size = 0
        self.modules: dict[str, str] = {}
        self.data: object = None
        self.query = ""
        self.path = ""
        self.dial = ("", 0)
        self.timed = False
        """Whether what it answers depends on the time of the day."""
        self.target: object = None
        """What `agent.proxy.judges` knows of who is asked."""
        self.reads: tuple[str, ...] = ()
        """As the document declares them; empty: it does not."""
        if rego is not None:
            self.who = REGO
            self.modules, self.data, self.query = rego.modules, rego.data, rego.query
            bundled = [name for name in rego.modules if "/" in name]
            self.said = f"{REGO} (with {_listed(bundled)})" if bundled else REGO
            self.reads = rego.reads
            self.timeout_s = seconds(rego.timeout)
            self.allows_unanswered = rego.on_failure == "allow"
            self.cache_s = CACHE_S if rego.cache is None else seconds(rego.cache)
            if rego.cache is not None:
                self.timed = True  # it says itself how long an answer counts
        else:
            assert opa is not None
            self.who = self.said = OPA
            self.dial, self.path = origin(opa.url), opa.path
            self.reads = opa.reads
            self.timeout_s = seconds(opa.timeout)
            self.allows_unanswered = opa.on_failure == "allow"
            self.cache_s = seconds(opa.cache)
            self.timed = True
        self.inputs: Inputs | None = Inputs(self.reads) if self.reads else None
        """None: it is not known yet what it reads."""
        if opa is not None and self.inputs is None:
            self.inputs = Inputs(EVERYTHING)
        self.asks = _asks(self.inputs)
        """Of what of a request it matters which of several values is read."""

    def learn(self, reads: tuple[str, ...], timed: bool) -> None:
        """What the modules read, as they were compiled."""
        if not self.reads:
            self.inputs = Inputs(reads)
            self.asks = _asks(self.inputs)
        self.timed = self.timed or timed

    def asked(self, request: RequestView, service: str) -> Asked | None:
        """The question that a request is; None: it is not known yet what that would be told."""
        inputs = self.inputs
        return None if inputs is None else (service, inputs.values(request, service))

    def answer(self, allows: bool, reason: str, *, failed: bool = False) -> Answer:
        """What comes of an answer, or of the want of one."""
        if failed:
            allows = self.allows_unanswered
            reason = f"{reason}; on_failure: {'allow' if allows else 'deny'}"
        return Answer(Ruling(self.key, self.who, allows=allows, whose=f"{self.said}: {reason}"), failed=failed)

    def find(self, asked: Asked, now: float) -> Answer | None:
        """What was answered before, as long as it counts."""
        answer = self._answers.get(asked)
        if answer is not None and answer.until <= now:
            self._forget(asked)
            return None
        return answer

    def remember(self, asked: Asked, answer: Answer, now: float) -> None:
        """It was answered."""
        if answer.failed:
            answer.until = now + FAILED_S
        else:
            answer.until = now + self.cache_s if self.timed else FOREVER
        size = size_of(asked[1])
        if answer.until <= now or size > MOST_REMEMBERED:
            return
        answers = self._answers
        if asked not in answers:
            self._size += size
            while len(answers) >= MOST_ANSWERS or self._size > MOST_SIZE:
                self._forget(next(iter(answers)))
        answers[asked] = answer

    def _forget(self, asked: Asked) -> None:
        del self._answers[asked]
        self._size -= size_of(asked[1])

    def __len__(self) -> int:
        return len(self._answers)


def _asks(inputs: Inputs | None) -> Asks:
    parameters = [] if inputs is None else [read.steps for read in inputs.reads if read.steps[0] == "query"]
    names = [steps[1] for steps in parameters if len(steps) == 2]
    return Asks(names, every_parameter=len(names) < len(parameters))


def _listed(modules: list[str]) -> str:
    shown = ", ".join(modules[:MOST_LISTED])
    return f"{shown} and {len(modules) - MOST_LISTED} more" if len(modules) > MOST_LISTED else shown
