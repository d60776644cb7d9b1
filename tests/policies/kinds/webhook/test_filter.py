"""Which events are told, and when."""

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies.kinds.webhook.decide import Drop, Filter, Send, Wait, digest
from policies.kinds.webhook.document import Hook
from policies.kinds.webhook.event import PREFIX, Effect, Event, sample
from policies.kinds.webhook.share import HOUR_S

ISSUES: dict[str, Any] = {"format": "github-issue", "github": {"repo": "a/b"}, "secret": {"file": "token"}}


def hook(**fields: Any) -> Hook:
    return msgspec.convert({"target": {"url": "https://x.example/"}, **fields}, Hook)


def event(n: int, name: str = "instance.unhealthy", instance: str = "web-1", **data: Any) -> Event:
    made = sample(name)
    subject = made.subject.replace("web-1-8080", instance)
    after = {"after": name.partition(".")[2]} if name != "policy.changed" else {}
    return msgspec.structs.replace(made, id=f"c-{n}-0", subject=subject, key=f"m/{subject}", data={**after, **data})


def healthy(n: int, **more: Any) -> Event:
    return event(n, "instance.healthy", **more)


def test_without_more_words_everything_chosen_is_told_at_once() -> None:
    """The defaults are the events of health."""
    told = Filter(hook())
    assert told.offer(event(1), 0) == Send(event(1))
    assert told.offer(healthy(2), 1) == Send(healthy(2))
    assert told.offer(event(3, "service.down"), 2) == Send(event(3, "service.down"))
    gone = event(5, "instance.gone")
    assert told.offer(event(4, "instance.gone"), 3) == Drop("not one of the hook's events")
    told.offer(event(6), 4)
    assert told.offer(gone, 5) == Send(gone), "the end of what was told, however it ends"


@pytest.mark.parametrize("name", ["instance.unhealthy", "policy.refused", "agent.lost", "breaker.opened"])
@pytest.mark.parametrize("format", ["github-issue", "jira", "pagerduty"])
def test_what_is_kept_elsewhere_is_closed_though_only_its_beginning_was_asked_for(name: str, format: str) -> None:
    """By each type of event that ends it; and by none that ends nothing of it."""
    formats: dict[str, Any] = {
        "github-issue": ISSUES,
        "jira": {"format": format, "jira": {"api": "https://x.example", "project": "A"}, "secret": {"file": "t"}},
        "pagerduty": {"format": format, "pagerduty": {"routing_key": {"file": "t"}}},
    }
    keeping = msgspec.convert({"events": [name], **formats[format]}, Hook)
    assert keeping.closers() and keeping.remembers(sample(name))
    for n, closer in enumerate(sorted(keeping.closers())):
        told = Filter(keeping)
        end = sample(closer)
        assert isinstance(told.offer(end, 0), Drop), "nobody heard of what it ends"
        end = msgspec.structs.replace(end, id=f"c-{n}-1")
        told.offer(msgspec.structs.replace(sample(name), id="c-9-9"), 1)
        assert told.offer(end, 2) == Send(end)


def test_a_successor_closes_what_another_opened() -> None:
    """It is told what has begun; and of an end that the hook is otherwise not told of."""
    for name in ("instance.healthy", "instance.gone"):
        told = Filter(hook(max_per_hour=1))
        assert isinstance(told.offer(event(1, instance="other"), 0), Send)
        told.begun(event(0).key, event(0).type)
        assert told.offer(event(2, name), 1) == Send(event(2, name)), "and it is not held back"


def test_a_first_verdict_is_no_recovery() -> None:
    """A hundred and five instances start, and use nothing up; then all fail. Who chose the event is told of it."""
    for more in ({}, {"format": "slack"}, ISSUES):
        told = Filter(hook(**more))
        for n in range(105):
            first = event(n, "instance.healthy", f"i{n}", before="not checked")
            assert told.offer(first, n) == Drop("a first verdict is no recovery")
        failed = [event(200 + n, instance=f"i{n}") for n in range(100)]
        assert [told.offer(one, 200) for one in failed] == [Send(one) for one in failed]
    chosen = healthy(1, before="not checked")
    assert Filter(hook(events=["instance.*"])).offer(chosen, 0) == Send(chosen)
    told = Filter(hook())
    told.begun(chosen.key, PREFIX + "instance.unhealthy")
    assert told.offer(chosen, 0) == Send(chosen), "the agent was started anew; it was unhealthy before"


