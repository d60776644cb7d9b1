"""What a `shed` document is on the request path: the figures of its limit, who is how important, and the ways out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from policies.decision import Forward, Respond
from policies.limiter import Rules
from policies.request import RequestView

HEADER: Final = "x-shoal-priority"
NAMES: Final = ("critical", "high", "normal", "low", "bulk")
"""From the most important one; the index is the priority."""
NORMAL: Final = 2


class Priority:
    """Requests that match are so important."""

    __slots__ = ("matches", "priority")

    def __init__(self, matches: Callable[[RequestView], bool] | None, priority: int) -> None:
        self.matches = matches
        self.priority = priority


class Keep:
    """A way out: the request is stored in a topic, if it is one that may be."""

    __slots__ = ("methods", "order", "url", "without")

    def __init__(
        self, url: str, order: dict[str, Any], methods: frozenset[bytes], without: frozenset[bytes] = frozenset()
    ) -> None:
        self.url = url
        self.order = order
        """The topic, for who stores: url, user, secret."""
        self.methods = methods
        self.without = without
        """Header fields that are left out; lower case."""


class Plan:
    """A document, ready to be asked."""

    __slots__ = ("_believes", "_priorities", "cpu", "load_header", "retry_after_s", "rules", "ways")

    def __init__(
        self,
        rules: Rules,
        *,
        priorities: Sequence[Priority] = (),
        believes: bool = True,
        ways: Sequence[Forward | Respond | Keep] = (),
        retry_after_s: int = 1,
        load_header: bytes = b"",
    ) -> None:
        self.rules = rules
        self.cpu = rules.cpu_percent > 0
        self._priorities = list(priorities)
        self._believes = believes
        self.ways = list(ways)
        """Where a request goes that is not let in, in order."""
        self.retry_after_s = retry_after_s
        self.load_header = load_header
        """Lower case; empty: instances say nothing."""

    def priority(self, request: RequestView) -> int:
        """An index of NAMES: the first rule that matches, else what the request says, else normal."""
        for rule in self._priorities:
            if rule.matches is None or rule.matches(request):
                return rule.priority
        if self._believes:
            said = request.header(HEADER)
            if said is not None and said in NAMES:
                return NAMES.index(said)
        return NORMAL
