from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.decision import Subset
from policies.kind import Scope
from policies.kinds.shadow.decide import CANDIDATE, SECONDARY, SHADOW, Compiled, compile
from policies.kinds.shadow.document import Shadow
from policies.language.document import convert
from policies.language.plain import Flaw
from policies.request import Request


def document(**fields: Any) -> Shadow:
    found = convert(fields, Shadow)
    found.check()
    return found


def plan(service: str = "pets.production", **fields: Any) -> Compiled:
    return compile(document(**fields), Scope(service))


class Counted(random.Random):
    """Counts what is drawn."""

    drawn = 0

    def random(self) -> float:
        self.drawn += 1
        return super().random()


class Unread(Request):
    """A request that nobody may look at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} was read")


COMPARE = {"primary": "v1", "candidate": {"version": "v2"}}


def test_a_copy_goes_where_the_document_says() -> None:
    """Another service, a version of this one, or both; with its own time."""
    rules = plan(
        copies=[{"to": "pets/staging"}, {"version": "v2", "timeout": "1s"}, {"to": "lab", "version": "v3"}],
    )
    found = rules.decide(Request(), random.Random(1))
    assert [(order.service, order.subset, order.timeout_s, order.role) for order in found] == [
        ("pets.staging", None, 5.0, SHADOW),
        ("", Subset("v2"), 1.0, SHADOW),
        ("lab", Subset("v3"), 5.0, SHADOW),
    ]
    assert not rules.compares and not any(order.compared or order.max_answer for order in found)
    assert [str(order) for order in found] == [
        "shadow to pets.staging",
        "shadow to version v2",
        "shadow to lab version v3",
    ]
    assert (rules.concurrency, rules.max_body, rules.max_answer) == (32, 65536, 0)


def test_to_compare_is_to_ask_two_more() -> None:
    """The primary's version once more, and the candidate; or a secondary of its own."""
    rules = plan(compare={**COMPARE, "max_answer": 2048}, limits={"max_body": 10, "concurrency": 4})
    secondary, candidate = rules.decide(Request(), random.Random(1))
    assert (secondary.role, secondary.service, secondary.subset) == (SECONDARY, "", Subset("v1"))
    assert (candidate.role, candidate.service, candidate.subset) == (CANDIDATE, "", Subset("v2"))
    assert secondary.compared and candidate.compared and rules.compares
    assert (secondary.max_answer, rules.max_answer, rules.max_body, rules.concurrency) == (2048, 2048, 10, 4)
    assert rules.primary == "v1"
    rules = plan(compare={"secondary": {"to": "pets.twin"}, "candidate": {"to": "pets.staging"}})
    secondary, candidate = rules.decide(Request(), random.Random(1))
    assert (secondary.service, secondary.subset) == ("pets.twin", None)
    assert (candidate.service, candidate.subset) == ("pets.staging", None)
    secondary, candidate = plan(compare={"candidate": {"to": "pets.staging"}}).decide(Request(), random.Random(1))
    assert (secondary.service, secondary.subset) == ("", None)


def test_what_may_change_something_is_copied_only_when_asked_for() -> None:
    """Reads are GET, HEAD and OPTIONS; PUT is idempotent, and a write all the same."""
    reads, all_ = plan(copies=[{"version": "v2"}]), plan(copies=[{"version": "v2", "writes": True}])
    for method in ("GET", "HEAD", "OPTIONS"):
        assert reads.decide(Request(method), random.Random(1))
    for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW"):
        assert not reads.decide(Request(method), random.Random(1))
        assert all_.decide(Request(method), random.Random(1))


def test_a_copy_is_never_copied_again() -> None:
    """Its mark says what it is."""
    rules = plan(copies=[{"version": "v2"}])
    assert not rules.decide(Request(headers={"x-shoal-shadow": "shadow"}), random.Random(1))


def test_who_is_not_drawn_costs_one_random_number() -> None:
    """Nothing of the request is read, however many copies there may be."""
    rules = plan(copies=[{"version": "v2", "percent": 1e-9}, {"version": "v3", "percent": 1e-8}])
    rng = Counted(1)
    assert not rules.decide(Unread(), rng)
    assert rng.drawn == 1


def test_shares_are_drawn_together_and_kept_to() -> None:
    """Who is in 5% is in 20%, and over many requests it is as many as the document says."""
    rules = plan(copies=[{"version": "v2", "percent": 5}, {"version": "v3", "percent": 20}])
    rng, seen = random.Random(7), {1: 0, 2: 0, 0: 0}
    for _ in range(20_000):
        found = rules.decide(Request(), rng)
        seen[len(found)] += 1
        assert not found or found[-1].subset == Subset("v3")
    assert 900 < seen[2] < 1100
    assert 3800 < seen[1] + seen[2] < 4200


