"""The keys of all issuers that documents name: fetched by each agent for itself, ahead of the tokens that need them.

Every agent fetches for every document. Tokens are verified beside the caller and beside the instance, and any service
of a host may call any other; a thousand agents that ask an issuer every ten minutes are two requests a second, of which
most are answered with 304. They begin apart, so that a new document brings no more than a hundred in a second.

Laws
- Keys are never fetched for a request; a token only tells that some are missing. Of one issuer that counts once in
  MISS_S, whoever makes up the tokens.
- What was got stays in force until the issuer says something else, and for `max_age` of the document after it said so
  last: its absence stops nobody for a day. How old it is, what failed and when it ends is told (`as_state`, metrics,
  events); workers are told when it was said, and judge by the document that asks. A restart makes nothing younger.
- A key that is published no more verifies nothing from the moment on at which it is known.
- A failure is tried again soon, and later each time; FETCHING at a time; MAX_SOURCES at all.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any, Final

import structlog
import trio

from agent.control.issuers.fetching import USUAL_S, fetch
from agent.control.issuers.shelf import Kept, Shelf
from agent.control.outgoing.client import Client
from agent.frames import IssuerKeys
from policies.kinds.authn.keyring import Keyring
from policies.kinds.authn.source import Source
from registry.backoff import Backoff

MISS_S: Final = 30.0
MAX_SOURCES: Final = 200
FETCHING: Final = 8
PER_S: Final = 100.0
"""Agents of a mesh that begin to fetch, in a second."""
APART_S: Final = 10.0
"""Within which they all begin."""
TELL_S: Final = 300.0
"""For so long an issuer has to fail for others to hear of it: one that is started anew is no news."""
LOOK_S: Final = 10.0
ENDING: Final = 0.25
"""Of the time for which keys count: what is left of it when people are warned. Of two hours half an hour is left, and
keys are fetched once in an hour."""
SWEEP_S: Final = 3600.0
FORGET_S: Final = 60.0
log = structlog.get_logger()


class Held:
    """What is known of one source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.jwks: tuple[dict[str, str], ...] | None = None
        """None: never got."""
        self.known = ("", "")
        """From which URL, and by which ETag."""
        self.max_age_s = math.inf
        """Of the document that is the first to believe it no more."""
        self.fetched_at = 0.0
        """Unix time (s) at which the issuer said so last."""
        self.failing_since = 0.0
        """Unix time (s); 0: it did not fail last."""
        self.reason = ""
        self.passed_over = 0
        self.tried_s = float("-inf")
        """On the loop's clock."""
        self.missed = trio.Event()
        self.scope = trio.CancelScope()


