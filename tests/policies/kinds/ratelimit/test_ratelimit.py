"""`ratelimit`: documents, what they are compiled to, and what is refused."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.kinds.ratelimit.buckets import Buckets, Compiled
from policies.kinds.ratelimit.decide import compile
from policies.kinds.ratelimit.document import RateLimit, parse_rate, shared
from policies.kinds.ratelimit.limit import fields
from policies.kinds.ratelimit.shares import Shared
from policies.language.document import convert
from policies.language.plain import Flaw
from policies.request import Request


def document(*limits: dict[str, Any]) -> RateLimit:
    found = convert({"limits": list(limits)}, RateLimit)
    found.check()
    return found


def limits(*limits: dict[str, Any]) -> Compiled:
    return compile(document(*limits)).caller


def passed(compiled: Compiled, state: Buckets, request: Request, count: int = 20, now: float = 0.0) -> int:
    return sum(compiled.decide(state, request, now) is None for _ in range(count))


def test_the_defaults() -> None:
    """One bucket, for each agent, a second's worth, for every request."""
    (found,) = limits({"name": "all", "rate": "5/s"}).limits
    assert (found.rate, found.burst, found.key, found.matches) == (5, 5, None, None)
    assert (found.status, found.body, found.max_keys) == (429, "", 10_000)
    assert compile(RateLimit()).limits == []
    (found,) = limits({"name": "all", "rate": "6/m"}).limits
    assert found.burst == 1
    (found,) = limits({"name": "all", "rate": "6/m", "burst": 3}).limits
    assert found.burst == 3


@pytest.mark.parametrize(
    ("value", "per_s", "quota", "window_s"),
    [
        ("100/s", 100, 100, 1),
        ("6000/m", 100, 6000, 60),
        ("1000/h", 1000 / 3600, 1000, 3600),
        (250, 250, 250, 1),
        (2.5, 2.5, 5, 2),
        ("0.1/s", 0.1, 1, 10),
        ("7.5/m", 0.125, 15, 120),
        (0.001, 0.001, 1, 1000),
        ("1/h", 1 / 3600, 1, 3600),
        (" 10000000/s ", 1e7, 10_000_000, 1),
    ],
)
def test_rates(value: float | str, per_s: float, quota: int, window_s: int) -> None:
    """As people write them, and in whole numbers for the header fields."""
    assert parse_rate(value) == (pytest.approx(per_s), quota, window_s)


@example(1 / 64)
@given(st.floats(1 / 3599, 1e7))
def test_whole_numbers_are_near_the_rate(per_s: float) -> None:
    """Within a twentieth, also where a rate is odd."""
    found = parse_rate(per_s)
    assert found.quota >= 1 and found.window_s >= 1
    assert found.quota / found.window_s == pytest.approx(per_s, rel=0.05)


def test_a_limit_for_one_route_is_one_with_a_match() -> None:
    """As rules of a route match."""
    compiled = limits(
        {"name": "all", "rate": 10},
        {"name": "search", "rate": 2, "match": {"path": {"prefix": "/search"}, "method": ["GET"]}},
    )
    state = Buckets()
    assert passed(compiled, state, Request("GET", "/search?q=x")) == 2
    assert passed(compiled, state, Request("POST", "/search")) == 8


def test_keys_and_the_answer() -> None:
    """Each user has a bucket; the answer says which limit, what it is, and when to come back."""
    compiled = limits(
        {"name": "per-user", "rate": "6/m", "burst": 2, "key": {"header": "X-User"}, "status": 503, "body": "slow down"}
    )
    state = Buckets()
    for user in ("ann", "bob"):
        assert passed(compiled, state, Request(headers={"x-user": user})) == 2
    found = compiled.decide(state, Request(headers={"x-user": "ann"}), 0.0)
    assert found is not None
    assert (found.status, found.body, found.retry_after_s) == (503, "slow down", 10)
    assert found.reason == "the limit per-user of this agent, 6/m for each key, is used up"
    assert fields(found) == [
        ("retry-after", "10"),
        ("ratelimit-policy", '"per-user";q=6;w=60'),
        ("ratelimit", '"per-user";r=0;t=10'),
    ]


def test_limits_of_the_mesh_are_named() -> None:
    """For those who divide them."""
    found = document(
        {"name": "here", "rate": 10},
        {"name": "all", "rate": "60/m", "scope": "mesh"},
        {"name": "each", "rate": 2, "scope": "mesh", "key": {"caller": True}},
    )
    assert shared(found) == {"all": Shared(1, False, 1), "each": Shared(2, True, 2)}
    state = Buckets()
    assert passed(compile(found).caller, state, Request(caller="shop")) == 1
    refused = compile(found).caller.decide(state, Request(caller="shop"), 0.0)
    assert refused is not None
    assert refused.reason == "the limit all of all agents together, 60/m, is used up"