@pytest.mark.parametrize("good", ["instance.healthy", "instance.gone", "instance.registered"])
def test_good_news_never_crowds_out_bad(good: str) -> None:
    """Beginnings have a share of their own, whatever else there was; and so have the others, which are bounded too."""
    told = Filter(hook(events=["instance.*"], max_per_hour=3))
    news = [type(told.offer(event(n, good, f"i{n}"), n)) for n in range(9)]
    assert news == [Send] * 3 + [Wait] * 6
    bad = [event(20 + n, instance=f"j{n}") for n in range(4)]
    assert [type(told.offer(one, 20)) for one in bad] == [Send, Send, Send, Wait]


def test_what_was_never_told_is_not_of_the_share() -> None:
    """A receiver that is away for long: what it was to be told is merged, and the newest is told when it is back."""
    told = Filter(hook(max_per_hour=2))
    for n in range(0, 20, 2):
        for one in (event(n), healthy(n + 1)):
            assert isinstance(told.offer(one, n), Send)
            told.settled(one, told=False)
    last = [event(30 + n, instance=f"i{n}") for n in range(3)]
    assert [type(told.offer(one, 30)) for one in last] == [Send, Send, Wait]
    told.settled(last[0], told=True)
    told.settled(last[0], told=False)
    assert isinstance(told.offer(event(40, instance="i9"), 40), Wait)


def test_a_wide_documents_limit_is_a_services() -> None:
    """One service's flood is not another's silence; each has a digest of its own."""
    told = Filter(hook(max_per_hour=1))

    def of(service: str, n: int) -> Event:
        return msgspec.structs.replace(event(n, instance=f"i{n}"), service=service, key=f"m/{service}/{n}")

    assert [type(told.offer(of("a", n), n)) for n in range(3)] == [Send, Wait, Wait]
    assert told.offer(of("b", 9), 9) == Send(of("b", 9))
    found = told.offer(of("a", 1), 3600)
    assert isinstance(found, Send) and found.covers == ("c-1-0", "c-2-0") and found.event.service == "a"


def test_what_waits_in_a_digest_ends_there() -> None:
    """The end does not come before the beginning."""
    told = Filter(hook(max_per_hour=1))
    told.offer(event(1, instance="a"), 0)
    assert isinstance(told.offer(event(2), 1), Wait) and isinstance(told.offer(healthy(3), 2), Wait)
    found = told.offer(event(2), 3600)
    assert isinstance(found, Send) and found.covers == ("c-2-0", "c-3-0")


def test_asking_again_gets_the_same_answer() -> None:
    """Also about an event whose recovery was told since."""
    told = Filter(hook(max_per_hour=1))
    first = told.offer(event(1), 0)
    told.offer(healthy(2), 1)
    assert told.offer(event(1), 2) == first == Send(event(1))
    dropped = told.offer(event(4, "instance.gone"), 3)
    assert told.offer(event(4, "instance.gone"), 9) == dropped


# for.


def test_a_condition_has_to_last() -> None:
    """It is told when the time has come, not before."""
    told = Filter(hook(**{"for": "30s"}))
    assert told.offer(event(1), 100) == Wait(130, "it has not lasted long enough")
    assert told.offer(event(1), 129.9) == Wait(130, "it has not lasted long enough")
    assert told.offer(event(1), 130) == Send(event(1))
    assert told.offer(healthy(2), 131) == Send(healthy(2))


@pytest.mark.parametrize("ending", ["instance.healthy", "instance.gone"])
def test_a_recovery_cancels_what_was_not_told(ending: str) -> None:
    """And is not told itself."""
    told = Filter(hook(**{"for": "30s", **ISSUES, "events": ["instance.*"]}))
    told.offer(event(1), 0)
    assert told.offer(event(2, ending), 10) == Drop("what it ends was not told")
    assert told.offer(event(1), 30) == Drop(f"over before it was told: {ending}")


