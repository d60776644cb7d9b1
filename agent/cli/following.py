"""Who follows something over all hosts: he asks an agent again and again, and is told of hosts that come, go and miss.

Laws
- An agent that does not answer is asked again, GIVE_UP_S long; at the beginning, and where what is asked is wrong, that
  is the answer.
- What is not there is told once, where it begins and where it ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Final

from agent.cli.agent_client import Admin
from agent.cli.failure import Exit, Failure
from agent.cli.printing import Printer

WAIT_S: Final = 3.0
AGAIN_S: Final = 1.0
GIVE_UP_S: Final = 60.0
"""For how long an agent that does not answer is asked again, by who follows."""


class Follower:
    """What somebody who follows was told, and has yet to be."""

    does = "following"
    over = False
    """Whether he has what he wanted."""

    def __init__(self, printer: Printer, what: str) -> None:
        """`what`: he follows, in words."""
        self.next = ""
        self._printer = printer
        self._what = what
        self._hosts: set[str] = set()
        self._missing: dict[str, str] = {}
        self._interrupted = False

    def interrupted(self, reason: str) -> None:
        """The agent that is asked does not answer."""
        if not self._interrupted:
            self._printer.note(f"{reason}; asking again")
        self._interrupted = True

    def hear(self, told: Mapping[str, Any]) -> None:
        """An answer."""
        if self._interrupted:
            self._interrupted = False
            self._printer.note("the agent answers again")
        self._note_hosts(told)
        self.next = told["next"]
        self.tell(told)
        self._printer.flush()

    def tell(self, told: Mapping[str, Any]) -> None:
        """What an answer has."""
        raise NotImplementedError

    def _note_hosts(self, told: Mapping[str, Any]) -> None:
        hosts, missing = set(told["hosts"]), {host: no["reason"] for host, no in told["missing"].items()}
        if not self.next:
            self._printer.note(f"{self.does} {self._what} on {', '.join(sorted(hosts)) or 'no host'}; Ctrl-C ends it")
        else:
            for host in sorted(hosts - self._hosts):
                self._printer.note(f"{host}: it answers, from now on")
            for host in sorted(self._hosts - hosts - set(missing)):
                self._printer.note(f"{host}: gone from the mesh")
        for host in sorted(set(missing) - set(self._missing)):
            self._printer.note(f"{host} is missing: {missing[host]}")
        self._hosts, self._missing = hosts, missing


def read_on(admin: Admin, place: str, asked: Mapping[str, str], state: Follower, until: float = math.inf) -> None:
    """Until Ctrl-C, or no agent has answered for so long; until it has enough, or `until` (monotonic seconds)."""
    answered_at = time.monotonic()
    while not state.over:
        left_s = until - time.monotonic()
        if left_s <= 0:
            return
        query = {**asked, "wait_s": str(round(min(WAIT_S, left_s), 3) if state.next else 0), "next": state.next}
        try:
            told = told_by_hosts(admin.get(place, query.items()))
        except Failure as failure:
            gone_s = time.monotonic() - answered_at
            if not state.next or failure.code is Exit.USAGE or gone_s > GIVE_UP_S:
                raise
            state.interrupted(failure.message)
            time.sleep(AGAIN_S)
            continue
        answered_at = time.monotonic()
        state.hear(told)


def told_by_hosts(told: Any) -> dict[str, Any]:
    """What an agent answers that has asked the others. Raises Failure."""
    if not isinstance(told, dict) or not isinstance(told.get("hosts"), dict):
        raise Failure("what answers there is no agent of Shoal: its answer is none of an agent's")
    return {"missing": {}, "next": "", **told}


def note_missing(printer: Printer, missing: Mapping[str, Any]) -> None:
    """Who did not answer."""
    for host, no in sorted(missing.items()):
        printer.note(f"{host} is missing: {no.get('reason', '')}")