def test_users_stay_in_or_out() -> None:
    """By their key, whatever chance says; who has none is drawn at random; match comes first."""
    rules = plan(
        copies=[{"version": "v2", "percent": 30, "sticky": {"header": "x-user"}, "match": {"path": {"prefix": "/a"}}}]
    )
    inside = 0
    for user in range(1000):
        asked = [bool(rules.decide(Request("GET", "/a/b", {"x-user": f"u{user}"}), random.Random(n))) for n in range(3)]
        assert len(set(asked)) == 1
        inside += asked[0]
    assert 250 < inside < 350
    anonymous = sum(bool(rules.decide(Request("GET", "/a"), rng)) for rng in map(random.Random, range(1000)))
    assert 240 < anonymous < 360
    assert not any(rules.decide(Request("GET", "/b"), random.Random(n)) for n in range(100))


def test_what_may_become_of_a_request_can_be_told() -> None:
    """Without chance, for those who ask."""
    rules = plan(
        copies=[{"to": "lab", "percent": 0.5}, {"version": "v2", "percent": 50, "sticky": {"header": "x-user"}}],
        compare={**COMPARE, "match": {"path": {"prefix": "/a"}}},
    )
    users = {bool(rules.decide(Request(headers={"x-user": f"u{n}"}), random.Random(1))): f"u{n}" for n in range(20)}
    told = ["copies[0]: 0.5% shadow to lab", "copies[1]: 50% shadow to version v2"]
    assert [str(sample) for sample in rules.may(Request())] == told
    assert [str(sample) for sample in rules.may(Request(headers={"x-user": users[False]}))] == told[:1]
    assert [str(sample) for sample in rules.may(Request("GET", "/a", {"x-user": users[True]}))] == [
        *told,
        "compare: 100% secondary to version v1, candidate to version v2",
    ]
    assert not rules.may(Request("POST")) and not rules.may(Request(headers={"x-shoal-shadow": "candidate"}))


