# mypyc: compiled
"""Where the share of a target goes that nobody can serve, in a rule that gives it to the others.

Laws
- The others share it by their weights; a user of a sticky split goes to his second choice, and comes back to the first
  as soon as that can serve him: nobody else moves.
- Where none of the targets can serve anybody, nothing is other than if the rule let the share fail.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from policies.decision import Decision
from policies.kinds.route.split import Split
from policies.request import RequestView

User = Callable[[RequestView], str | None]


class Others:
    """The targets of one rule."""

    __slots__ = ("_targets", "_user")

    def __init__(self, targets: Sequence[tuple[str, float, Decision]], user: User | None) -> None:
        self._targets = list(targets)
        self._user = user

    def choose(
        self, request: RequestView, cookie: str | None, rng: random.Random, serves: Callable[[Decision], bool]
    ) -> Decision | None:
        """The decision for a request among targets that can serve; None: none can. `cookie`: what it is given."""
        left = [target for target in self._targets if target[1] > 0 and serves(target[2])]
        if not left:
            return None
        split = Split(left)
        key = self._user(request) if self._user is not None else None
        if not key and cookie is not None:
            key = cookie.partition("=")[2].partition(";")[0]
        return split.sticky(key) if key else split.at_random(rng)