def test_a_recovery_that_the_hook_is_not_told_of_cancels_too() -> None:
    """With events that only open."""
    told = Filter(hook(**{"for": "30s", "events": ["instance.unhealthy"]}))
    told.offer(event(1), 0)
    assert isinstance(told.offer(healthy(2), 10), Drop)
    assert isinstance(told.offer(event(1), 30), Drop)


def test_to_who_is_told_of_everything_an_end_is_news() -> None:
    """An instance that is gone, though nobody heard that it was unhealthy."""
    told = Filter(hook(**{"for": "30s", "events": ["instance.*"]}))
    told.offer(event(1), 0)
    gone = event(2, "instance.gone")
    assert told.offer(gone, 10) == Send(gone)
    assert told.offer(event(1), 30) == Drop("over before it was told: instance.gone")


def test_another_reason_does_not_begin_the_time_anew() -> None:
    """The latest is told, of the row that began with the first."""
    told = Filter(hook(**{"for": "30s"}))
    told.offer(event(1), 0)
    assert told.offer(event(2, reason="other"), 20) == Wait(30, "it has not lasted long enough")
    assert told.offer(event(1), 30) == Drop("instance.unhealthy came after")
    assert told.offer(event(2, reason="other"), 30) == Send(event(2, reason="other"))


def test_a_condition_that_comes_back_begins_anew() -> None:
    """Each time it has to last."""
    told = Filter(hook(**{"for": "30s"}))
    told.offer(event(1), 0)
    told.offer(healthy(2), 10)
    assert told.offer(event(3), 20) == Wait(50, "it has not lasted long enough")
    assert isinstance(told.offer(event(1), 30), Drop)
    assert told.offer(event(3), 50) == Send(event(3))


def test_another_agent_that_takes_over_counts_from_when_it_happened() -> None:
    """A filter that begins empty is told how old an event is."""
    told = Filter(hook(**{"for": "30s"}))
    assert told.offer(event(1), 7, age_s=10) == Wait(27, "it has not lasted long enough")
    assert Filter(hook(**{"for": "30s"})).offer(event(1), 7, age_s=30) == Send(event(1))
    assert Filter(hook(**{"for": "30s"})).offer(healthy(2), 7, age_s=5) == Send(healthy(2))


# debounce.


def test_flapping_is_told_as_what_is_so_in_the_end() -> None:
    """One event in the time, and nothing when it is as was said."""
    told = Filter(hook(debounce="60s"))
    assert told.offer(event(1), 0) == Send(event(1))
    assert told.offer(healthy(2), 1) == Wait(60, "another event of it was told just now")
    assert told.offer(event(3), 2) == Drop("the same was told just now")
    assert told.offer(healthy(2), 60) == Drop("instance.unhealthy came after")
    assert told.offer(healthy(4), 61) == Send(healthy(4))


def test_debounce_is_of_each_condition() -> None:
    """One instance does not silence another."""
    told = Filter(hook(debounce="60s"))
    told.offer(event(1), 0)
    assert isinstance(told.offer(event(2, instance="web-2"), 1), Send)


def test_news_of_one_kind_are_no_repetition() -> None:
    """Two changes of a policy are two; the later is told in its time."""
    told = Filter(hook(debounce="60s", events=["policy.changed"]))
    told.offer(event(1, "policy.changed", after="10"), 0)
    second = event(2, "policy.changed", after="11")
    assert told.offer(second, 1) == Wait(60, "another event of it was told just now")
    assert told.offer(second, 60) == Send(second)


# max_per_hour.


