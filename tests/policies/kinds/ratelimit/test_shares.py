"""One limit for all agents: how it is divided, by whom, and that it is never given away twice."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from policies.kinds.ratelimit.shares import (
    GRANT_S,
    HOLD_S,
    IDLE,
    QUIET_GRANT_S,
    REPORT_S,
    REST,
    SOON_S,
    Ledger,
    Member,
    Report,
    Shared,
    divide,
    owner,
)
from tests.policies.kinds.ratelimit.simulate_shares import BURST, RATE, Bursts, Load, Simulation

LIMITS = st.floats(1e-3, 1e9)
DEMANDS = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0, 1e9), min_size=1, max_size=30)

# Dividing.


@given(LIMITS, DEMANDS)
def test_shares_never_add_up_to_more_than_the_limit(limit: float, demands: dict[str, float]) -> None:
    """Exactly, and to all of it but for rounding."""
    shares = divide(limit, demands)
    assert shares.keys() == demands.keys()
    total = sum(map(Fraction, shares.values()))
    assert total <= Fraction(limit)
    assert float(total) == pytest.approx(limit)
    assert min(shares.values()) >= 0


@given(LIMITS, DEMANDS)
def test_division_is_max_min_fair(limit: float, demands: dict[str, float]) -> None:
    """Who gets less than it asks for gets as much as anyone; and everyone gets the least part."""
    shares = divide(limit, demands)
    largest = max(shares.values())
    for member, share in shares.items():
        assert share >= IDLE * limit / len(shares) * (1 - 1e-6)
        assert share >= min(demands[member], largest) * (1 - 1e-6)


@given(LIMITS, DEMANDS)
def test_asking_for_more_never_gets_less(limit: float, demands: dict[str, float]) -> None:
    """And the order of demands is the order of shares."""
    shares = divide(limit, demands)
    ordered = [shares[member] for member in sorted(demands, key=lambda name: (demands[name], name))]
    assert all(less <= more * (1 + 1e-9) for less, more in pairwise(ordered))


def test_divisions() -> None:
    """By example: too little, enough, and nobody."""
    assert divide(100, {}) == {}
    assert divide(100, {"a": 500, "b": 10, "c": 500}) == pytest.approx({"a": 45, "b": 10, "c": 45})
    assert divide(100, {"a": 30, "b": 10}) == pytest.approx({"a": 60, "b": 40})
    assert divide(100, {"a": 500, "b": 0}) == pytest.approx({"a": 99, "b": 1})
    assert divide(0, {"a": 500, "b": 0}) == {"a": 0, "b": 0}


# Who divides.


@given(st.sets(st.text("abcdef.-0", min_size=1, max_size=9), min_size=2, max_size=30), st.data())
def test_an_owner_moves_only_when_it_goes(members: set[str], data: st.DataObject) -> None:
    """Whoever else comes or goes."""
    chosen = owner("pets/all", members)
    assert chosen in members
    gone = data.draw(st.sampled_from(sorted(members)))
    assert gone == chosen or owner("pets/all", members - {gone}) == chosen


def test_limits_are_spread_over_owners() -> None:
    """Evenly, as far as chance goes; and without a member there is no owner."""
    members = [f"host{n}" for n in range(5)]
    owned = [owner(f"pets/{n}", members) for n in range(1000)]
    assert all(150 < owned.count(member) < 250 for member in members)
    with pytest.raises(ValueError, match="empty"):
        owner("pets/all", [])


# A member.


def member(members: int = 4) -> Member:
    found = Member()
    found.configure(["all"], members)
    return found


def demand(found: Member, counter: float, now: float) -> float:
    return found.report({"all": counter}, now)["all"].demand


def test_demand_is_what_was_asked_for_a_second() -> None:
    """A change that is no chance is believed at once; what chance does is smoothed; a counter may begin anew."""
    m = member()
    assert demand(m, 1000, 0.0) == 0
    assert demand(m, 1100, 0.25) == 400
    assert demand(m, 1200, 0.5) == 400
    assert 400 < demand(m, 1310, 0.75) < 440
    assert demand(m, 2310, 1.0) == 4000
    assert demand(m, 2310, 1.25) == 0
    assert demand(m, 500, 1.5) == 2000
    assert demand(m, 900, 1.5) == 2000
    assert demand(m, 900, 0.5) == 2000


def test_a_grant_runs_out_in_steps() -> None:
    """Then no more than the fallback, and no more than it was; then the fallback."""
    for granted, held in ((0.7, 0.25), (0.1, 0.1)):
        m = member()
        assert m.share("all", 10.0) == 0.25
        assert m.report({}, 10.0)["all"].held == 0.25
        m.accept({"all": granted, "other": 0.5}, 1)
        assert m.share("all", 10.0 + GRANT_S) == granted
        assert m.report({}, 10.0 + GRANT_S)["all"].held == granted
        assert m.share("all", 10.01 + GRANT_S) == held
        assert m.share("all", 10.0 + GRANT_S + HOLD_S) == held
        assert m.report({}, 10.0 + GRANT_S + HOLD_S)["all"].held == 0.25
        assert m.share("all", 10.01 + GRANT_S + HOLD_S) == 0.25
        assert m.share("all", 10.0) == 0.25, "a clock that jumps back stands still"


def test_only_the_latest_report_can_be_answered() -> None:
    """The owner counts on no other; and nonsense is no grant."""
    m = member()
    m.report({}, 10.0)
    m.report({}, 10.25)
    m.accept({"all": 0.9}, 1)
    assert m.share("all", 10.3) == 0.25
    for nonsense in (-0.1, 1.1, math.nan):
        m.accept({"all": nonsense}, 2)
        assert m.share("all", 10.3) == 0.25
    m.accept({"all": 0.9}, 2)
    assert m.share("all", 10.3) == 0.9


def test_reports_are_due_sooner_while_something_changes() -> None:
    """A jump, an answer that stays away; at once when something was let go of."""
    m = member()
    assert m.due(0.0)
    m.report({"all": 0}, 0.0)
    assert not m.due(SOON_S)
    assert m.due(REPORT_S)
    m.report({"all": 1000}, 0.25)
    assert m.due(0.25 + SOON_S)
    m.accept({"all": 0.2}, m.serial)
    assert m.due(0.25)
    m.report({"all": 1000}, 0.26)
    m.accept({"all": 0.2}, m.serial)
    assert not m.due(0.3)
    quiet = member()
    for n in range(20):
        quiet.report({"all": 25 * n}, n / 4)
        quiet.accept({"all": 0.25}, quiet.serial)
    assert not quiet.due(4.75 + SOON_S)
    quiet.report({"all": 500}, 5.0)
    assert quiet.due(5.0 + SOON_S)


def test_limits_and_members_can_change() -> None:
    """What was granted stays; a limit that comes begins with the fallback."""
    m = member()
    m.report({"all": 0}, 1.0)
    m.accept({"all": 0.6}, 1)
    m.configure(["all", "more"], 5)
    assert (m.share("all", 1.1), m.share("more", 1.1)) == (0.6, 0.2)
    m.configure(["more"], 2)
    assert m.share("all", 1.1) == 0.5
    assert set(m.report({}, 1.25)) == {"more"}


# The owner.


def ledger(members: int = 4, keyed: bool = False, now: float = 0.0) -> Ledger:
    found = Ledger()
    found.configure({"all": Shared(100.0, keyed)}, [f"m{n}" for n in range(members)], now)
    return found


def rounds(found: Ledger, demands: list[float], begin: float, count: int = 3, held: float = 0.25) -> list[float]:
    """Grants after some rounds of reports that are answered."""
    grants = [held] * len(demands)
    for n in range(count):
        for m, asked in enumerate(demands):
            now = begin + n * REPORT_S + m / 1000
            grants[m] = found.report(f"m{m}", {"all": Report(asked, grants[m])}, now)["all"]
    return grants


def test_grants_are_max_min_fair() -> None:
    """After two rounds, also when the demand moves."""
    owned = ledger()
    assert rounds(owned, [500, 10, 10, 10], 0.0) == pytest.approx([0.7, 0.1, 0.1, 0.1])
    grants = [0.7, 0.1, 0.1, 0.1]
    for now in (1.0, 1.1, 1.2):
        for n, asked in ((0, 10), (1, 500)):
            grants[n] = owned.report(f"m{n}", {"all": Report(asked, grants[n])}, now)["all"]
    assert grants[:2] == pytest.approx([0.1, 0.7])


def test_a_limit_for_each_key_is_divided_in_proportion() -> None:
    """Demand is no measure of what one key wants, only of where the requests are."""
    assert rounds(ledger(keyed=True), [800, 100, 100, 0], 0.0, 5) == pytest.approx([0.8, 0.1, 0.1, 0.005], abs=0.01)
    assert rounds(ledger(keyed=True), [0, 0, 0, 0], 0.0) == pytest.approx([0.25] * 4)


def test_a_member_that_is_not_heard_of_keeps_its_fallback() -> None:
    """From the start, and after its grant has run out."""
    owned = ledger()
    assert rounds(owned, [500, 500, 500], 0.0, 5) == pytest.approx([0.25] * 3)
    owned = ledger()
    assert rounds(owned, [500, 500, 500, 0], 0.0, 4)[0] > 0.3
    assert rounds(owned, [500, 500, 500], 2.5, 5, 0.33) == pytest.approx([0.25] * 3)


def test_a_new_owner_waits_until_it_knows() -> None:
    """Whom it has not heard of may hold anything that the owner before has given."""
    owned = ledger(2, now=10.0)
    assert owned.report("m0", {"all": Report(500, 0.1)}, 10.1)["all"] == 0.1
    assert owned.report("m1", {"all": Report(5, 0.9)}, 10.2)["all"] == pytest.approx(0.05)
    assert owned.report("m0", {"all": Report(500, 0.1)}, 10.3)["all"] == pytest.approx(0.1)
    assert owned.report("m1", {"all": Report(5, 0.05)}, 10.4)["all"] == pytest.approx(0.05)
    assert owned.report("m0", {"all": Report(500, 0.1)}, 10.5)["all"] == pytest.approx(0.95)


def test_two_owners_give_away_no_more_than_one() -> None:
    """Each puts by the fallback of those that talk to the other."""
    found = ledger(), ledger()
    grants = [0.25] * 4
    for now in range(1, 40):
        for n in range(4):
            report = Report(1000 if n in (0, 2) else 1, grants[n])
            grants[n] = found[n // 2].report(f"m{n}", {"all": report}, now / 4)["all"]
        assert sum(grants) <= 1 + 1e-9
    assert grants == pytest.approx([0.49, 0.01, 0.49, 0.01], abs=0.01)


def test_what_others_say_is_believed_within_reason() -> None:
    """And of limits that it does not own an owner says nothing."""
    owned = ledger(2)
    for figure in (math.nan, math.inf, -math.inf, -1.0, 1e300):
        grants = owned.report("m0", {"all": Report(figure, figure), "other": Report(1, 1)}, 1.0)
        assert grants.keys() == {"all"}
        assert 0 <= grants["all"] <= 1
    owned.configure({}, ["m0"], 2.0)
    assert owned.report("m0", {"all": Report(1, 1)}, 3.0) == {}


def test_a_new_owner_gives_no_more_than_is_in_use() -> None:
    """Whose grant ran out a moment ago uses less than it may use later; another may still use what it was given."""
    owned = Ledger()
    owned.configure({"all": Shared(100.0)}, [f"m{n}" for n in range(6)], 10.0)
    assert owned.report("m0", {"all": Report(0.0, 1 / 6, 12.0, 0.13)}, 10.5)["all"] <= 0.13


def test_a_quiet_member_says_so_at_once_and_then_seldom() -> None:
    """And again when there are other members, for another owner may not have heard of it."""
    m = Member()
    m.configure(["all"], 4)
    told = []
    for n in range(60):
        now = 100 + n * REPORT_S
        reports = m.report({"all": 7.0}, now)
        m.accept(dict.fromkeys(reports, 0.01), m.serial)
        told += [(n, report.for_s) for report in reports.values()]
    assert [n for n, _ in told[:9]] == list(range(9)) and told[8][1] == QUIET_GRANT_S
    assert len(told) <= 12
    m.configure(["all"], 5)
    assert "all" in m.report({"all": 7.0}, 200.0)


@pytest.mark.parametrize("agents", [2, 5, 40])
@pytest.mark.parametrize("total", [900.0, 3000.0])
def test_what_is_quiet_is_not_reserved(agents: int, total: float) -> None:
    """After a pause of all, a lone agent has what it asks for: but for a round, nine tenths of it."""
    for seed in range(2):
        outcome = Simulation(Bursts(agents, total, moves_s=4.0), seed, lost=0.0).run(20.0)
        for begin in (8, 16):
            assert outcome.within(begin + 1, begin + 4) >= 0.9 * min(total, RATE) * 3
        assert outcome.highest <= 1 + 1e-9


@pytest.mark.parametrize("agents", [2, 5, 40])
def test_after_a_pause_all_of_them_have_their_parts(agents: int) -> None:
    """Of an even load: at first of what came in while they rested."""
    for seed in range(2):
        outcome = Simulation(Bursts(agents, 900.0, 0.0, 4.0), seed, lost=0.0).run(20.0)
        assert min(outcome.within(begin, begin + 4) for begin in (8, 16)) >= 0.9 * 3600


def test_what_rested_passes_once() -> None:
    """Never more than twice the burst and the rate, whoever is asked when."""
    for skew in (0.0, 1.0):
        outcome = Simulation(Bursts(5, 9000.0, skew, 3.0), 1, lost=0.0).run(24.0)
        for begin in range(4, 20):
            for length in (1, 2, 4):
                assert outcome.within(begin, begin + length) <= 2 * BURST + RATE * length * 1.02


def test_a_quiet_member_of_the_version_before_keeps_its_part() -> None:
    """It cannot rest."""
    owned = ledger(2)
    for now in (1.0, 1.25, 1.5):
        reports = [("m0", Report(5.0, 0.5, rests=True)), ("m1", Report(0.0, 0.5, 12.0))]
        grants = [owned.report(name, {"all": report}, now)["all"] for name, report in reports]
    assert grants[1] > 0.4
    for now in (1.75, 2.0):
        reports = [("m0", Report(5.0, 0.5, rests=True)), ("m1", Report(0.0, 0.4, 12.0, rests=True))]
        grants = [owned.report(name, {"all": report}, now)["all"] for name, report in reports]
    assert grants[1] == IDLE / 2


def test_who_rests_is_told_what_comes_in() -> None:
    """While nobody at all is asked; with nonsense for it nobody rests."""
    owned, names = ledger(2), ("m0", "m1")
    for now in (1.0, 1.25):
        told = [owned.report(name, {"all": Report(0.0, 0.01, 12.0, rests=True)}, now) for name in names]
    assert all(grants == {"all": IDLE / 2, f"all{REST}": 0.5} for grants in told)
    owned.report("m0", {"all": Report(9.0, 0.01, rests=True)}, 1.5)
    assert owned.report("m1", {"all": Report(0.0, 0.01, 12.0, rests=True)}, 1.6) == {"all": IDLE / 2}
    m = member()
    for rest, found in ((0.2, 0.2), (0.9, 0.25), (-1.0, 0.0), (math.nan, 0.0)):
        m.report({"all": 0}, 10.0)
        m.accept({"all": 0.01, f"all{REST}": rest}, m.serial)
        assert m.rest("all", 10.0) == found
    assert m.rest("all", 99.0) == m.rest("other", 10.0) == 0.0


class Mesh(RuleBasedStateMachine):
    """Members, owners that die and come back, reports and answers lost or late: never more than the whole is in use."""

    @initialize(size=st.integers(1, 6), seed=st.integers(0, 99))
    def begin(self, size: int, seed: int) -> None:
        self.now = 1000.0 + seed
        self.names = [f"m{n}" for n in range(size)]
        self.members = {name: Member() for name in self.names}
        for found in self.members.values():
            found.configure(["all"], size)
        self.counters = dict.fromkeys(self.names, 0.0)
        self.ledgers = [Ledger(), Ledger()]
        self.answers: list[tuple[str, dict[str, float], int]] = []
        self.owner = 0
        self.ledgers[0].configure({"all": Shared(100.0)}, self.names, self.now)

    @rule(name=st.integers(0, 5), asked=st.sampled_from([0, 1, 5, 30, 1000]), fate=st.integers(0, 9))
    def report(self, name: int, asked: int, fate: int) -> None:
        """Nine of ten arrive, eight are answered, and one of those late."""
        who = self.names[name % len(self.names)]
        self.counters[who] += asked
        reports = self.members[who].report({"all": self.counters[who]}, self.now)
        serial = self.members[who].serial
        if fate == 0:
            return
        grants = self.ledgers[self.owner].report(who, reports, self.now)
        if fate == 1:
            self.answers.append((who, grants, serial))
        elif fate > 2:
            self.members[who].accept(grants, serial)

    @rule(asked=st.lists(st.sampled_from([0, 5, 30, 1000]), min_size=6, max_size=6), count=st.integers(1, 4))
    def report_all(self, asked: list[int], count: int) -> None:
        """Some rounds in which nothing is lost."""
        for _ in range(count):
            for n in range(len(self.names)):
                self.report(n, asked[n], 9)
            self.now += REPORT_S
            self.nothing_is_given_away_twice()

    @rule()
    def answer_late(self) -> None:
        """Which is as good as never, once another report was made."""
        if self.answers:
            who, grants, serial = self.answers.pop(0)
            self.members[who].accept(grants, serial)

    @rule(step=st.sampled_from([0.01, 0.1, 0.25, 0.25, 0.6, 1.1]))
    def pass_time(self, step: float) -> None:
        """Members have moments in which nothing comes about: the law is for each of them."""
        for _ in range(4):
            self.now += step / 4
            self.nothing_is_given_away_twice()

    @rule()
    def change_owner(self) -> None:
        """The new one knows nothing."""
        self.owner = 1 - self.owner
        self.ledgers[self.owner] = Ledger()
        self.ledgers[self.owner].configure({"all": Shared(100.0)}, self.names, self.now)

    @invariant()
    def nothing_is_given_away_twice(self) -> None:
        """Shares in use add up to at most the limit."""
        if hasattr(self, "members"):
            assert sum(found.share("all", self.now) for found in self.members.values()) <= 1 + 1e-9


TestMesh = Mesh.TestCase
TestMesh.settings = settings(max_examples=150, stateful_step_count=60)


# All of it, in fake time.


@pytest.mark.parametrize("seed", range(4))
def test_what_passes_is_the_limit(seed: int) -> None:
    """Three times as much is asked for, most of it of one agent, which is another one every 5 s; 5% of the messages are
    lost, the others up to 50 ms late: within 5% over every 5 s, and the shares never add up to more than the limit."""
    outcome = Simulation(Load(), seed).run(21.0)
    errors = outcome.errors(5.0, 1.0, 21.0)
    assert -0.05 <= min(errors) <= max(errors) <= 0.05
    assert outcome.highest <= 1 + 1e-9


@pytest.mark.parametrize("seed", range(2))
def test_without_an_owner_the_limit_holds(seed: int) -> None:
    """Every agent has the same part; what a skewed load cannot use of it is not used."""
    outcome = Simulation(Load(), seed, dead=(5.0, 20.0)).run(20.0)
    for begin in range(4, 19):
        assert outcome.within(begin, begin + 1) <= RATE + 0.1 * BURST
    assert outcome.within(10, 20) <= RATE * 10 * 1.01
    assert outcome.within(10, 20) >= RATE * 10 * 0.7
    assert outcome.highest <= 1 + 1e-9


def test_when_there_is_enough_nobody_is_refused_for_long() -> None:
    """Nine tenths of the limit, evenly."""
    outcome = Simulation(Load(total=900, skew=0.2), 7).run(11.0)
    assert outcome.within(1, 11) == pytest.approx(9000, rel=0.04)
