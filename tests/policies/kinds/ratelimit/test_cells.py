"""Rate limits of several workers: what passes is what one alone would let pass."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.kinds.ratelimit.buckets import Buckets, Compiled
from policies.kinds.ratelimit.cells import Cells, age_s, key_of, tokens_in, word_of
from policies.kinds.ratelimit.limit import Key, Limit
from policies.request import Request
from policies.together import WORDS, Together

USER = Key(header="X-User")
ANY = Request()


def of(user: str) -> Request:
    return Request("GET", "/", {"x-user": user})


class Agent:
    """Its workers."""

    def __init__(self, count: int = 4) -> None:
        words = memoryview(bytearray(8 * WORDS)).cast("q")
        self.views = [Together(words, region) for region in range(count)]
        self.workers = [self.worker(region) for region in range(count)]

    def worker(self, region: int, service: str = "pets") -> Buckets:
        return Buckets(1.0, service, Cells(self.views[region]))


def passed(compiled: Compiled, state: Buckets, now: float, count: int, request: Request = ANY) -> int:
    return sum(compiled.decide(state, request, now) is None for _ in range(count))


def test_all_workers_take_from_one_bucket() -> None:
    """Ten at once whoever is asked, and then the rate; one client that keeps its connection gets all of it."""
    agent, compiled = Agent(), Compiled([Limit("all", 5, 5)])
    assert [passed(compiled, worker, 5.0, 3) for worker in agent.workers] == [3, 2, 0, 0]
    assert [passed(compiled, agent.workers[3], 5.2 + n, 9) for n in range(5)] == [1, 5, 5, 5, 5]
    assert passed(compiled, agent.workers[0], 9.2, 9) == 0


@given(
    st.floats(0.1, 200),
    st.floats(1, 50),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 700), st.integers(1, 6)), max_size=60),
)
def test_whoever_is_asked_it_is_as_one(rate: float, burst: float, steps: list[tuple[int, int, int]]) -> None:
    """Never more than burst and rate, and never fewer than one worker alone lets pass, but for a rounding."""
    agent, alone, compiled = Agent(), Buckets(), Compiled([Limit("all", rate, burst)])
    now_ms, together, expected = 100_000, 0, 0
    for at, passes_ms, count in steps:
        now_ms += passes_ms
        together += passed(compiled, agent.workers[at], now_ms / 1000, count)
        expected += passed(compiled, alone, now_ms / 1000, count)
        assert abs(together - expected) <= 1 + together / 100 + rate * 0.001 * len(steps)
        assert together <= burst + rate * (now_ms / 1000 - 100) + 1e-6 + together / 256


def test_a_worker_that_is_asked_first_knows_what_came_in() -> None:
    """Since another took."""
    agent, compiled = Agent(), Compiled([Limit("all", 1, 2), Limit("each", 1, 2, key=USER)])
    assert passed(compiled, agent.workers[0], 5.0, 9, of("a")) == 2
    assert passed(compiled, agent.workers[1], 6.5, 9, of("a")) == 1


def test_keys_have_buckets_of_their_own() -> None:
    """Over all workers."""
    agent, compiled = Agent(), Compiled([Limit("each", 1, 2, key=USER)])
    for n in range(500):
        assert [passed(compiled, worker, 5.0, 1, of(f"u{n}")) for worker in agent.workers] == [1, 1, 0, 0]
    assert [passed(compiled, worker, 6.0, 2, of("u7")) for worker in agent.workers] == [1, 0, 0, 0]


def test_services_and_limits_have_buckets_of_their_own() -> None:
    """Of one name, too."""
    agent, compiled = Agent(), Compiled([Limit("all", 1, 2)])
    assert passed(compiled, agent.workers[0], 5.0, 9) == 2
    assert passed(compiled, agent.worker(1, "cats"), 5.0, 9) == 2
    assert passed(Compiled([Limit("other", 1, 2)]), agent.workers[1], 5.0, 9) == 2


def test_a_worker_that_died_gives_nothing_back() -> None:
    """What it let pass has passed; its successor goes on where all are."""
    agent, compiled = Agent(), Compiled([Limit("all", 1, 4)])
    assert passed(compiled, agent.workers[0], 5.0, 9) == 4
    agent.workers[0] = agent.worker(0)
    assert passed(compiled, agent.workers[0], 5.0, 9) == 0
    assert passed(compiled, agent.workers[0], 7.0, 9) == 2


@given(st.lists(st.tuples(st.floats(0.5, 50), st.integers(1, 30)), min_size=2, max_size=6), st.lists(st.integers(0, 3)))
def test_no_edit_fills_a_bucket(figures: list[tuple[float, int]], asked: list[int]) -> None:
    """Whichever worker hears of it first."""
    agent = Agent()
    compiled = Compiled([Limit("all", figures[0][0], figures[0][1])])
    passed(compiled, agent.workers[0], 5.0, 99)
    for rate, burst in figures[1:]:
        compiled = Compiled([Limit("all", rate, burst)])
        for at in [*asked, 0, 1, 2, 3]:
            assert passed(compiled, agent.workers[at], 5.0, 3) == 0


def test_what_came_in_before_a_rate_changed_came_in_at_the_smaller_one() -> None:
    """In whoever is asked, and from then on at the new one."""
    agent = Agent(2)
    slow, fast = Compiled([Limit("all", 1, 100)]), Compiled([Limit("all", 100, 100)])
    for worker in agent.workers:
        passed(slow, worker, 5.0, 200)
    assert passed(fast, agent.workers[1], 6.0, 50) == 1
    assert passed(fast, agent.workers[1], 6.1, 50) == 10


def test_a_limit_of_all_agents_is_counted_together_too() -> None:
    """What control hands out is the agent's; where its scope changes what was counted stays."""
    agent, own, mesh = Agent(2), Compiled([Limit("all", 4, 4)]), Compiled([Limit("all", 4, 4, shared=True)])
    for worker in agent.workers:
        worker.set_share("all", 0.5)
    assert [passed(mesh, worker, 5.0, 9) for worker in agent.workers] == [2, 0]
    for worker in agent.workers:
        worker.set_share("all", 1.0)
    assert [passed(own, worker, 5.0, 9) for worker in agent.workers] == [0, 0]
    assert [passed(own, worker, 5.5, 9) for worker in agent.workers] == [2, 0]
    assert [passed(mesh, worker, 5.5, 9) for worker in agent.workers] == [0, 0]
    assert [passed(mesh, worker, 6.0, 9) for worker in agent.workers] == [2, 0]


