"""The balance document, and the balancer as the proxy uses it."""

import json
import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.catalogue import parse, schema
from policies.endpoint import Endpoint, Load
from policies.hashing import hash64
from policies.kinds.balance.algorithms import BalanceState
from policies.kinds.balance.decide import make
from policies.kinds.balance.document import AlgorithmName, Balance, HashKey, Locality
from policies.kinds.balance.ewma import observe
from policies.language.document import Invalid
from policies.request import Request
from tests.support.endpoints import endpoint, endpoints, owners, tally

few = settings(max_examples=60)
ALGORITHMS: tuple[AlgorithmName, ...] = AlgorithmName.__args__  # type: ignore[attr-defined]
HASHING = ("ring-hash", "maglev")
KEYS = [hash64(f"user-{n}") for n in range(1000)]


def document(algorithm: AlgorithmName, **more: Any) -> Balance:
    """A valid one of an algorithm."""
    return Balance(algorithm=algorithm, hash=(HashKey(header="x-user"),) if algorithm in HASHING else (), **more)


def read(**fields: Any) -> Balance | Invalid:
    """What becomes of it in etcd."""
    found = parse("balance", "pets.production", json.dumps(fields).encode())
    assert isinstance(found, Balance | Invalid)
    return found


# The document.


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_has_a_document(algorithm: AlgorithmName) -> None:
    """Its name, and something to hash for those that hash."""
    more = {"hash": [{"header": "x-user"}]} if algorithm in HASHING else {}
    found = read(algorithm=algorithm, **more)
    assert isinstance(found, Balance)
    assert make(found, endpoints(3)).describe()["algorithm"] == algorithm


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"algorithm": "least-requests"}, "$.algorithm", "did you mean 'least-request'?"),
    ({"algoritm": "random"}, "$", "did you mean 'algorithm'?"),
    ({"algorithm": "maglev"}, "$.hash", "missing: maglev needs to know what to hash"),
    ({"hash": [{"path": True}]}, "$.hash", "least-request hashes nothing"),
    ({"algorithm": "maglev", "hash": [{}]}, "$.hash[0]", "here: none"),
    ({"algorithm": "maglev", "hash": [{"path": True, "query": "q"}]}, "$.hash[0]", "here: query and path"),
    ({"algorithm": "maglev", "hash": [{"header": "a b"}]}, "$.hash[0].header", "'a b' is no header name"),
    ({"algorithm": "maglev", "hash": [{"path": True}, {"cookie": "é"}]}, "$.hash[1].cookie", "'é' is no cookie name"),
    ({"algorithm": "maglev", "hash": [{"path": True}] * 9}, "$.hash", "8"),
    ({"algorithm": "maglev", "hash": [{"path": True}], "table": 65536}, "$.table", "65536 is no prime"),
    ({"algorithm": "maglev", "hash": [{"path": True}], "table": 524288}, "$.table", "65537"),
    ({"algorithm": "random", "table": 65537}, "$.table", "an option of maglev; the algorithm here is random"),
    (
        {"algorithm": "maglev", "hash": [{"path": True}], "bounded_load": 150},
        "$.bounded_load",
        "an option of ring-hash",
    ),
    (
        {"algorithm": "ring-hash", "hash": [{"path": True}], "bounded_load": 90},
        "$.bounded_load",
        "more than 100 percent",
    ),
    ({"algorithm": "ring-hash", "hash": [{"path": True}], "ring_max": 100}, "$.ring_min", "512, more than $.ring_max"),
    ({"algorithm": "ring-hash", "hash": [{"path": True}], "ring_min": 0}, "$.ring_min", ">= 1"),
    ({"decay": "5s"}, "$.decay", "an option of peak-ewma; the algorithm here is least-request"),
    ({"algorithm": "peak-ewma", "decay": "5 s"}, "$.decay", "'5 s' is no duration"),
    ({"algorithm": "peak-ewma", "decay": 0}, "$.decay", "0 s; from 0.1 s to 3600 s"),
    ({"algorithm": "peak-ewma", "initial": "2h"}, "$.initial", "7200 s; from 0.0001 s to 60 s"),
    ({"slow_start": {}}, "$.slow_start", "window"),
    ({"slow_start": {"window": "2h"}}, "$.slow_start.window", "7200 s; from 0.1 s to 3600 s"),
    ({"slow_start": {"window": "30s", "floor": 0}}, "$.slow_start.floor", "0.01"),
    ({"algorithm": "random", "slow_start": {"window": "30s"}}, "$.slow_start", "an option of least-request"),
    ({"panic": 101}, "$.panic", "100"),
    ({"panic": -1}, "$.panic", "0"),
    ({"panic": True}, "$.panic", "expected a number"),
    ({"locality": {"failover": ["b", "c", "b"]}}, "$.locality.failover[2]", "'b' stands in the list twice"),
    ({"locality": {"failover": [""]}}, "$.locality.failover[0]", "empty"),
    ({"locality": {"prefer": False, "failover": ["b"]}}, "$.locality.failover", "does nothing"),
    ({"sticky": {"cookie": "a b"}}, "$.sticky.cookie", "'a b' is no cookie name"),
    ({"sticky": {"cookie": "x" * 129}}, "$.sticky.cookie", "is no cookie name"),
    ({"sticky": {"path": "/\n"}}, "$.sticky.path", "is no cookie path"),
    ({"sticky": {"path": "/; Domain=evil"}}, "$.sticky.path", "is no cookie path"),
    ({"sticky": {"path": "shop"}}, "$.sticky.path", "is no cookie path"),
    ({"sticky": {"ttl": "500ms"}}, "$.sticky.ttl", "less than a second"),
    ({"sticky": {"ttl": "9000h"}}, "$.sticky.ttl", "from 0 s to"),
    ({"sticky": {"ttl": "soon"}}, "$.sticky.ttl", "is no duration"),
    ({"sticky": {"same_site": "none"}}, "$.sticky.secure", "same_site none needs secure: true"),
    ({"sticky": {"cookie": "__Host-x"}}, "$.sticky.secure", "the cookie name '__Host-x' needs secure: true"),
    ({"sticky": {"header": "x y"}}, "$.sticky.header", "is no header name"),
    ({"sticky": {"header": "x-device", "ttl": "1h"}}, "$.sticky.ttl", "for sessions by cookie"),
    ({"sticky": True}, "$.sticky", "object"),
]


