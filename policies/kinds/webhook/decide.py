"""Which of a hook's events are told, and when: `for`, `debounce`, `max_per_hour` and the digest.

Laws
- Nothing is lost here: of each event it is said Send, Wait or Drop, and why. Whoever was told to wait offers the event
  again at that time; until then it lies in the outbox, not here. So a filter that is lost with its agent loses nothing:
  another begins empty, is offered what is left, and at worst tells something twice.
- What was told is in the end what is so: a recovery whose opening was told is told, however the condition ended and
  whoever told of its beginning (`begun`), and one whose opening was not is not. A first verdict is no recovery.
- Good news never crowds out bad: what begins has a share of its own of the hour, and the end of what was told is never
  held back. One service's news never crowd out another's (`share`).
- Asking again about an event that was told gets the same answer.
- Events of one condition are first offered in the order of their happening, and have to be delivered in the order of
  their Sends.

A clock that jumps back is taken for standing still.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from policies.kinds.webhook.document import Hook
from policies.kinds.webhook.event import FIRST_VERDICT, PREFIX, Effect, Event, Value
from policies.kinds.webhook.share import Share
from policies.language.duration import seconds

MAX_CONDITIONS: Final = 10_000
MAX_IDS: Final = 20_000
MAX_DIGEST: Final = 10_000
MAX_SHARES: Final = 10_000
_SUBJECTS: Final = 20
_ENDINGS: Final = (Effect.CLOSES, Effect.ENDS)


class Send(NamedTuple):
    """Tell it now. For a digest: once it is delivered, `covers` are delivered too."""

    event: Event
    covers: tuple[str, ...] = ()


class Wait(NamedTuple):
    """Offer it again then."""

    until: float
    reason: str


class Drop(NamedTuple):
    """Not told."""

    reason: str


Verdict: TypeAlias = Send | Wait | Drop


class _Condition:
    """What was told of one, and what waits."""

    __slots__ = ("after", "at", "digested", "open", "since", "told_type", "waiting")

    def __init__(self) -> None:
        self.told_type = ""
        self.after: Value = None
        self.at = float("-inf")
        self.open = False
        """Whether what was told last opens it."""
        self.digested = False
        """Whether that waits in a digest."""
        self.waiting: Event | None = None
        self.since = 0.0
        """When the one that waits, or the first of a row of openings, happened."""


def condition_of(event: Event) -> str:
    """What an event tells of. What merely tells says nothing about another type of event."""
    return f"{event.key} {event.type}" if event.effect is Effect.TELLS else event.key


class Filter:
    """One hook's. Outlives its documents."""

    __slots__ = (
        "_closers",
        "_conditions",
        "_counted",
        "_debounce_s",
        "_for_s",
        "_keeps",
        "_max",
        "_names",
        "_now",
        "_over",
        "_recoveries",
        "_shares",
        "_told",
    )

    def __init__(self, hook: Hook) -> None:
        self._now = float("-inf")
        self._conditions: dict[str, _Condition] = {}
        self._over: dict[str, str] = {}
        """Ids of events that need not be told, and why."""
        self._told: dict[str, str] = {}
        self._counted: dict[str, Share] = {}
        """Ids of events that were let through and are not settled, and the share that each is counted in."""
        self._shares: dict[str, Share] = {}
        """By service."""
        self.configure(hook)

    def configure(self, hook: Hook) -> None:
        """Take an edited hook's figures; what was told and counted stays. Offer again what waits."""
        self._names = hook.names()
        self._closers = hook.closers()
        self._keeps = hook.keeps
        self._recoveries = bool(hook.events) and not hook.keeps
        self._for_s = seconds(hook.for_)
        self._debounce_s = seconds(hook.debounce)
        self._max = hook.max_per_hour
        if self._keeps:  # it may have told of each event before: what was to be summed up is judged one by one
            for share in self._shares.values():
                share.digest = {}

    def begun(self, key: str, type: str) -> None:
        """Somebody told that a condition has begun, by an event of a type (in full), and nobody that it has ended."""
        condition = self._condition(key)
        condition.open = True
        condition.told_type = type

    def offer(self, event: Event, now: float, age_s: float = 0.0) -> Verdict:
        """What becomes of an event of the hook's services, whatever its type; `age_s`: how long ago it happened."""
        self._now = now = max(now, self._now)
        if event.id in self._over:
            return Drop(self._over[event.id])
        share = self._shares.get(event.service)
        if share is not None:
            if event.id in share.covered:
                return Send(share.last, share.covered) if share.last is not None else Send(event)
            if event.id in share.digest:
                return self._digested(share, now)
        if event.id in self._told:
            return Send(event)
        condition = self._condition(condition_of(event))
        waiting = condition.waiting
        if waiting is None or waiting.id != event.id:
            dropped = self._arrived(condition, event, now - max(0.0, age_s))
            if dropped is not None:
                return dropped
        return self._judge(condition, event, now)

    def _arrived(self, condition: _Condition, event: Event, happened: float) -> Drop | None:
        """An event that was not seen before takes the place of the one that waits."""
        waiting, effect = condition.waiting, event.effect
        same_row = waiting is not None and waiting.effect is effect is Effect.OPENS
        if not same_row:
            condition.since = happened
        if waiting is not None:
            condition.waiting = None
            ended = waiting.effect is Effect.OPENS and effect in _ENDINGS
            _remember(
                self._over,
                waiting.id,
                f"over before it was told: {event.name}" if ended else f"{event.name} came after",
            )
            news = effect is Effect.ENDS and not self._keeps
            if ended and not condition.open and not news:
                return self._drop(event, "what it ends was not told")
        if event.name not in self._names and not (condition.open and event.name in self._closers):
            if effect in _ENDINGS:
                condition.open = False
                condition.told_type = ""
            return self._drop(event, "not one of the hook's events")
        first = effect is Effect.CLOSES and event.data.get("before") == FIRST_VERDICT
        if first and not condition.open and not self._recoveries:
            return self._drop(event, "a first verdict is no recovery")
        return None

    def _judge(self, condition: _Condition, event: Event, now: float) -> Verdict:
        quiet_until = condition.at + self._debounce_s
        told_before = condition.told_type == event.type and condition.after == event.data.get("after")
        if told_before and now < quiet_until:
            condition.waiting = None
            return self._drop(event, "the same was told just now")
        due = condition.since + self._for_s if event.effect is Effect.OPENS else now
        if now < due:
            return self._wait(condition, event, due, "it has not lasted long enough")
        if now < quiet_until:
            return self._wait(condition, event, quiet_until, "another event of it was told just now")
        return self._spend(condition, event, now)

    def _spend(self, condition: _Condition, event: Event, now: float) -> Verdict:
        """Within the hour's share of its service, or when the hour is over."""
        share = self._share(event.service)
        if share.digest and now >= share.due:  # nobody came for it in time: what is newer must not overtake it
            share.digest[event.id] = event
            self._tell(condition, event, now)
            return self._digested(share, now)
        share.roll(now)
        opens = event.effect is Effect.OPENS
        ends = condition.open and event.effect in _ENDINGS
        if ends and not condition.digested:
            self._tell(condition, event, now)
            return Send(event)
        if condition.digested or share.spent(opens, self._max):
            said = f"{self._max} were told within the hour"
            if self._keeps:
                return self._wait(condition, event, share.ends, said)
            if len(share.digest) >= MAX_DIGEST:
                return self._wait(condition, event, share.ends, "the digest is full")
            share.defer(event)
            self._tell(condition, event, now)
            condition.digested = True
            return Wait(share.due, f"{said}; it goes into the digest")
        share.count(opens)
        self._tell(condition, event, now)
        self._counted[event.id] = share
        return Send(event)

    def settled(self, event: Event, *, told: bool) -> None:
        """Nothing more becomes of an event. One that was let through and never told is not of the hour's share: a
        receiver that is away for long would else use it up with what is not told any more."""
        share = self._counted.pop(event.id, None)
        if share is not None and not told:
            share.uncount(event.effect is Effect.OPENS)

    def _digested(self, share: Share, now: float) -> Verdict:
        if now < share.due:
            return Wait(share.due, "it goes into the digest")
        events = share.take(now)
        for event in events:
            self._condition(condition_of(event)).digested = False
        share.last = events[0] if len(events) == 1 else digest(events)
        return Send(share.last, share.covered)

    def _tell(self, condition: _Condition, event: Event, now: float) -> None:
        condition.waiting = None
        condition.told_type = event.type
        condition.after = event.data.get("after")
        condition.at = now
        condition.open = event.effect is Effect.OPENS
        share = self._shares.get(event.service)
        if share is None or event.id not in share.digest:
            _remember(self._told, event.id, "")

    def _wait(self, condition: _Condition, event: Event, until: float, reason: str) -> Wait:
        condition.waiting = event
        return Wait(until, reason)

    def _drop(self, event: Event, reason: str) -> Drop:
        _remember(self._over, event.id, reason)
        return Drop(reason)

    def _condition(self, key: str) -> _Condition:
        """The latest used are last; the first go when there are too many."""
        condition = self._conditions.pop(key, None) or _Condition()
        self._conditions[key] = condition
        if len(self._conditions) > MAX_CONDITIONS:
            del self._conditions[next(iter(self._conditions))]
        return condition

    def _share(self, service: str) -> Share:
        share = self._shares.pop(service, None) or Share()
        self._shares[service] = share
        if len(self._shares) > MAX_SHARES:
            del self._shares[next(iter(self._shares))]
        return share


def _remember(ids: dict[str, str], id: str, reason: str) -> None:
    """The first go when there are too many."""
    ids[id] = reason
    if len(ids) > MAX_IDS:
        del ids[next(iter(ids))]


def digest(events: list[Event]) -> Event:
    """One event that stands for several."""
    first, last = events[0], events[-1]
    counts: dict[str, int] = {}
    for event in events:
        counts[event.name] = counts.get(event.name, 0) + 1
    subjects = list(dict.fromkeys(event.subject for event in events))
    more = f" and {len(subjects) - _SUBJECTS} more" if len(subjects) > _SUBJECTS else ""
    services = {event.service for event in events}
    subject = f"digests/{first.id}"
    return Event(
        id=f"{first.id}-digest",
        type=f"{PREFIX}hook.digest",
        subject=subject,
        time=last.time,
        mesh=first.mesh,
        key=f"{first.mesh}/{subject}",
        service=first.service if len(services) == 1 else "",
        data={
            "count": len(events),
            "since": first.time,
            "types": ", ".join(f"{count} {name}" for name, count in sorted(counts.items())),
            "subjects": ", ".join(subjects[:_SUBJECTS]) + more,
        },
        link=first.link,
    )
