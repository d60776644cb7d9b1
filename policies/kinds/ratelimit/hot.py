# mypyc: interpreted, because it is control that divides keys, and a worker only asks for a bound
"""One limit for all agents, for each of many keys: which keys have parts of their own, and how these are divided.

Every agent may let pass an equal part of every key, rate and burst: that is the fallback, and all there is to say of
most keys. A key that is asked for by more than a little of its part is hot where that is so. The agent tells the key's
owner, who divides the key among those that have told it, by demand, as `shares` divides a limit.

Laws
- A key's parts follow its own requests, whatever is asked for other keys: who comes in at one agent only has all of
  his rate there, two to three rounds after his first request.
- What the agents have that told of a key adds up to at most its rate. Others have their fallback: they have not used
  more than HOT of it, or they would tell, so all of them together let at most that part pass besides.
- A burst goes along. What of it belongs to agents that nobody asks is the owner's to give, once: it comes back no
  faster than the rate. So of a key at most twice the burst passes at once, where it is asked for at agents in turn.
- An agent tells of at most MOST_KEYS keys, those first that are asked for most, and an owner divides at most
  MOST_DIVIDED: of further ones each agent has its fallback.
- Keys are told by their hashes, behind the name of their limit.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from itertools import islice
from typing import Final, NamedTuple

from policies.kinds.ratelimit.shares import GRANT_S, QUIET_S, REPORT_S, Division, Member, Report, Shared, owner

HOT: Final = 0.25
"""Part of its fallback from which on an agent tells of a key."""
MOST_KEYS: Final = 500
MOST_DIVIDED: Final = 10_000
_SEPARATOR: Final = "\0"


class Granted(NamedTuple):
    """An owner's answer for one key."""

    fraction: float
    """Of the rate, and of the burst."""
    tokens: float
    """At once."""


def name_of(limit: str, key: str) -> str:
    """Of a key of a limit."""
    return f"{limit}{_SEPARATOR}{key}"


def limit_of(name: str) -> str:
    """Whose key it is."""
    return name.rpartition(_SEPARATOR)[0]


class HotKeys:
    """An agent as one of those that are asked for keys."""

    def __init__(self) -> None:
        self._member = Member()
        self._counters: dict[str, float] = {}
        """By key: requests since it is hot."""
        self._asked_at: dict[str, float] = {}
        self._looked = -math.inf
        self._owners: tuple[frozenset[str], dict[str, str]] = (frozenset(), {})
        self.tokens: dict[str, float] = {}
        """By key: what was granted at once, until somebody hands it out."""

    @property
    def serial(self) -> int:
        """Number of the latest report."""
        return self._member.serial

    def due(self, now: float) -> bool:
        """Whether it is time to report."""
        return bool(self._counters) and self._member.due(now)

    def count(self, asked: Mapping[str, float], limits: Mapping[str, Shared], members: int, now: float) -> None:
        """What keys were asked for since the last time; `limits` are those with keys, `members` the live agents."""
        passed_s = min(max(now - self._looked, 0.0), QUIET_S)
        self._looked = max(self._looked, now)
        wanted: list[tuple[float, str]] = []
        for name, count in asked.items():
            limit = limits.get(limit_of(name))
            if name in self._counters:
                self._counters[name] += count
                self._asked_at[name] = now
            elif limit is not None and count > HOT * limit.rate * passed_s / max(members, 1):
                wanted.append((count / limit.rate, name))
        self._cool(asked, limits, len(wanted), now)
        wanted.sort(reverse=True)
        for _, name in wanted[: MOST_KEYS - len(self._counters)]:
            self._counters[name] = asked[name]
            self._asked_at[name] = now
        self._member.configure(self._counters.keys(), members)

    def _cool(self, asked: Mapping[str, float], limits: Mapping[str, Shared], wanted: int, now: float) -> None:
        """Forget keys that nobody asks for; where others want their places, also those that nobody just asked for."""
        full = len(self._counters) + wanted > MOST_KEYS
        for name, at in list(self._asked_at.items()):
            if now > at + QUIET_S or (full and name not in asked) or limit_of(name) not in limits:
                del self._counters[name], self._asked_at[name]

    def report(self, now: float) -> dict[str, Report]:
        """What to tell the owners, each of its own keys."""
        return self._member.report(self._counters, now)

    def accept(self, grants: Mapping[str, Granted], serial: int) -> None:
        """An owner's answer."""
        self._member.accept({name: granted.fraction for name, granted in grants.items()}, serial)
        if serial == self.serial:
            for name, granted in grants.items():
                if name in self._counters and granted.tokens > 0:
                    self.tokens[name] = self.tokens.get(name, 0.0) + granted.tokens

    def parts(self, now: float) -> dict[str, float]:
        """By key: the fraction that this agent may use; of all others, the fallback."""
        return {name: self._member.share(name, now) for name in self._counters}

    def owner(self, name: str, members: frozenset[str]) -> str:
        """Who divides a key."""
        if self._owners[0] != members or len(self._owners[1]) > 4 * MOST_KEYS:
            self._owners = (members, {})
        known = self._owners[1]
        found = known.get(name)
        if found is None:
            found = known[name] = owner(name, members)
        return found


class _Key:
    """One that is divided."""

    __slots__ = ("at", "division", "since", "spare")

    def __init__(self, limit: Shared, now: float, spare: float) -> None:
        self.division = Division(limit, now)
        self.since = now
        """When it was told of first ..."""
        self.at = now
        """... and last."""
        self.spare = spare
        """Tokens of those that nobody asks."""


class KeyLedger:
    """An agent as an owner: it divides the keys that others tell it of."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, _Key] = OrderedDict()
        self._now = -math.inf

    def report(
        self, member: str, reports: Mapping[str, Report], limits: Mapping[str, Shared], members: int, now: float
    ) -> dict[str, Granted]:
        """The grants for a member; none for keys of what is no limit here. `members` are the live agents."""
        self._now = now = max(self._now, now)
        grants: dict[str, Granted] = {}
        for name, report in islice(reports.items(), MOST_KEYS):
            limit = limits.get(limit_of(name))
            if limit is not None:
                grants[name] = self._grant(name, member, report, limit, max(members, 1), now)
        return grants

    def _grant(self, name: str, member: str, report: Report, limit: Shared, members: int, now: float) -> Granted:
        others = 1.0 - 1.0 / members
        key = self._keys.get(name)
        if key is None:
            # Who holds more than the fallback was told so by another owner, who has given what there was.
            fresh = report.held <= 1.0 / members + 1e-9
            key = self._keys[name] = _Key(limit, now, limit.burst * others if fresh else 0.0)
            if not fresh:
                key.since = -math.inf
            if len(self._keys) > MOST_DIVIDED:
                self._keys.popitem(last=False)
        self._keys.move_to_end(name)
        key.division.limit = limit._replace(keyed=False)
        unasked_s = max(now - key.at - GRANT_S, 0.0)
        if unasked_s:
            key.since = now
        key.at = now
        key.spare = min(key.spare + unasked_s * limit.rate * others, limit.burst * others)
        fraction = key.division.grant(member, report, (), now)
        if now < key.since + REPORT_S:
            # Whoever else is asked for it tells within a round, and the first of them should not get all.
            return Granted(key.division.keep(member, report), 0.0)
        tokens = min(key.spare, max(fraction - max(report.held, 0.0), 0.0) * limit.burst)
        key.spare -= tokens
        return Granted(fraction, tokens)