@pytest.mark.parametrize(("fields", "path", "reason"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_said_with_its_place(fields: dict[str, Any], path: str, reason: str) -> None:
    """Every bad value: where it is, and what would be right."""
    found = read(**fields)
    assert isinstance(found, Invalid)
    assert found.path == path
    assert reason in found.reason


ACCEPTED: list[dict[str, Any]] = [
    {},
    {"slow_start": {"window": 30}},
    {"sticky": {}},
    {"sticky": {"cookie": "__Host-shop", "secure": True, "same_site": "none", "ttl": 3600}},
    {"sticky": {"header": "x-device"}, "algorithm": "maglev", "hash": [{"caller": True}]},
    {"algorithm": "maglev", "hash": [{"path": True}], "table": 65537},
    {"algorithm": "ring-hash", "hash": [{"path": True}], "bounded_load": 0, "ring_min": 1, "ring_max": 1},
    {"algorithm": "peak-ewma", "decay": "5s", "initial": "1ms"},
    {"panic": 0, "locality": {"failover": ["b", "c"]}},
]


@pytest.mark.parametrize("fields", ACCEPTED, ids=lambda value: str(value)[:60])
def test_what_is_right_is_accepted(fields: dict[str, Any]) -> None:
    """And compiles, also for no endpoints at all."""
    found = read(**fields)
    assert isinstance(found, Balance), found
    assert make(found, []).pick(1, 0, random.Random(1)) is None
    assert make(found, endpoints(3)).pick(1, 0, random.Random(1)) is not None


def test_the_schema_names_every_field() -> None:
    """`shoal policy schema balance` has them all."""
    fields = {field.encode_name for field in msgspec.structs.fields(Balance)}
    assert set(schema("balance")["$defs"]["Balance"]["properties"]) == fields


# Picking.


@few
@given(st.sampled_from(ALGORITHMS), st.integers(1, 8), st.integers(-1, 2**64 - 1), st.floats(-1e9, 1e9), st.data())
def test_avoided_while_another_is_left(
    algorithm: AlgorithmName, count: int, key: int, now: float, data: st.DataObject
) -> None:
    """A retry goes to one that was not tried; when all were, to any, never to nobody."""
    fleet = endpoints(count)
    avoid = data.draw(st.lists(st.sampled_from(fleet), unique=True))
    rng = random.Random(data.draw(st.integers(0, 99)))
    picked = make(document(algorithm), fleet).pick(None if key < 0 else key, now, rng, avoid)
    assert picked in fleet
    assert picked not in avoid or len(avoid) == count


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_and_none(algorithm: AlgorithmName) -> None:
    """One endpoint takes everything; without any there is None."""
    rng = random.Random(1)
    only = endpoint("only")
    for key in (None, 5):
        assert make(document(algorithm), [only]).pick(key, 0, rng) is only
        assert make(document(algorithm), [only]).pick(key, 0, rng, [only]) is only
        assert make(document(algorithm), []).pick(key, 0, rng) is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_five_thousand_endpoints(algorithm: AlgorithmName) -> None:
    """Every algorithm spreads over them: of 2,000 picks no one gets more than a few."""
    rng = random.Random(3)
    found = tally(make(document(algorithm), endpoints(5000)), 0, keys=[rng.getrandbits(64) for _ in range(2000)])
    assert len(found) > 1200
    assert max(found.values()) <= 9


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_last_resorts_of_any_weight(algorithm: AlgorithmName) -> None:
    """Everyone is leaving or unhealthy, some with weight 0: somebody still takes it."""
    fleet = [
        endpoint("a", weight=0, draining=True, healthy=False),
        endpoint("b", weight=100, draining=True, healthy=False),
        endpoint("c", weight=0, suspect=True),
    ]
    assert tally(make(document(algorithm), fleet), 200, keys=KEYS[:200])["c"] == 0


def test_the_default_is_least_request() -> None:
    """Without a document, over everybody who is healthy."""
    fleet = endpoints(2)
    fleet[0].load.active = 9
    balancer = make(None, fleet)
    assert tally(balancer, 50).keys() == {"pets-1"}
    assert balancer.describe() == {
        "algorithm": "least-request",
        "sticky": False,
        "using": "serving",
        "panic": False,
        "tiers": [{"zone": "any", "share": 1.0, "endpoints": 2}],
    }


def test_a_retry_leaves_the_zone_when_it_has_to() -> None:
    """The caller's zone has one endpoint and that failed: the next try goes to another zone."""
    home, away = endpoint("home", zone="a"), endpoint("away", zone="b")
    balancer = make(None, [home, away], zone="a")
    assert balancer.candidates() == [home]
    assert balancer.pick(None, 0, random.Random(1), [home]) is away


def test_a_retry_does_not_go_to_the_unhealthy() -> None:
    """Rather to the one that was tried: an unhealthy one is no better."""
    up, down = endpoint("up"), endpoint("down", healthy=False)
    assert make(None, [up, down]).pick(None, 0, random.Random(1), [up]) is up


@pytest.mark.parametrize("algorithm", HASHING)
def test_a_retry_of_a_key_is_always_the_same_other_one(algorithm: AlgorithmName) -> None:
    """So that what is cached there is found again."""
    fleet = endpoints(10)
    balancer = make(document(algorithm), fleet)
    for key in KEYS[:50]:
        first = balancer.pick(key, 0, random.Random(0))
        assert first is not None
        others = {balancer.pick(key, 0, random.Random(seed), [first]) for seed in range(5)}
        assert len(others) == 1
        assert first not in others


def test_fail_over_in_proportion() -> None:
    """Half of the local zone is down: seven tenths stay, three go to the other zone."""
    fleet = [endpoint(f"a{n}", zone="a", healthy=n < 5) for n in range(10)] + endpoints(10, "b", zone="b")
    found = tally(make(Balance(locality=Locality(failover=("b",))), fleet, zone="a"), 4000)
    local = sum(count for id, count in found.items() if id.startswith("a"))
    assert local == pytest.approx(2800, abs=180)


def test_fail_over_of_keys_moves_only_what_it_has_to() -> None:
    """A key's zone follows from the key: two in ten fail over, and the same ones each time."""
    fleet = endpoints(10, "a", zone="a") + endpoints(10, "b", zone="b")
    failing = [endpoint(f"a-{n}", zone="a", healthy=n < 6) for n in range(10)] + fleet[10:]
    before = owners(make(document("ring-hash"), fleet, zone="a"), KEYS)
    balancer = make(document("ring-hash"), failing, zone="a")
    after = owners(balancer, KEYS)
    assert after == owners(balancer, KEYS)
    lost = {f"a-{n}" for n in range(6, 10)}
    survivors = [key for key in KEYS if before[key] not in lost]
    stayed = sum(before[key] == after[key] for key in survivors)
    assert stayed / len(survivors) == pytest.approx(0.84, abs=0.06)


def test_round_robin_in_two_zones_is_even_in_each() -> None:
    """Their turns do not disturb one another."""
    fleet = [endpoint(f"a{n}", zone="a", healthy=n < 5) for n in range(10)] + endpoints(7, "b", zone="b")
    found = tally(make(document("round-robin"), fleet, zone="a"), 997)
    for prefix, size in (("a", 5), ("b", 7)):
        counts = [count for id, count in found.items() if id.startswith(prefix)]
        assert len(counts) == size
        assert max(counts) - min(counts) <= 1


def test_a_policy_edit_does_not_reset_the_rotation() -> None:
    """The state outlives the balancer."""
    fleet, state, rng = endpoints(6), BalanceState(), random.Random(1)
    picked = [make(document("round-robin"), fleet, state=state).pick(None, 0, rng) for _ in range(6)]
    assert set(picked) == set(fleet)


def test_panic_is_told() -> None:
    """`describe` says that health is ignored."""
    fleet = [endpoint("up"), endpoint("d1", healthy=False), endpoint("d2", healthy=False)]
    balancer = make(None, fleet)
    assert balancer.describe()["panic"]
    assert len(tally(balancer, 100)) == 3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_zone_that_refuses_spills_over(algorithm: AlgorithmName) -> None:
    """Thirty near ones are passed over: the next zone takes it, not the one behind it, for as long as they are."""
    near, next_one = endpoints(30, "near", zone="a"), endpoints(3, "next", zone="b")
    balancer = make(
        document(algorithm, locality=Locality(failover=("b",))),
        [*endpoints(2, "far", zone="c"), *near, *next_one],
        zone="a",
    )
    for one in near:
        one.load.refused_until = 101.0
    balancer.note_refusing(100.0)
    assert all(id.startswith("next") for id in tally(balancer, 50, keys=KEYS[:50], now=100.05))
    assert all(id.startswith("near") for id in tally(balancer, 50, keys=KEYS[:50], now=100.2)), "until it is seen again"


def test_half_a_zone_that_is_ejected_spills_in_proportion() -> None:
    """Seven tenths stay, as with half of it unhealthy."""
    near = endpoints(10, "near", zone="a")
    balancer = make(None, [*near, *endpoints(10, "far", zone="b")], zone="a")
    for one in near[:5]:
        one.load.refused_until = 200.0
    balancer.note_refusing(100.0)
    found = tally(balancer, 4000, now=100.01)
    assert sum(count for id, count in found.items() if id.startswith("near")) == pytest.approx(2800, abs=180)


def test_what_was_seen_of_refusing_ones_can_be_taken_back() -> None:
    """By an explanation, which moves nothing."""
    near, far = endpoint("near", zone="a"), endpoint("far", zone="b")
    balancer = make(None, [near, far], zone="a")
    near.load.refused_until = 200.0
    before = balancer.mark()
    balancer.note_refusing(100.0)
    assert balancer.pick(None, 100.0, random.Random(1)) is far
    balancer.reset(before)
    assert balancer.mark() == before and balancer.pick(None, 100.0, random.Random(1)) is near


def test_a_retry_does_not_go_to_a_dead_zone() -> None:
    """All of the caller's own is ill: the second try is at another of the zone that carries it, or the same again."""
    near, far = endpoints(9, "near", zone="a", healthy=False), endpoint("far", zone="b")
    balancer = make(None, [*near, far], zone="a")
    assert balancer.pick(None, 0, random.Random(1), [far]) is far


# Keys.


def request(**headers: str) -> Request:
    """With a query and a caller."""
    return Request("GET", "/pets/7?user=ann&empty=", headers, caller="shop.production")


@pytest.mark.parametrize(
    ("source", "value"),
    [
        (HashKey(header="X-User"), "ann"),
        (HashKey(cookie="sid"), "s1"),
        (HashKey(query="user"), "ann"),
        (HashKey(path=True), "/pets/7"),
        (HashKey(caller=True), "shop.production"),
    ],
)
def test_what_is_hashed(source: HashKey, value: str) -> None:
    """Each source gives the hash of its value, the same in every process."""
    balancer = make(Balance(algorithm="maglev", hash=(source,)), endpoints(3))
    assert balancer.needs_key
    assert balancer.key(request(**{"x-user": "ann", "cookie": "a=b; sid=s1"})) == hash64(value)


def test_the_first_that_is_present_is_hashed() -> None:
    """Absent and empty ones are passed over; with nothing at all there is no key, and any endpoint will do."""
    sources = (HashKey(header="x-user"), HashKey(query="empty"), HashKey(cookie="sid"), HashKey(query="user"))
    balancer = make(Balance(algorithm="ring-hash", hash=sources), endpoints(5))
    assert balancer.key(request(cookie="sid=s1")) == hash64("s1")
    assert balancer.key(request(cookie="sid=")) == hash64("ann")
    assert balancer.key(Request()) is None
    assert len(tally(balancer, 100)) == 5


def test_the_hash_is_for_ever() -> None:
    """Agents of different versions and hosts have to agree: a changed hash moves every key of a mesh."""
    assert hash64("ann") == 0x8D3ADF6ABF23F3A5


# Observing.


def test_the_documents_decay_is_used_when_observing() -> None:
    """With a short decay a fast answer counts for more."""
    quick = make(document("peak-ewma", decay="1s"), endpoints(1))
    slow = make(document("peak-ewma", decay="60s"), endpoints(1))
    loads = [Load(), Load()]
    for balancer, load in zip((quick, slow), loads, strict=True):
        balancer.observe(load, 1.0, True, 100.0)
        balancer.observe(load, 0.0, True, 102.0)
    assert loads[0].ewma_s < 0.2 < 0.9 < loads[1].ewma_s


def test_observing_without_a_balancer() -> None:
    """The default decay is ten seconds."""
    with_one, without = Load(), Load()
    for now, latency_s in ((100.0, 1.0), (105.0, 0.1)):
        make(None, []).observe(with_one, latency_s, True, now)
        observe(without, latency_s, True, now)
    assert with_one.ewma_s == without.ewma_s


def test_a_whole_run_with_load() -> None:
    """Requests that last: least-request keeps eight instances level, one of them three times as large."""
    fleet: list[Endpoint] = [endpoint("big", weight=300), *endpoints(7)]
    balancer, rng = make(None, fleet), random.Random(5)
    running: list[Endpoint] = []
    taken: Counter[str] = Counter()
    for n in range(3000):
        picked = balancer.pick(None, n / 100, rng)
        assert picked is not None
        picked.load.active += 1
        taken[picked.id] += 1
        running.append(picked)
        if len(running) > 50:
            running.pop(rng.randrange(len(running))).load.active -= 1
    assert taken["big"] / 3000 == pytest.approx(0.3, abs=0.05)
    assert all(count / 3000 == pytest.approx(0.1, abs=0.03) for id, count in taken.items() if id != "big")
