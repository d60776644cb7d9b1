"""What is remembered of those who are asked besides rules, and what they are told."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.claim import said
from policies.kinds.authz.input import EVERYTHING, Inputs, as_read, check_read, untold
from policies.kinds.authz.judge import FAILED_S, MOST_ANSWERS, MOST_REMEMBERED, MOST_SIZE, Judge
from policies.kinds.authz.outside import Opa, Rego
from policies.request import Request

REQUEST = Request(
    "GET",
    "/lamps/7?page=2&page=3&q=a%22b",
    {"X-Tier": "gold", "accept": "*/*"},
    "shop.production",
    {"sub": "haxor69", "groups": said(["gold"]), "level": said(7), "name": '["root"]'},
    vouched="203.0.113.7",
    principal="spiffe://us.shoal/svc/shop.production",
)


def rego(**more: Any) -> Judge:
    return Judge("lamps", msgspec.convert({"modules": {"x": "package shoal"}, **more}, Rego))


def opa(**more: Any) -> Judge:
    return Judge("lamps", None, msgspec.convert({"url": "http://127.0.0.1", "path": "a", **more}, Opa))


def test_everything() -> None:
    """As the page has it."""
    every = Inputs(EVERYTHING)
    assert every.document(every.values(REQUEST, "lamps.production")) == {
        "method": "GET",
        "path": "/lamps/7",
        "parsed_path": ["lamps", "7"],
        "query": {"page": "2", "q": 'a"b'},
        "headers": {"x-tier": "gold", "accept": "*/*"},
        "claims": {"sub": "haxor69", "groups": ["gold"], "level": 7, "name": '["root"]'},
        "source": {
            "service": "shop.production",
            "namespace": "production",
            "principal": "spiffe://us.shoal/svc/shop.production",
            "trust_domain": "us.shoal",
            "address": "203.0.113.7",
        },
        "service": "lamps.production",
    }
    nobody = Request("GET", "/")
    assert every.document(every.values(nobody, "lamps")) == {
        "method": "GET",
        "path": "/",
        "parsed_path": [],
        "query": {},
        "headers": {},
        "claims": {},
        "service": "lamps",
    }


@pytest.mark.parametrize(
    ("reads", "told"),
    [
        (("headers.x-tier", "headers.none"), {"headers": {"x-tier": "gold"}}),
        (("headers", "headers.x-tier"), {"headers": {"x-tier": "gold", "accept": "*/*"}}),
        (("claims.groups",), {"claims": {"groups": ["gold"]}}),
        (("query.page",), {"query": {"page": "2"}}),
        ((), {}),
    ],
)
def test_what_is_read(reads: tuple[str, ...], told: Any) -> None:
    """And nothing besides."""
    inputs = Inputs(reads)
    assert inputs.document(inputs.values(REQUEST, "lamps")) == told


def test_a_text_that_reads_like_a_list_is_another_question() -> None:
    """Who may choose his own name is not remembered as somebody with roles."""
    inputs = Inputs(("claims.roles",))
    listed = inputs.values(Request("GET", "/", claims={"roles": said(["admin"])}), "lamps")
    written = inputs.values(Request("GET", "/", claims={"roles": '["admin"]'}), "lamps")
    assert listed != written
    assert inputs.document(listed) == {"claims": {"roles": ["admin"]}}
    assert inputs.document(written) == {"claims": {"roles": '["admin"]'}}


def test_places_in_a_plan() -> None:
    """Are what a document would declare; what is told nobody is no read."""
    assert as_read(
        ["method", "headers.x-a", "headers.X-B", "claims.https://a.b/c", "source", "source.mesh", "body"]
    ) == (
        "claims.https://a.b/c",
        "headers.x-a",
        "method",
        "source",
    )
    assert as_read(["method", ""]) == EVERYTHING
    for each in (*EVERYTHING, "headers.x-a", "claims.https://a.b/c", "query.Page", "source"):
        check_read(each)


@pytest.mark.parametrize("text", ["", "body", "headers.", "headers.X-A", "method.x", "source.mesh", "claim.sub"])
def test_reads_that_are_none(text: str) -> None:
    """Are refused."""
    with pytest.raises(ValueError, match=r"\S"):
        check_read(text)


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_what_is_told_needs_no_escape(value: Any) -> None:
    """Or it is not."""
    text = json.dumps(value, ensure_ascii=False)
    assert bool(untold(value)) == ("\\" in text or "\x7f" in text)


def test_answers_are_remembered() -> None:
    """For as long as they count: until the document changes, some seconds, or a second of none."""
    judge = rego(reads=["path"])
    asked = judge.asked(REQUEST, "lamps")
    assert asked is not None and judge.find(asked, 0.0) is None
    judge.remember(asked, judge.answer(True, "yes"), 0.0)
    found = judge.find(asked, 1e9)
    assert found is not None and found.ruling.allows
    judge.learn((), True)
    judge.remember(asked, judge.answer(True, "yes"), 0.0)
    assert judge.find(asked, 4.9) is not None and judge.find(asked, 5.0) is None and not len(judge)
    judge.remember(asked, judge.answer(False, "no", failed=True), 0.0)
    assert judge.find(asked, FAILED_S / 2) is not None and judge.find(asked, FAILED_S) is None
    declared = rego(reads=["path"], cache="0s")
    declared.remember(asked, declared.answer(True, "yes"), 0.0)
    assert declared.find(asked, 0.0) is None
    other = opa()
    asked = other.asked(REQUEST, "lamps")
    assert asked is not None
    other.remember(asked, other.answer(True, "yes"), 0.0)
    assert other.find(asked, 0.0) is None, "an OPA's answers count once, where nothing is said"


def test_what_is_remembered_is_bounded() -> None:
    """In number, in size, and each in its own; the oldest goes first."""
    judge = rego(reads=["path"])
    for n in range(MOST_ANSWERS + 10):
        judge.remember(("lamps", (str(n),)), judge.answer(True, "yes"), 0.0)
    assert len(judge) == MOST_ANSWERS
    assert judge.find(("lamps", ("9",)), 0.0) is None and judge.find(("lamps", ("10",)), 0.0) is not None
    long = rego(reads=["path"])
    for n in range(1000):
        long.remember(("lamps", (f"{n:01000}",)), long.answer(True, "yes"), 0.0)
    assert len(long) == MOST_SIZE // 1000
    assert long.find(("lamps", (f"{999:01000}",)), 0.0) is not None
    long.remember(("lamps", ("x" * (MOST_REMEMBERED + 1),)), long.answer(True, "yes"), 0.0)
    assert len(long) == MOST_SIZE // 1000


@pytest.mark.parametrize(("on_failure", "allows"), [("deny", False), ("allow", True)])
def test_no_answer(on_failure: str, allows: bool) -> None:
    """Says what the document says, and why."""
    answer = rego(on_failure=on_failure).answer(False, "it is away", failed=True)
    assert answer.ruling.allows is allows and answer.failed
    assert answer.ruling.reason == f"policies/authz/lamps: rego: it is away; on_failure: {on_failure}"
