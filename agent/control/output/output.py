"""One agent's output of programs: taken from who copies it, and told to who asks all agents.

Laws
- Whoever follows has his place himself (`said.Place`): here is nothing that a slow one could fill.
- Who tells us is told how soon to come again: often while somebody follows, and the seldomer, the more programs there
  are, so that their number times their pace has a bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from agent.control.asking.answering import Answering, Asker
from agent.control.output.kept import Kept, Run, any_line
from agent.control.output.said import NAMES, OUTPUT, Identity, Line, OfProgram, OutputAsked, OutputTold, Place
from policies.language.names import matches

FOLLOWED_S: Final = 10.0
"""Who has not asked for so long does not follow any more."""
OFTEN_S: Final = 0.2
SELDOM_S: Final = 1.0
EACH_S: Final = 0.02
"""For each program; those that somebody follows wait for one another only."""
MOST_UNKEPT: Final = 100
HEARD_S: Final = 8.0
"""So long after our start everybody who tells of a program has come by."""
MOST_CARRIED: Final = 32
"""Runs of somebody's place that are not known here (yet, after a restart), and that he keeps all the same."""


class Taken(NamedTuple):
    """What who tells us is told."""

    next: int
    """Up to which number his lines are known here."""
    again_s: float


class Output:
    """One agent's."""

    def __init__(self, host: str, answering: Answering, instances: Callable[[], Mapping[Identity, int]]) -> None:
        """`instances`: those that are registered here, each with its user's number."""
        self._host = host
        self._instances = instances
        self._kept = Kept(lambda identity: identity in instances())
        self._heard_at = time.monotonic() + HEARD_S
        self.lines = 0
        self.lost = 0
        answering.register(OUTPUT, self._answer)

    def owner(self, name: str, identity: Identity) -> int | None:
        """Whose a run is; None: it is not known here. A name that is another instance's is nobody's (-1)."""
        run = self._kept.find(name)
        if run is None:
            return None
        return run.uid if run.identity == identity else -1

    def take(
        self,
        name: str,
        identity: Identity,
        uid: int,
        lines: Sequence[Line],
        following: int,
        *,
        begins: bool,
        ended: bool,
    ) -> Taken | None:
        """What a program said; `begins`: who tells it has nothing older. None: there is no room for another."""
        run, now = self._kept.find(name), time.monotonic()
        if run is None:
            if not begins:  # we are the successor of one that knew it
                return Taken(0, OFTEN_S)
            run = self._kept.begin(name, identity, uid)
            if run is None:
                return None
            if lines:
                run.next = lines[0].number
        told, lost = run.add(lines, following)
        self.lines, self.lost = self.lines + told, self.lost + lost
        run.ended = run.ended or ended
        return Taken(run.next, self._again_s(run, now))

    def _again_s(self, run: Run, now: float) -> float:
        is_followed = now - run.followed_at <= FOLLOWED_S
        others = sum(not each.ended and (now - each.followed_at <= FOLLOWED_S) >= is_followed for each in self._kept)
        return max(OFTEN_S if is_followed else SELDOM_S, EACH_S * others)

    async def _answer(self, asked: OutputAsked, _: Asker) -> OutputTold:
        return self.read(asked, time.monotonic())

    def read(self, asked: OutputAsked, now: float) -> OutputTold:
        """What was said since."""
        runs = [run for run in self._kept if _goes_for(asked, run.identity, run.uid)]
        place = asked.places.get(self._host)
        after = self._carried(place) if place is not None else {}
        share = max(1, asked.most_bytes // max(1, len(runs)))
        wanted = partial(_is_wanted, asked) if asked.stream or asked.contains else any_line
        programs = []
        for run in runs:
            run.followed_at = now
            if place is not None:
                lines, lost, after[run.name] = run.read(place.after.get(run.name, 0), share, wanted)
            else:
                lines, lost, after[run.name] = run.last(asked.last, share, wanted), 0, run.next
            if lines or lost:
                programs.append(OfProgram(*run.identity, lines, lost))
        return OutputTold(programs, Place(after), self._unkept(asked) if now >= self._heard_at else [])

    def _carried(self, place: Place) -> dict[str, int]:
        return dict([each for each in place.after.items() if self._kept.find(each[0]) is None][-MOST_CARRIED:])

    def _unkept(self, asked: OutputAsked) -> list[str]:
        here = [identity for identity, uid in self._instances().items() if _goes_for(asked, identity, uid)]
        return ["/".join(identity) for identity in sorted(here) if not self._kept.live(identity)][:MOST_UNKEPT]


def _goes_for(asked: OutputAsked, identity: Identity, uid: int) -> bool:
    service, instance = identity
    return (
        matches(asked.service, service) and asked.instance in ("", instance) and (asked.uid is None or asked.uid == uid)
    )


def _is_wanted(asked: OutputAsked, line: Line) -> bool:
    return asked.stream in ("", NAMES[line.stream]) and asked.contains in line.text