def test_an_edit_fills_no_bucket() -> None:
    """What was counted is kept by name."""
    state = Buckets()
    assert passed(limits({"name": "all", "rate": 5}), state, Request()) == 5
    assert passed(limits({"name": "all", "rate": 5, "burst": 50}), state, Request()) == 0
    assert passed(limits({"name": "all", "rate": 5, "key": {"path": True}}), state, Request()) == 5


def one(**more: Any) -> dict[str, Any]:
    return {"limits": [{"name": "all", "rate": "10/s", **more}]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"limits": [{"rate": 1}]}, "$.limits[0]: missing field 'name'"),
    ({"limits": [{"name": "all"}]}, "$.limits[0]: missing field 'rate'"),
    (one(name="Per User"),
     "$.limits[0].name: expected a name of 1 to 63 of a-z, 0-9, '.', '_' and '-', such as per-user"),
    (one(name="a\n"), "$.limits[0].name: expected a name of 1 to 63 of a-z, 0-9, '.', '_' and '-', such as per-user"),
    (one(rate="10"), '$.limits[0].rate: \'10\' is no rate; write "100/s", "6000/m", "1000/h" or a number a second'),
    (one(rate="10/d"), '$.limits[0].rate: \'10/d\' is no rate; write "100/s", "6000/m", "1000/h" or a number a second'),
    (one(rate=0), "$.limits[0].rate: 0; from 1/h to 10000000/s; for none at all, let a route respond"),
    (one(rate=-1), "$.limits[0].rate: -1; from 1/h to 10000000/s"),
    (one(rate="0.5/h"), "$.limits[0].rate: 0.5/h; from 1/h to 10000000/s"),
    (one(rate=1e9), "$.limits[0].rate: 1e+09; from 1/h to 10000000/s"),
    (one(rate=True), "$.limits[0].rate: expected a number or text, got true or false"),
    (one(burst=0), "$.limits[0].burst: expected a whole number >= 1"),
    (one(scope="global"), "$.limits[0].scope: 'global' is none of: agent, mesh"),
    (one(key={}),
     "$.limits[0].key: names nothing; one or more of caller, header, cookie, query, claim, path and address"),
    (one(key={"header": "a b"}), "$.limits[0].key.header: 'a b' is no header name"),
    (one(key={"cookie": "a=b"}), "$.limits[0].key.cookie: 'a=b' is no cookie name"),
    (one(key={"user": "x"}),
     "$.limits[0].key: no field 'user' here (did you mean 'query'?); "
     "there are: caller, header, cookie, query, claim, path, address, trusted_hops"),
    (one(max_keys=5), "$.limits[0].max_keys: does nothing without $.limits[0].key; leave one out or say the other"),
    (one(max_keys=0, key={"path": True}), "$.limits[0].max_keys: expected a whole number >= 1"),
    (one(key={"caller": True, "trusted_hops": 1}),
     "$.limits[0].key.trusted_hops: does nothing without $.limits[0].key.address; leave one out or say the other"),
    (one(key={"address": True, "trusted_hops": 17}), "$.limits[0].key.trusted_hops: expected a whole number <= 16"),
    (one(side="callee"), "$.limits[0].side: 'callee' is none of: caller, service (did you mean 'caller'?)"),
    (one(side="service", status=503),
     "$.limits[0].status: 503; callers' agents would take it for a failure of the instance; "
     "with side service, from 400 to 499"),
    (one(status=200), "$.limits[0].status: expected a whole number >= 400"),
    (one(match={"groups": ["beta"]}),
     "$.limits[0].match.groups: groups belong to a route; here a header, cookie, claim or caller can be named"),
    (one(match={"path": {}}),
     "$.limits[0].match.path: exactly one of exact, prefix, template and regex; here: none"),
    ({"limits": [{"name": "a", "rate": 1}, {"name": "a", "rate": 2}]},
     "$.limits[1].name: 'a' is the name of limits[0] too; they are two"),
    ({"limit": []}, "$: no field 'limit' here (did you mean 'limits'?); "
     "there are: mode, kind, service, description, limits"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "said"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_said_with_its_place(raw: dict[str, Any], said: str) -> None:
    """Word by word."""
    with pytest.raises(Flaw) as caught:
        convert(json.loads(json.dumps(raw)), RateLimit).check()
    assert str(caught.value) == said


def test_documents_come_back_as_they_were() -> None:
    """Through JSON."""
    found = document({"name": "a", "rate": "5/s", "key": {"caller": True, "path": True}, "scope": "mesh"})
    assert msgspec.json.decode(msgspec.json.encode(found), type=RateLimit) == found
