# mypyc: interpreted, because it is control that divides shares, and no request waits for that
"""One limit for all agents, divided among them by demand.

For each limit one agent, the owner, is chosen by rendezvous hashing: everyone computes the same one from the list of
live agents, and it moves only when its owner goes. Every REPORT_S each agent, a member, tells it what it is asked for,
and sooner while something changes; the answer is a grant, a fraction of the limit. There is no election, and no
request waits for any of it.

Laws
- The fractions that are in use add up to at most 1, whatever is lost, late or dead: an owner gives nothing that
  another member may still be using. A member that rises gets its part when those that fall have heard of theirs, which
  takes one to two rounds.
- A member that is asked for nothing says so, and then reports seldom; its small grant lasts as much longer. Nothing
  else is kept for it, so that whoever is asked first after a silence gets all that there is with its first report.
  Until then it spends what it holds: tokens of its equal part of the burst, which came in while everybody was quiet,
  and were nobody else's. So at most twice the burst passes at once, where all agents that rested are asked together
  with one that did not.
- A grant runs out GRANT_S after the member asked for it. Then the member uses at most 1 / members for HOLD_S, and no
  more than it had; then 1 / members. By then the owner, if there is one, has that much put by for it.
- Owners and members may disagree about who is alive or who is owner. An owner puts by 1 / members for each member that
  it does not hear of, so that two owners with members of their own do not give the limit away twice.
- Some moments are inexact, for some rounds: an agent that is new uses 1 / members at once, so that it need not refuse
  its first requests; lists of live agents may differ; members may go over to an owner while another still answers.
- A clock that jumps back is taken for one that stands still. Figures from other agents are believed within reason
  only.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from policies.hashing import hash64

REPORT_S: Final = 0.25
"""How often members report ..."""
SOON_S: Final = 0.1
"""... and while something changes. A round trip that takes longer is none: its grant is passed over."""
GRANT_S: Final = 1.0
HOLD_S: Final = 2 * GRANT_S + REPORT_S
QUIET_S: Final = 2.0
"""A member that was asked for nothing for so long says so, and ..."""
QUIET_REPORT_S: Final = 5.0
"""... reports seldom: of a hundred agents three may have traffic for a service, and all of them count as alive."""
QUIET_GRANT_S: Final = 12.0
REST: Final = "\0rest"
"""Behind a limit's name: how fast the bucket of a quiet member fills, as a fraction of the limit. Less comes in for it
as soon as it is asked."""
IDLE: Final = 0.02
"""Part of a limit that is kept for members without demand, all of them together."""
_DIVIDE_S: Final = REPORT_S / 5
_SMOOTH_S: Final = 1.0
"""How fast a demand forgets, while it changes no more than chance would make it."""
_CHANCE: Final = 3.5
"""Standard deviations of a Poisson process that are chance."""
_RESTLESS_S: Final = 1.0
"""For how long a change is followed closely."""
_MUCH: Final = 0.1
"""A change by more than this part is followed up at once."""
_MOST: Final = 1e7
"""Requests a second that a member may say it is asked for: no host is asked for more."""


class Shared(NamedTuple):
    """A limit that all agents have together."""

    rate: float
    """Requests a second."""
    keyed: bool = False
    """It is a limit for each of many keys, so that demand says how requests are spread, not how much is wanted. Only of
    agents of the version before: those of this one have equal parts of keys, and divide some of them (`hot`)."""
    burst: float = 1.0
    """Requests at once."""


class Report(NamedTuple):
    """What a member says of one limit."""

    demand: float
    """Requests a second."""
    held: float
    """The fraction that it may be using until it hears of another."""
    for_s: float = GRANT_S
    """For how long it will use what it is granted now."""
    using: float = 1.0
    """The fraction that it uses at this moment; less than `held` when its grant ran out a moment ago."""
    rests: bool = False
    """It knows what rest is: without, it would miss what nobody else is asked for."""


def owner(key: str, members: Collection[str]) -> str:
    """Who divides the limit `key`: the same for everyone who knows the same members. Raises ValueError without any."""
    return max(members, key=lambda member: (hash64(f"{key}\0{member}"), member))


def divide(limit: float, demands: Mapping[str, float]) -> dict[str, float]:
    """Max-min fair shares: nobody gets more than it asks for while another gets less than that, and what nobody asks
    for is head-room, the same for all. A member without demand has its part of IDLE. Adds up to at most `limit`.
    """
    if not demands:
        return {}
    count = len(demands)
    least = limit * IDLE / count
    shares: dict[str, float] = {}
    left = limit
    for member in sorted(demands, key=lambda name: (demands[name], name)):
        shares[member] = share = min(max(demands[member], least), left / (count - len(shares)))
        left -= share
    room = max(left, 0.0) / count
    for member in shares:
        shares[member] += room
    _trim(limit, shares)
    return shares


def _trim(limit: float, shares: dict[str, float]) -> None:
    """Take from the largest what rounding has given."""
    excess = math.fsum([*shares.values(), -limit])
    while excess > 0:
        largest = max(shares, key=lambda name: shares[name])
        shares[largest] = math.nextafter(shares[largest] - excess, 0.0)
        excess = math.fsum([*shares.values(), -limit])


# A participant's side.


class _Holding:
    """One limit of a member."""

    __slots__ = (
        "_known_s",
        "asked_at",
        "counted",
        "demand",
        "due_at",
        "for_s",
        "fraction",
        "reported",
        "rest",
        "serial",
        "until",
    )

    def __init__(self) -> None:
        self.asked_at = -math.inf
        self.due_at = -math.inf
        """When a quiet one reports again."""
        self.serial = 0
        """Number of the last report that it was in ..."""
        self.reported = -math.inf
        """... and when that was."""
        self.for_s = GRANT_S
        self.counted = 0.0
        self.demand = 0.0
        self._known_s = 0.0
        """How much time the demand is the average of."""
        self.fraction = 0.0
        """As it was granted last ..."""
        self.rest = 0.0
        """... and what comes in meanwhile, if it is not asked."""
        self.until = -math.inf

    def forget(self) -> None:
        """What is asked for after a silence is averaged with none of it."""
        self.demand = 0.0
        self._known_s = 0.0

    def observe(self, counter: float, passed_s: float) -> bool:
        """Take in the requests that were asked for since the last report; whether they changed by more than chance.
        A counter that is less than it was has begun anew."""
        asked = counter - self.counted if counter >= self.counted else counter
        self.counted = counter
        usual = self.demand * passed_s
        if abs(asked - usual) > _CHANCE * math.sqrt(max(usual, 1.0)):
            self.demand = asked / passed_s
            self._known_s = 0.0  # it changed somewhere in between, so the average begins after
            return True
        self._known_s = min(self._known_s + passed_s, max(_SMOOTH_S, passed_s))
        self.demand += (asked / passed_s - self.demand) * passed_s / self._known_s
        return False


class Member:
    """An agent as a participant: what it is asked for, and what it may let pass."""

    __slots__ = ("_holdings", "_let_go", "_now", "_overdue", "_reported", "_restless", "fallback", "serial")

    def __init__(self) -> None:
        self._holdings: dict[str, _Holding] = {}
        self.fallback = 1.0
        self._now = -math.inf
        self._reported = -math.inf
        self._restless = -math.inf
        self._let_go = False
        self._overdue = False
        self.serial = 0
        """Number of the latest report."""

    def configure(self, limits: Collection[str], members: int) -> None:
        """Limits that are divided, and how many live agents there are, this one included."""
        self._holdings = {name: self._holdings.get(name) or _Holding() for name in limits}
        fallback = 1.0 / max(members, 1)
        if fallback != self.fallback:
            self.fallback = fallback
            for holding in self._holdings.values():
                holding.due_at = -math.inf  # another owner may divide it, who has not heard of us

    def due(self, now: float) -> bool:
        """Whether it is time to report."""
        self._now = max(self._now, now)
        if self._let_go:
            return True
        pause_s = SOON_S if self._overdue or self._reported < self._restless else REPORT_S
        return self._now >= self._reported + pause_s

    def report(self, counters: Mapping[str, float], now: float) -> dict[str, Report]:
        """What to tell the owners, each of its own limits; seldom of quiet ones. `counters` are requests asked for,
        since ever."""
        self._now = max(self._now, now)
        passed_s = self._now - self._reported
        for name, holding in self._holdings.items():
            counter = counters.get(name, 0.0)
            if counter != holding.counted or holding.asked_at == -math.inf:
                holding.asked_at = self._now
            if passed_s == math.inf:
                holding.counted = counter
            elif passed_s > 0 and holding.observe(counter, passed_s):
                self._restless = self._now + _RESTLESS_S
        self._reported = self._now
        self.serial += 1
        self._let_go = False
        reports: dict[str, Report] = {}
        for name, holding in self._holdings.items():
            quiet = self._now - holding.asked_at >= QUIET_S
            if quiet:
                holding.forget()
            if quiet and self._now < holding.due_at and self._now <= holding.until:
                continue
            holding.serial = self.serial
            holding.reported = self._now
            holding.for_s = QUIET_GRANT_S if quiet else GRANT_S
            demand = 0.0 if quiet else holding.demand
            reports[name] = Report(demand, self._held(holding), holding.for_s, self.share(name, self._now), True)
        self._overdue = any(self._now <= self._holdings[name].until for name in reports)
        return reports

    def accept(self, grants: Mapping[str, float], serial: int) -> None:
        """An owner's answer to a report. One to an older report of a limit than the latest is passed over, because the
        owner no longer counts on it."""
        if serial == self.serial:
            self._overdue = False
        for name, fraction in grants.items():
            holding = self._holdings.get(name)
            if holding is not None and holding.serial == serial and 0.0 <= fraction <= 1.0:
                holding.due_at = holding.reported + QUIET_REPORT_S if holding.for_s > GRANT_S else -math.inf
                if fraction < (1 - _MUCH) * self._held(holding):
                    # What was let go of is given to others when the owner hears that it was.
                    self._let_go = True
                    holding.due_at = -math.inf
                holding.fraction = fraction
                holding.rest = _sane(grants.get(f"{name}{REST}", 0.0), self.fallback)
                holding.until = holding.reported + holding.for_s

    def share(self, name: str, now: float) -> float:
        """The fraction of a limit that this agent may use."""
        self._now = max(self._now, now)
        holding = self._holdings.get(name)
        if holding is None:
            return self.fallback
        if self._now <= holding.until:
            return holding.fraction
        if self._now <= holding.until + HOLD_S:
            return min(holding.fraction, self.fallback)
        return self.fallback

    def rest(self, name: str, now: float) -> float:
        """The fraction of a limit that comes in for this agent while it is not asked."""
        holding = self._holdings.get(name)
        return holding.rest if holding is not None and now <= holding.until else 0.0

    def _held(self, holding: _Holding) -> float:
        return holding.fraction if self._now <= holding.until else self.fallback


# The owner's side.


class _Part:
    """A member as the owner of a limit knows it."""

    __slots__ = ("bound", "demand", "rests", "until")

    def __init__(self, bound: float) -> None:
        self.demand = 0.0
        self.rests = False
        """It is quiet, and needs nothing but what it rests with."""
        self.bound = bound
        """The most that it may be using."""
        self.until = 0.0


class Division:
    """One limit, divided."""

    __slots__ = ("_committed", "_divided", "_parts", "_silent", "_since", "_targets", "limit", "rest")

    def __init__(self, limit: Shared, now: float) -> None:
        self.limit = limit
        self._since = now
        self._parts: dict[str, _Part] = {}
        self._targets: dict[str, float] = {}
        self._committed = 0.0
        self._silent = 0
        self._divided = -math.inf
        self.rest = 0.0
        """What comes in for a member that rests."""

    def grant(self, member: str, report: Report, members: Collection[str], now: float) -> float:
        """The fraction for a member that has reported."""
        part = self._parts.get(member)
        joined = part is None
        if part is None:
            part = self._parts[member] = _Part(0.0)
        demand = part.demand
        part.demand = _sane(report.demand, _MOST)
        rested, part.rests = part.rests, report.rests and report.for_s > GRANT_S
        part.until = now + (report.for_s if GRANT_S < report.for_s <= QUIET_GRANT_S else GRANT_S)
        held = _sane(report.held, 1.0)
        if (
            joined
            or rested is not part.rests
            or now >= self._divided + _DIVIDE_S
            or abs(part.demand - demand) > _MUCH * demand
        ):
            self._divide(members, now)
        others = self._committed - part.bound
        fraction = max(0.0, min(self._targets[member], 1.0 - others))
        if self._silent and now < self._since + GRANT_S:
            # Whom a new owner has not heard of may have been given anything by the one before.
            fraction = min(fraction, held, _sane(report.using, 1.0))
        part.bound = max(held, fraction)
        self._committed = others + part.bound
        return fraction

    def keep(self, member: str, report: Report) -> float:
        """A member that has reported gets no more than it holds, after all. Returns what it gets."""
        part, held = self._parts[member], _sane(report.held, 1.0)
        self._committed += held - part.bound
        part.bound = held
        return held

    def _divide(self, members: Collection[str], now: float) -> None:
        self._divided = now
        self._parts = {name: part for name, part in self._parts.items() if now <= part.until}
        each = 1.0 / max(len(members), 1)
        self._silent = sum(name not in self._parts for name in members)
        aside = min(self._silent * each, 1.0)
        demands = {name: part.demand for name, part in self._parts.items() if not part.rests}
        total = (math.fsum(demands.values()) or 1.0) if self.limit.keyed else self.limit.rate
        least = total * (1.0 - aside) * IDLE / max(len(self._parts), 1)
        self._targets = {name: least / total for name, part in self._parts.items() if part.rests}
        left = total * (1.0 - aside) - least * len(self._targets)
        some_rest = bool(self._targets) and not self.limit.keyed
        for name, share in divide(left, demands).items():
            # Of the room that is left, half waits for those that rest: the first of them to wake should not get all.
            room = max(share - demands[name], 0.0) / 2 if some_rest else 0.0
            self._targets[name] = (share - room) / total
        self.rest = each if not any(demands.values()) else 0.0
        self._committed = aside + math.fsum(part.bound for part in self._parts.values())


class Ledger:
    """An agent as an owner: it divides the limits that fall to it."""

    __slots__ = ("_divisions", "_members", "_now")

    def __init__(self) -> None:
        self._divisions: dict[str, Division] = {}
        self._members: frozenset[str] = frozenset()
        self._now = -math.inf

    def configure(self, limits: Mapping[str, Shared], members: Collection[str], now: float) -> None:
        """The limits that this agent owns, and every live agent, itself included. What is known of those that it has
        owned before is kept."""
        self._now = max(self._now, now)
        self._members = frozenset(members)
        kept = self._divisions
        self._divisions = {name: kept.get(name) or Division(limit, self._now) for name, limit in limits.items()}
        for name, limit in limits.items():
            self._divisions[name].limit = limit

    def report(self, member: str, reports: Mapping[str, Report], now: float) -> dict[str, float]:
        """The grants for a member, as fractions of the limits; none of those that this agent does not own."""
        self._now = max(self._now, now)
        grants: dict[str, float] = {}
        for name, report in reports.items():
            division = self._divisions.get(name)
            if division is not None:
                grants[name] = division.grant(member, report, self._members, self._now)
                if report.rests and report.for_s > GRANT_S and division.rest:
                    grants[f"{name}{REST}"] = division.rest
        return grants


def _sane(value: float, most: float) -> float:
    return min(value, most) if value > 0 else 0.0