def test_beyond_the_hours_share_there_is_a_digest() -> None:
    """Once, at the end of the hour, in place of all that were held back."""
    told = Filter(hook(max_per_hour=2))
    events = [event(n, instance=f"web-{n}") for n in range(5)]
    assert [type(told.offer(one, n)) for n, one in enumerate(events)] == [Send, Send, Wait, Wait, Wait]
    assert told.offer(events[3], 3599) == Wait(HOUR_S, "it goes into the digest")
    found = told.offer(events[3], 3600)
    assert isinstance(found, Send) and found.covers == ("c-2-0", "c-3-0", "c-4-0")
    assert found.event.data["count"] == 3 and found.event.id == "c-2-0-digest"
    assert told.offer(events[2], 3601) == found == told.offer(events[4], 3700)
    assert isinstance(told.offer(event(9, instance="z"), 3602), Send)
    assert isinstance(told.offer(event(10, instance="y"), 3603), Wait), "the digest counts too"


def test_a_digest_of_one_is_that_event() -> None:
    """There is nothing to sum up."""
    told = Filter(hook(max_per_hour=1))
    told.offer(event(1), 0)
    told.offer(event(2, instance="b"), 1)
    assert told.offer(event(2, instance="b"), 3600) == Send(event(2, instance="b"), ("c-2-0",))


def test_no_limit() -> None:
    """0."""
    told = Filter(hook(max_per_hour=0))
    assert all(isinstance(told.offer(event(n, instance=f"i{n}"), 0), Send) for n in range(500))


def test_issues_wait_for_the_next_hour_instead() -> None:
    """A digest could not be closed again. What comes and goes meanwhile is never opened; what is open may be closed."""
    told = Filter(hook(**ISSUES, max_per_hour=1))
    assert isinstance(told.offer(event(1), 0), Send)
    assert isinstance(told.offer(event(2, instance="b"), 1), Wait)
    assert isinstance(told.offer(event(3, instance="c"), 2), Wait)
    assert told.offer(healthy(4, instance="b"), 3) == Drop("what it ends was not told")
    assert told.offer(healthy(5), 4) == Send(healthy(5)), "not held back"
    assert isinstance(told.offer(event(2, instance="b"), 3600), Drop)
    assert told.offer(event(3, instance="c"), 3600) == Send(event(3, instance="c"))


def test_a_digest_says_how_many_of_what() -> None:
    """And of which, up to twenty."""
    made = digest([event(n, instance=f"i{n}") for n in range(30)] + [healthy(31, instance="i1")])
    assert made.name == "hook.digest" and made.effect is Effect.TELLS and made.service == "pets.production"
    assert made.data["types"] == "1 instance.healthy, 30 instance.unhealthy"
    assert str(made.data["subjects"]).endswith("/i19 and 10 more")
    assert made.title == "more happened than may be told one by one"


# Documents and clocks.


def test_an_edit_keeps_what_was_told() -> None:
    """And new figures go for what waits."""
    told = Filter(hook(**{"for": "30s", "max_per_hour": 2}))
    told.offer(event(1), 0)
    told.configure(hook(**{"for": "10s", "max_per_hour": 2}))
    assert told.offer(event(1), 10) == Send(event(1))
    told.configure(hook(max_per_hour=1))
    assert isinstance(told.offer(event(2, instance="b"), 11), Wait), "one was told before the edit"


def test_a_clock_that_jumps_back_stands_still() -> None:
    """Nothing waits for longer than it should."""
    told = Filter(hook(**{"for": "30s"}))
    told.offer(event(1), 100)
    assert told.offer(healthy(2, instance="b"), 50) == Send(healthy(2, instance="b"))
    assert told.offer(event(3, instance="c"), 50) == Wait(130, "it has not lasted long enough")


NAMES = ("instance.unhealthy", "instance.healthy", "instance.gone", "instance.registered")
SIDES = {"instance.unhealthy": True, "instance.healthy": False, "instance.gone": False}


