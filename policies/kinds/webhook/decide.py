"""Which of a hook's events are told, and when: `for`, `debounce`, `max_per_hour` and the digest.

Laws
- Nothing is lost here: of each event it is said Send, Wait or Drop, and why. Whoever was told to wait offers the event
  again at that time; until then it lies in the outbox, not here. So a filter that is lost with its agent loses nothing:
  another begins empty, is offered what is left, and at worst tells something twice.
- What was told is in the end what is so: a recovery whose opening was told is told, and one whose opening was not is
  not.
- Asking again about an event that was told gets the same answer.
- Events of one condition are first offered in the order of their happening, and have to be delivered in the order of
  their Sends.

A clock that jumps back is taken for standing still.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from policies.kinds.webhook.document import Hook
from policies.kinds.webhook.event import PREFIX, Effect, Event, Value
from policies.language.duration import seconds

HOUR_S: Final = 3600.0
MAX_CONDITIONS: Final = 10_000
MAX_IDS: Final = 20_000
MAX_DIGEST: Final = 10_000
_SUBJECTS: Final = 20


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

    __slots__ = ("after", "at", "open", "since", "told_type", "waiting")

    def __init__(self) -> None:
        self.told_type = ""
        self.after: Value = None
        self.at = float("-inf")
        self.open = False
        """Whether what was told last opens it."""
        self.waiting: Event | None = None
        self.since = 0.0
        """When the one that waits, or the first of a row of openings, happened."""


class Filter:
    """One hook's. Outlives its documents."""

    __slots__ = (
        "_conditions",
        "_count",
        "_debounce_s",
        "_digest",
        "_due",
        "_for_s",
        "_keeps",
        "_last_digest",
        "_max",
        "_names",
        "_now",
        "_over",
        "_told",
        "_window",
    )

    def __init__(self, hook: Hook) -> None:
        self._now = float("-inf")
        self._conditions: dict[str, _Condition] = {}
        self._over: dict[str, str] = {}
        """Ids of events that need not be told, and why."""
        self._told: dict[str, str] = {}
        self._window = float("-inf")
        self._count = 0
        self._digest: dict[str, Event] = {}
        self._due = 0.0
        self._last_digest: Send | None = None
        self.configure(hook)

    def configure(self, hook: Hook) -> None:
        """Take an edited hook's figures; what was told and counted stays. Offer again what waits."""
        self._names = hook.names()
        self._keeps = hook.keeps
        self._for_s = seconds(hook.for_)
        self._debounce_s = seconds(hook.debounce)
        self._max = hook.max_per_hour
        if self._keeps:  # it may have told of each event before: what was to be summed up is judged one by one
            self._digest = {}

    def offer(self, event: Event, now: float, age_s: float = 0.0) -> Verdict:
        """What becomes of an event of the hook's services, whatever its type; `age_s`: how long ago it happened."""
        self._now = now = max(now, self._now)
        if event.id in self._over:
            return Drop(self._over[event.id])
        if self._last_digest is not None and event.id in self._last_digest.covers:
            return self._last_digest
        if event.id in self._digest:
            return self._digested(now)
        if event.id in self._told:
            return Send(event)
        tells = event.effect is Effect.TELLS
        condition = self._condition(f"{event.key} {event.type}" if tells else event.key)
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
            ended = waiting.effect is Effect.OPENS and effect in (Effect.CLOSES, Effect.ENDS)
            _remember(
                self._over,
                waiting.id,
                f"over before it was told: {event.name}" if ended else f"{event.name} came after",
            )
            news = effect is Effect.ENDS and not self._keeps
            if ended and not condition.open and not news:
                return self._drop(event, "what it ends was not told")
        if event.name not in self._names:
            if effect in (Effect.CLOSES, Effect.ENDS):
                condition.open = False
                condition.told_type = ""
            return self._drop(event, "not one of the hook's events")
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
        """Within the hour's share, or when the hour is over."""
        if self._digest and now >= self._due:  # nobody came for it in time: what is newer must not overtake it
            self._digest[event.id] = event
            self._tell(condition, event, now)
            return self._digested(now)
        if now >= self._window + HOUR_S:
            self._window = now
            self._count = 0
        free = self._keeps and condition.open and event.effect in (Effect.CLOSES, Effect.ENDS)
        if self._max and self._count >= self._max and not free:
            until = self._window + HOUR_S
            if self._keeps:
                return self._wait(condition, event, until, f"{self._max} were told within the hour")
            if len(self._digest) >= MAX_DIGEST:
                return self._wait(condition, event, until, "the digest is full")
            if not self._digest:
                self._due = until
            self._digest[event.id] = event
            self._tell(condition, event, now)
            return Wait(self._due, f"{self._max} were told within the hour; it goes into the digest")
        self._count += not free
        self._tell(condition, event, now)
        return Send(event)

    def _digested(self, now: float) -> Verdict:
        if now < self._due:
            return Wait(self._due, "it goes into the digest")
        events = list(self._digest.values())
        self._digest = {}
        if now >= self._window + HOUR_S:
            self._window = now
            self._count = 0
        self._count += 1
        covers = tuple(event.id for event in events)
        self._last_digest = Send(events[0] if len(events) == 1 else digest(events), covers)
        return self._last_digest

    def _tell(self, condition: _Condition, event: Event, now: float) -> None:
        condition.waiting = None
        condition.told_type = event.type
        condition.after = event.data.get("after")
        condition.at = now
        condition.open = event.effect is Effect.OPENS
        if event.id not in self._digest:
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