class Issuers:
    """Of one agent."""

    def __init__(
        self,
        client: Client,
        folder: Path,
        sources: Callable[[], Iterable[tuple[Source, float]]],
        *,
        publish: Callable[[IssuerKeys], None],
        agents: Callable[[], int] = lambda: 1,
        clock: Callable[[], float] = time.time,
        chance: Random | None = None,
        in_thread: Callable[..., Awaitable[object]] = trio.to_thread.run_sync,
        tell: Callable[[str, str], None] = lambda name, reason: None,
    ) -> None:
        """`sources`: those that documents name now, and for how long each believes keys that cannot be fetched anew
        (s). `publish`: to all workers. `agents`: how many live.
        `in_thread`: where what waits for the disk is done. `tell`: an event, and why."""
        self.client = client
        """What issuers are asked by."""
        self._shelf = Shelf(folder)
        self._sources = sources
        self._publish = publish
        self._agents = agents
        self._clock = clock
        self._chance = chance or Random()
        self._in_thread = in_thread
        self._event = tell
        self._told = False
        """Whether it stands that an issuer fails."""
        self._told_ending: set[str] = set()
        """Sources of which it was told that their keys end soon."""
        self._nursery: trio.Nursery | None = None
        self._limiter = trio.CapacityLimiter(FETCHING)
        self.keyring = Keyring()
        """For what control verifies itself."""
        self.keyring.on_missing = self.miss
        self.held: dict[str, Held] = {}
        self.fetches: Counter[tuple[str, str]] = Counter()
        """By source and outcome: changed, same, failed."""
        self.unlisted = 0
        """Sources beyond what is fetched."""

    async def run(self) -> None:
        """Fetch until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for held in self.held.values():
                    nursery.start_soon(self._keep, held)
                nursery.start_soon(self._watch)
                while True:
                    await trio.sleep(SWEEP_S)
                    await self._in_thread(self._shelf.sweep, list(self.held))
            finally:
                self._nursery = None

    async def _watch(self) -> None:
        """Have it told that an issuer fails, and that none does any more."""
        while True:
            await trio.sleep(LOOK_S)
            now = self._clock()
            failing = [each for each in self.held.values() if each.failing_since]
            lasting = [each for each in failing if now - each.failing_since >= TELL_S]
            if lasting and not self._told:
                self._told = True
                self._event("issuer.failing", lasting[0].reason)
            elif self._told and not failing:
                self._told = False
                self._event("issuer.back", "")
            self._tell_ending(now)

    def _tell_ending(self, now: float) -> None:
        ending = {name: held for name, held in self.held.items() if is_ending(held, now)}
        for name in ending.keys() - self._told_ending:
            left_s = max(0.0, ends_at(ending[name]) - now)
            why = ending[name].reason or "it was not fetched since"
            log.error("keys of an issuer end, since they cannot be fetched anew", source=name, left_s=round(left_s))
            self._event("issuer.ending", f"{name}: its keys count for {left_s:.0f} s more: {why}")
        self._told_ending = set(ending)

    def follow(self) -> None:
        """Documents name others than before, perhaps. What is on disk of a new source counts at once."""
        wanted: dict[str, Source] = {}
        max_ages_s: dict[str, float] = {}
        for source, max_age_s in self._sources():
            wanted[source.name] = source
            max_ages_s[source.name] = min(max_age_s, max_ages_s.get(source.name, math.inf))
        self.unlisted = max(0, len(wanted) - MAX_SOURCES)
        for name in [name for name in self.held if name not in wanted]:
            self.held.pop(name).scope.cancel()
            if self._nursery is not None:
                self._nursery.start_soon(self._forget, name)
        for name, source in wanted.items():
            if name in self.held:
                self.held[name].max_age_s = max_ages_s[name]
                continue
            if len(self.held) >= MAX_SOURCES:
                log.error("too many issuers; the keys of this one are not fetched", source=name, most=MAX_SOURCES)
                continue
            self.held[name] = held = Held(source)
            held.max_age_s = max_ages_s[name]
            kept = self._shelf.read(name)
            if kept is not None:
                # A clock that was ahead once makes nothing younger than it is.
                held.jwks, held.fetched_at = kept.jwks, min(kept.fetched_at, self._clock())
                held.known = (kept.url, kept.etag)
                self._tell(_frame(held))
            if self._nursery is not None:
                self._nursery.start_soon(self._keep, held)

    async def _forget(self, name: str) -> None:
        """Workers may still run the documents of before."""
        await trio.sleep(FORGET_S)
        if name not in self.held:
            self._tell(IssuerKeys(name))

    def frames(self) -> list[IssuerKeys]:
        """What a worker has to know that has just begun."""
        return [_frame(held) for held in self.held.values() if held.jwks is not None]

    def miss(self, source: str) -> None:
        """Somebody shows a token of a key that is not known."""
        held = self.held.get(source)
        if held is not None:
            held.missed.set()

    def as_state(self) -> list[dict[str, Any]]:
        """For people: of each source what is known, how old that is, and what went wrong."""
        now = self._clock()
        return [
            {
                "source": name,
                "keys": None if held.jwks is None else len(held.jwks),
                "kids": [jwk.get("kid", "") for jwk in held.jwks or ()],
                "passed_over": held.passed_over,
                "age_s": None if held.jwks is None else round(max(0.0, now - held.fetched_at), 1),
                "left_s": None if held.jwks is None else round(max(0.0, ends_at(held) - now), 1),
                "ending": is_ending(held, now),
                "failing_s": round(max(0.0, now - held.failing_since), 1) if held.failing_since else None,
                "reason": held.reason,
            }
            for name, held in sorted(self.held.items())
        ]

    def gauges(self) -> dict[str, float]:
        """For metrics."""
        held, now = self.held.values(), self._clock()
        ages = [max(0.0, now - each.fetched_at) for each in held if each.jwks is not None]
        return {
            "shoal_issuers": len(held) + self.unlisted,
            "shoal_issuer_failing": sum(bool(each.failing_since) for each in held),
            "shoal_issuer_unknown": sum(each.jwks is None for each in held) + self.unlisted,
            "shoal_issuer_keys_age_seconds": max(ages, default=0.0),
        }

    async def _keep(self, held: Held) -> None:
        with held.scope:
            backoff = Backoff(5.0, 300.0, self._chance)
            await self._wait(held, self._first_s(held))
            while True:
                async with self._limiter:
                    held.missed = trio.Event()
                    held.tried_s = trio.current_time()
                    fresh_s = await self._look(held)
                if fresh_s:
                    backoff.reset()
                await self._wait(held, fresh_s * self._chance.uniform(0.75, 1.0) if fresh_s else backoff.next_s())

    def _first_s(self, held: Held) -> float:
        """Before an agent asks for the first time: those of a large mesh do not begin together."""
        apart_s = self._chance.uniform(0.0, min(APART_S, self._agents() / PER_S))
        if held.jwks is None:
            return apart_s
        age_s = max(0.0, self._clock() - held.fetched_at)
        return max(apart_s, (USUAL_S - age_s) * self._chance.random())

    async def _wait(self, held: Held, wait_s: float) -> None:
        """So long; or until somebody misses a key, where nobody has asked for a while."""
        with trio.move_on_after(wait_s):
            await held.missed.wait()
            await trio.sleep_until(held.tried_s + MISS_S)

    async def _look(self, held: Held) -> float:
        """For how long what was found is fresh; 0: nothing was."""
        name = held.source.name
        try:
            found = await fetch(self.client, held.source, held.known)
        except Exception as error:  # a mistake of ours costs a fetch, and not the agent
            log.exception("fetching keys failed by an internal error", source=name)
            found = f"an internal error, see the agent's log: {type(error).__name__}"
        now = self._clock()
        if isinstance(found, str):
            self.fetches[name, "failed"] += 1
            if found != held.reason:
                log.warning(
                    "an issuer's keys cannot be fetched", source=name, reason=found, known=held.jwks is not None
                )
            held.reason = found
            held.failing_since = held.failing_since or now
            return 0.0
        if held.failing_since:
            log.info("an issuer's keys can be fetched again", source=name)
        held.reason, held.failing_since, held.fetched_at = "", 0.0, now
        held.known = (found.url, found.etag)
        changed = found.jwks is not None and found.jwks != held.jwks
        self.fetches[name, "changed" if changed else "same"] += 1
        if found.jwks is not None:
            held.passed_over = found.passed_over
        if changed:
            before = {jwk.get("kid", "") for jwk in held.jwks or ()}
            held.jwks = found.jwks
            assert held.jwks is not None
            kids = {jwk.get("kid", "") for jwk in held.jwks}
            log.info(
                "an issuer publishes other keys", source=name, new=sorted(kids - before), gone=sorted(before - kids)
            )
        assert held.jwks is not None
        self._tell(_frame(held))
        kept = Kept(name, held.jwks, *held.known, now)
        await self._in_thread(self._shelf.write, kept)
        return found.fresh_s

    def _tell(self, frame: IssuerKeys) -> None:
        self.keyring.put(frame.source, frame.jwks, math.inf if frame.said_s is None else frame.said_s)
        self._publish(frame)


def ends_at(held: Held) -> float:
    """From when on the first document believes its keys no more, if nothing more is heard (Unix time, s)."""
    return held.fetched_at + held.max_age_s


def is_ending(held: Held, now: float) -> bool:
    """Whether a quarter of its time is left at most: keys that can be fetched never come near."""
    return held.jwks is not None and ends_at(held) - now <= held.max_age_s * ENDING


def _frame(held: Held) -> IssuerKeys:
    assert held.jwks is not None
    return IssuerKeys(held.source.name, [*held.jwks], held.fetched_at)