class Outbox(RuleBasedStateMachine):
    """A caller as the outbox will be: it keeps what waits, offers it again in time, and notes what was told."""

    @initialize(
        for_s=st.sampled_from([0, 10, 600]),
        debounce_s=st.sampled_from([0, 20, 600]),
        most=st.sampled_from([0, 1, 3]),
        keeps=st.booleans(),
    )
    def begin(self, for_s: int, debounce_s: int, most: int, keeps: bool) -> None:
        self.for_s, self.debounce_s, self.most, self.keeps = for_s, debounce_s, most, keeps
        more = ISSUES if keeps else {}
        self.hook = hook(
            **{"events": ["instance.*"], "for": for_s, "debounce": debounce_s, "max_per_hour": most, **more}
        )
        self.filter = Filter(self.hook)
        self.now = 0.0
        self.n = 0
        self.waiting: dict[str, tuple[Event, float]] = {}
        self.began: dict[str, float] = {}
        """Of each condition that is open: when."""
        self.told: list[tuple[float, Event]] = []
        self.seen: dict[str, str] = {}
        """Of each condition: the last that the receiver was told."""
        self.ends: dict[str, str] = {}
        self.happened: dict[str, Event] = {}

    def offer(self, one: Event) -> None:
        found = self.filter.offer(one, self.now)
        if isinstance(found, Wait):
            assert found.until > self.now, "it would be asked at once again, for ever"
            self.waiting[one.id] = (one, found.until)
            return
        self.waiting.pop(one.id, None)
        self.ends[one.id] = type(found).__name__
        if isinstance(found, Send):
            self.told.append((self.now, found.event))
            for id in found.covers or (one.id,):
                each = self.happened[id]
                self.waiting.pop(id, None)
                self.ends[id] = "Send"
                self.receive(each, digested=bool(found.covers))

    def receive(self, each: Event, digested: bool) -> None:
        if each.name not in SIDES:
            return
        if each.effect is Effect.OPENS and not digested:
            assert each.key in self.began, "told of what is over"
            assert self.now >= self.began[each.key] + self.for_s, "told of what did not last"
        self.seen[each.key] = each.name

    @rule(name=st.sampled_from(NAMES), instance=st.sampled_from("abc"))
    def happens(self, name: str, instance: str) -> None:
        self.n += 1
        one = event(self.n, name, instance)
        self.happened[one.id] = one
        if name == "instance.unhealthy":
            self.began.setdefault(one.key, self.now)
        elif name in SIDES:
            self.began.pop(one.key, None)
        self.offer(one)

    @rule(seconds=st.sampled_from([1, 9, 30, 700, 3600]))
    def time_passes(self, seconds: int) -> None:
        until = self.now + seconds
        while due := sorted((at, id) for id, (_, at) in self.waiting.items() if at <= until):
            self.now = max(self.now, due[0][0])
            self.offer(self.waiting[due[0][1]][0])
        self.now = until

    @rule(seconds=st.sampled_from([5, 700, 4000]))
    def time_passes_unheeded(self, seconds: int) -> None:
        """The caller is late: busy, or away."""
        self.now += seconds

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def offered_early(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.waiting)))
        self.offer(self.waiting[id][0])

    @invariant()
    def the_hours_share_is_kept(self) -> None:
        """In any hour at most the share, twice where two windows meet, with their digests: of what begins, and of what
        neither begins nor ends what was told."""
        recent = [one for at, one in self.told if at > self.now - HOUR_S]
        begun = sum(one.effect is Effect.OPENS for one in recent)
        if self.most and not self.keeps:
            assert begun <= 2 * self.most + 2
            assert len(recent) <= begun + 2 * self.most + 2 + len(self.seen) + begun

    def teardown(self) -> None:
        """In the end everything was told or dropped, and what was told last of each condition is so."""
        for _ in range(self.n * 2 if hasattr(self, "n") else 0):
            self.time_passes(3600)
        if not hasattr(self, "n"):
            return
        assert not self.waiting and len(self.ends) == self.n
        for key, name in self.seen.items():
            assert SIDES[name] == (key in self.began), f"{key} was last told to be {name}"
        for key in self.began:
            assert SIDES.get(self.seen.get(key, "")), f"{key} is unhealthy, and nobody was told"


TestOutbox = Outbox.TestCase
TestOutbox.settings = settings(max_examples=200, stateful_step_count=30)


def test_the_prefix_is_of_the_full_name() -> None:
    """What the machine above relies on."""
    assert event(1).type == f"{PREFIX}instance.unhealthy"