def test_what_came_in_while_an_agent_rested_is_all_workers() -> None:
    """And no more of it than its equal part of the burst, nor once it is asked."""
    agent, mesh = Agent(2), Compiled([Limit("all", 8, 8, shared=True)])
    for worker in agent.workers:
        worker.begin("all", 0.5)
        worker.set_share("all", 0.0)
    assert [passed(mesh, worker, 5.0, 9) for worker in agent.workers] == [4, 0]
    assert [passed(mesh, worker, 6.4, 9) for worker in agent.workers] == [0, 0]
    for worker in agent.workers:
        worker.meter("all").rest = 0.25
    assert [passed(mesh, worker, 6.5, 9) for worker in reversed(agent.workers)] == [3, 0]
    assert [passed(mesh, worker, 7.4, 9) for worker in agent.workers] == [0, 0]
    assert [passed(mesh, worker, 99.0, 9) for worker in agent.workers] == [4, 0]


def test_what_explains_takes_nothing() -> None:
    """And says what the next request would hear, also in a worker that has not been asked yet."""
    agent, compiled = Agent(), Compiled([Limit("all", 1, 2), Limit("each", 1, 1, key=USER)])
    assert all(compiled.peek(worker, of("a"), 5.0) is None for worker in agent.workers)
    assert compiled.decide(agent.workers[0], of("a"), 5.0) is None
    for worker in agent.workers:
        found = compiled.peek(worker, of("a"), 5.0)
        assert found is not None and found.name == "each"
        assert compiled.peek(worker, of("b"), 5.0) is None
    assert compiled.decide(agent.workers[1], of("b"), 5.0) is None
    found = compiled.peek(agent.workers[3], of("c"), 5.0)
    assert found is not None and found.name == "all"


def test_many_keys_cost_a_limit_without_keys_nothing() -> None:
    """Nor its memory: what is lost is counted, and each worker goes on with what it saw."""
    agent = Agent(2)
    one, each = Compiled([Limit("one", 0.001, 3)]), Compiled([Limit("each", 0.001, 1, key=USER, max_keys=1_000_000)])
    assert passed(one, agent.workers[0], 5.0, 9) == 3
    assert passed(each, agent.workers[0], 5.0, 2, of("me")) == 1
    for n in range(150_000):
        each.decide(agent.workers[1], of(f"u{n}"), 5.0 + n / 10_000)
    assert agent.views[1].lost > 0
    assert passed(one, agent.workers[1], 25.0, 9) == 0
    assert passed(each, agent.workers[0], 25.0, 9, of("me")) == 0


def test_two_that_meet_lose_one_token() -> None:
    """Both saw the last one: it is owed, and waited for."""
    agent, compiled = Agent(2), Compiled([Limit("all", 1, 1)])
    limit = compiled.limits[0]
    one, other = (worker.meter("all").bucket(limit, ANY, 5.0) for worker in agent.workers)
    assert one.tokens >= 1 and other.tokens >= 1
    one.take(5.0)
    other.take(5.0)
    assert [passed(compiled, agent.workers[0], 5.0 + n, 3) for n in (0, 1, 2, 3)] == [0, 0, 1, 1]


@given(st.floats(-200, 1_000_000), st.floats(0, 1e7), st.floats(0, 1000))
def test_a_word_says_how_many_and_when(tokens: float, now: float, later: float) -> None:
    """To a part of a token and a millisecond, for clocks that began weeks ago; and none of the future."""
    word = word_of(tokens, now)
    assert 0 <= word < 1 << 63
    assert abs(tokens_in(word) - tokens) <= 1 / 256
    assert abs(age_s(word, now + later) - later) <= 0.0021
    assert age_s(word, now - 0.5) == 0.0 or now < 0.5


def test_keys_differ() -> None:
    """By each part."""
    made = [("a", "b", "c"), ("ab", "", "c"), ("a", "b", ""), ("a", "bc", "")]
    assert len({key_of(*each) for each in made}) == len(made) and all(key_of(*each) for each in made)