def test_a_document_for_many_never_leads_a_service_to_itself() -> None:
    """`*` may copy to one of those that it covers: that one's requests are not copied."""
    fields: dict[str, Any] = {"copies": [{"to": "lab.production"}], "compare": {"candidate": {"to": "lab.production"}}}
    assert len(plan("pets.production", **fields).decide(Request(), random.Random(1))) == 3
    mine = plan("lab.production", **fields)
    assert not mine.decide(Request(), random.Random(1))
    assert not mine.compares
    both = plan("lab.production", copies=[{"to": "lab.production", "version": "v2"}])
    (order,) = both.decide(Request(), random.Random(1))
    assert (order.service, order.subset) == ("", Subset("v2"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "$: nothing is copied; one or both of copies and compare"),
        ({"copies": [{}]}, "$.copies[0]: the service itself; name another service (to), a version, or both"),
        (
            {"service": "pets.production", "copies": [{"to": "pets/production"}]},
            "$.copies[0].to: 'pets/production' is this service itself; name another, or a version",
        ),
        (
            {"service": "pets", "compare": {"candidate": {"to": "pets"}}},
            "$.compare.candidate.to: 'pets' is this service itself; name another, or a version",
        ),
        ({"copies": [{"to": "a b"}]}, "$.copies[0].to: 'a b' in 'a b' is not a DNS label"),
        ({"copies": [{"to": "lab"}, {"to": "lab"}]}, "$.copies[1]: the same as copies[0]; take one out"),
        ({"copies": [{"to": "lab", "percent": -1}]}, "$.copies[0].percent: expected a number > 0"),
        ({"copies": [{"to": "lab", "percent": 1e9}]}, "$.copies[0].percent: expected a number <= 100"),
        ({"copies": [{"to": "lab", "timeout": "1h"}]}, "$.copies[0].timeout: 3600 s; more than nothing, and at most"),
        ({"copies": [{"to": "lab", "timeout": "soon"}]}, "$.copies[0].timeout: 'soon' is no duration"),
        (
            {"copies": [{"to": "lab", "match": {"method": ["GET", "POST"]}}]},
            '$.copies[0].match.method[1]: POST may change something; say "writes": true',
        ),
        (
            {"copies": [{"to": "lab", "writes": True, "match": {"method": ["GET"]}}]},
            "$.copies[0].writes: does nothing: GET change nothing",
        ),
        (
            {"copies": [{"to": "lab", "sticky": {"header": "x-user"}}]},
            "$.copies[0].sticky: does nothing without a percent below 100: everybody is in",
        ),
        (
            {"copies": [{"to": "lab", "percent": 5, "sticky": {}}]},
            "$.copies[0].sticky: exactly one of header, cookie, claim; here: none",
        ),
        ({"copies": [{"to": "lab", "match": {"groups": ["x"]}}]}, "$.copies[0].match.groups: groups belong to a route"),
        ({"copies": [{"to": "lab"}], "limits": {"max_body": 2**20 + 1}}, "$.limits.max_body: expected a whole number"),
        ({"copies": [{"to": "lab"}], "limits": {"concurrency": 0}}, "$.limits.concurrency: expected a whole number"),
        ({"compare": COMPARE, "limits": {"concurrency": 1}}, "$.limits.concurrency: at least 2 to compare"),
        ({"compare": {"primary": "v1"}}, "$.compare: missing field 'candidate'"),
        ({"compare": {"candidate": {"version": "v2"}}}, "$.compare.primary: missing: with two versions"),
        (
            {"compare": {"primary": "v1", "candidate": {"version": "v1"}}},
            "$.compare.candidate.version: 'v1' is the primary; it has to be another",
        ),
        ({"compare": {**COMPARE, "secondary": {"version": "v2"}}}, "$.compare.secondary: the candidate itself"),
        ({"compare": {**COMPARE, "secondary": {"version": "v1"}}}, "$.compare.secondary: says nothing that is not so"),
        ({"compare": {**COMPARE, "ignore": ["$.a[0]"]}}, "$.compare.ignore[0]: '[0]' is no step"),
        ({"compare": {**COMPARE, "ignore": ["price"]}}, "$.compare.ignore[0]: 'price' is no field"),
        (
            {"compare": {**COMPARE, "unordered": ["headers.vary"]}},
            "$.compare.unordered[0]: 'headers.vary' is no list",
        ),
        ({"compare": {**COMPARE, "unordered": ["$.a[0]"]}}, "$.compare.unordered[0]: '[0]' is no step"),
        (
            {"compare": {**COMPARE, "ignore": ["$.a"], "unordered": ["$.b", "$.a.items"]}},
            "$.compare.unordered[1]: does nothing: '$.a.items' is not compared, ignore says so",
        ),
        ({"compare": {**COMPARE, "redact": ["headers.a b"]}}, "$.compare.redact[0]: 'a b' is no header name"),
        (
            {"compare": {**COMPARE, "max_samples": 0, "redact": ["$.a"]}},
            "$.compare.redact: does nothing with max_samples 0: no value is kept",
        ),
        (
            {"compare": {**COMPARE, "thresholds": {"relative_percent": 1e9}}},
            "$.compare.thresholds.relative_percent: expected a number <= 100",
        ),
        ({"compare": {**COMPARE, "max_answer": 2**30}}, "$.compare.max_answer: expected a whole number <= 1048576"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], said: str) -> None:
    """With its place, and what would be right."""
    with pytest.raises(Flaw) as caught:
        document(**fields)
    assert str(caught.value).startswith(said)


COPIES = st.fixed_dictionaries(
    {"version": st.sampled_from(["v2", "v3", "v4"]), "percent": st.floats(0.001, 99)},
    optional={
        "writes": st.just(True),
        "sticky": st.just({"header": "x-user"}),
        "match": st.just({"headers": {"x-a": "1"}}),
    },
)


@settings(max_examples=200)
@given(
    st.lists(COPIES, min_size=1, max_size=4, unique_by=lambda copy: repr(sorted(copy.items()))),
    st.sampled_from(["GET", "POST"]),
    st.dictionaries(st.sampled_from(["x-user", "x-a", "x-shoal-shadow"]), st.sampled_from(["1", "2"])),
    st.integers(0, 1000),
)
def test_the_plan_does_what_each_copy_says(
    copies: list[dict[str, Any]], method: str, headers: dict[str, str], seed: int
) -> None:
    """Whatever stands beside it: the way out at the start changes nothing."""
    request = Request(method, "/", headers)
    together = plan(copies=copies).decide(request, random.Random(seed))
    alone = []
    for n, copy in enumerate(copies):
        unused = {"version": "unused", "match": {"headers": {"x-never": "1"}}}
        filled = [*({**unused, "percent": 1 + k} for k in range(n)), copy]
        alone += plan(copies=filled).decide(request, random.Random(seed))
    assert [order.subset for order in together] == [order.subset for order in alone]
