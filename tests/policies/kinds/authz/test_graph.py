"""Who may call whom, by the rules alone; and rules by what was seen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.kinds.authz.decide import compile
from policies.kinds.authz.document import Authz
from policies.kinds.authz.graph import ALL, ANONYMOUS, ANYBODY, NONE, SOME, may, named
from policies.kinds.authz.suggestion import MOST_PATHS, Asked, from_calls, from_records
from policies.language.normal_path import normal
from policies.request import Request
from tests.policies.kinds.authz.test_authz import REQUESTS, RULES

LAMPS = "lamps.production"
GETS = {"match": {"method": ["GET"]}}


def document(*rules: dict[str, Any], **more: Any) -> Authz:
    found = parse("authz", LAMPS, json.dumps({"rules": list(rules), **more}).encode())
    assert isinstance(found, Authz), found
    return found


@pytest.mark.parametrize(
    ("rules", "caller", "what"),
    [
        ([{"allow": ["a.x"]}], "a.x", ALL),
        ([{"allow": ["a.x"]}], "b.x", NONE),
        ([{"allow": ["a.x"], **GETS}], "a.x", SOME),
        ([{"deny": ["a.x"]}, {"allow": ["*.x"]}], "a.x", NONE),
        ([{"deny": ["a.x"]}, {"allow": ["*.x"]}], "*.x", SOME),
        ([{"deny": ["a.x"], **GETS}, {"allow": ["*.x"]}], "a.x", SOME),
        ([{"allow": ["*.x"], "not": {"caller": ["a.x"]}}], "a.x", NONE),
        ([{"allow": ["*.x"], "not": {"caller": ["a.x"]}}], "b.x", ALL),
        ([{"allow": ["*.x"], "not": {"method": ["PUT"]}}], "b.x", SOME),
        ([{"allow": ["*"]}], "*.x", ALL),
        ([{"allow": ["*"]}], ANONYMOUS, NONE),
        ([{"allow": ["*"]}], ANYBODY, NONE),
        ([{"allow": "anonymous"}], ANYBODY, NONE),
        ([{"deny": "anybody", **GETS}, {"allow": ["a.x"]}], ANYBODY, NONE),
        ([{"deny": ["a.x"]}, {"allow": "anybody", **GETS}], ANYBODY, SOME),
        ([{"deny": ["a.x"]}, {"allow": "anybody"}], ANYBODY, SOME),
        ([{"allow": "anybody"}], ANYBODY, ALL),
        ([{"allow": "anybody"}], ANONYMOUS, ALL),
        ([{"allow": "anybody"}], "spiffe://us/svc/a", ALL),
        ([{"deny": "anonymous"}, {"allow": "anybody"}], "spiffe://us/svc/a", NONE),
        ([{"allow": ["spiffe://us/*"]}], "spiffe://us/svc/a", ALL),
        ([{"allow": ["spiffe://us/*"]}], "a", NONE),
    ],
)
def test_who_may(rules: list[Any], caller: str, what: str) -> None:
    """All of it, some, or nothing."""
    assert may([(LAMPS, document(*rules))], caller).what == what


def test_each_level_has_to_allow() -> None:
    """And what denies is named."""
    levels = [
        (LAMPS, document({"name": "all", "allow": ["a.x"]})),
        ("*", document({"name": "some", "allow": ["*"], **GETS})),
    ]
    assert may(levels, "a.x") == (SOME, (f"authz/{LAMPS}: all", "authz/*: some"))
    assert may(levels, "b.x") == (NONE, (f"authz/{LAMPS}: default",))
    assert named(levels) == ["a.x", "*"]


@given(st.lists(RULES, min_size=1, max_size=6), st.sampled_from(["deny", "allow"]), REQUESTS)
def test_the_graph_says_nothing_that_requests_disprove(rules: list[Any], default: str, request: Request) -> None:
    """Who may all is denied nothing, and who may nothing is allowed nothing."""
    found = parse("authz", LAMPS, json.dumps({"rules": rules, "default": default}).encode())
    if isinstance(found, Authz):
        allows = compile(found).judge(request).allows
        what = may([(LAMPS, found)], request.caller or ANONYMOUS).what
        assert what == SOME or allows == (what == ALL)


TARGETS = st.sampled_from(["/", "/a/7", "/a/8?x=1", "/a/b", "//a//b", "/x;v=1", "/{id}", "/\xe4", "*", "/a%2Fb/17"])
SEEN = st.dictionaries(
    st.builds(Asked, st.sampled_from(["", "shop.production"]), st.sampled_from(["GET", "PUT"]), TARGETS),
    st.integers(1, 9),
    max_size=8,
)


@given(SEEN)
def test_what_is_proposed_lets_pass_what_was_seen(asked: dict[Asked, int]) -> None:
    """It is a document, in audit mode; whoever else calls, or with another method, is denied."""
    found = parse("authz", LAMPS, from_records(LAMPS, asked).encode())
    assert isinstance(found, Authz) and found.mode == "audit", found
    compiled = compile(found)
    for each in asked:
        if each.target.startswith("/") and "%2F" not in each.target:  # which has to be allowed decoded, too
            place = normal(each.target.encode("latin-1")).place.decode("latin-1")
            assert compiled.decide(Request(each.method, place, caller=each.caller)) is None, each
    assert compiled.decide(Request("DELETE", "/", caller="shop.production")) is not None
    assert compiled.decide(Request("GET", "/", caller="other.production")) is not None


def test_what_stands_for_one_of_many() -> None:
    """Is a place; many paths are what they begin with; callers that ask for the same share a rule."""
    asked = {Asked(caller, "GET", f"/lamps/{n}"): 1 for n in range(50) for caller in ("a.x", "b.x")}
    asked |= {Asked("a.x", "GET", f"/names/{chr(97 + n // 26)}{chr(97 + n % 26)}/x"): 1 for n in range(MOST_PATHS + 1)}
    asked[Asked("a.x", "PUT", "/u/3f2b8c1e-9d7a-4c55-8f11-0123456789ab")] = 2
    text = from_records(LAMPS, asked)
    assert '"path": {"template": "/lamps/{id}"}}}  # 100 requests' in text
    assert '"path": {"prefix": "/names"}' in text and '"path": {"template": "/u/{id}"}' in text


def test_by_calls_alone() -> None:
    """Who called, and that methods are not known; whoever has no name is asked about."""
    text = from_calls(LAMPS, ["shop.production", ""])
    found = parse("authz", LAMPS, text.encode())
    assert isinstance(found, Authz) and [rule.sources for rule in found.rules] == [("shop.production",), "anonymous"]
    assert "--records" in text
    empty = parse("authz", LAMPS, from_calls(LAMPS, []).encode())
    assert isinstance(empty, Authz) and not empty.rules
