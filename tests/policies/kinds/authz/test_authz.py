"""`authz`: the first rule that matches decides, and what every service could take a request for has to be allowed."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.kind import Scope
from policies.kinds.authz.decide import Compiled, compile
from policies.kinds.authz.document import Authz, Rule
from policies.language.document import Invalid
from policies.language.matching import compile_match
from policies.language.names import matches
from policies.request import Request

LAMPS = "lamps.production"


def made(document: dict[str, Any], key: str = LAMPS) -> Compiled:
    found = parse("authz", key, json.dumps(document).encode())
    assert isinstance(found, Authz), found
    return compile(found, Scope(LAMPS, key=key))


def rules(*found: dict[str, Any], **more: Any) -> Compiled:
    return made({"rules": list(found), **more})


def passes(compiled: Compiled, target: str = "/", method: str = "GET", **more: Any) -> bool:
    return compiled.decide(Request(method, target, **more)) is None


# Whom a rule is for.


@pytest.mark.parametrize(
    ("sources", "caller", "covered"),
    [
        (["shop.production"], "shop.production", True),
        (["shop/production"], "shop.production", True),
        (["Shop.production"], "shop.production", True),
        (["shop.production"], "shop.production.x", False),
        (["shop.production"], "x.shop.production", False),
        (["shop.production"], "", False),
        (["*.production"], "shop.production", True),
        (["*.production"], "production", False),
        (["*.production"], "*.production", False),
        (["*"], "shop", True),
        (["*"], "", False),
        (["*"], "*", False),
        (["*"], "a." * 20_000, False),
        ("anonymous", "", True),
        ("anonymous", "shop", False),
        ("anonymous", "*", True),
        ("anybody", "", True),
        ("anybody", "shop", True),
        ("anybody", "*.x", True),
    ],
)
def test_whom_a_rule_is_for(sources: Any, caller: str, covered: bool) -> None:
    """Services by pattern; nobody who is none, unless that is said."""
    assert passes(rules({"allow": sources}), caller=caller) == covered
    if sources != ["*"]:
        assert passes(rules({"deny": sources}, default="allow"), caller=caller) != covered


@pytest.mark.parametrize(
    ("source", "covers", "not_covers"),
    [
        ("spiffe://us.shoal/svc/shop.production", "/svc/shop.production", "/svc/shop"),
        ("spiffe://us.shoal/svc/*.production", "/svc/shop.production", "/svc/production"),
        ("spiffe://us.shoal/svc/*", "/svc/shop.production", "/agent/gate-1"),
        ("spiffe://us.shoal/*", "/agent/gate-1", ""),
        ("spiffe://us.shoal/agent/gate-1", "/agent/gate-1", "/agent/gate-2"),
        ("spiffe://us.shoal/ns/x/sa/Y", "/ns/x/sa/Y", "/ns/x/sa/y"),
    ],
)
def test_who_has_proven_to_be_of_a_domain(source: str, covers: str, not_covers: str) -> None:
    """By the id, exact or by pattern; whatever the caller's name is here, and never by another domain's."""
    compiled = rules({"allow": [source]})
    assert passes(compiled, principal=f"spiffe://us.shoal{covers}")
    for principal in (
        f"spiffe://us.shoal{not_covers}",
        f"spiffe://eu.shoal{covers}",
        f"spiffe://us.shoal.x{covers}",
        "",
    ):
        assert not passes(compiled, principal=principal, caller="shop.production")


def test_a_name_is_of_this_mesh() -> None:
    """Whoever has the same one in another domain has no name here."""
    assert not passes(rules({"allow": ["shop.production"]}), principal="spiffe://us.shoal/svc/shop.production")


# Order, default, conditions.


def test_the_first_that_matches_decides() -> None:
    """And `default` where none does."""
    compiled = rules(
        {"name": "nobody deletes", "deny": "anybody", "match": {"method": ["DELETE"]}},
        {"name": "staff", "allow": ["*.staff"], "not": {"caller": ["intern.staff"]}},
        {"allow": ["shop.production"], "match": {"path": {"prefix": "/lamps"}, "headers": {"x-tier": "gold"}}},
    )

    def decided(method: str, target: str, caller: str, tier: str = "") -> str:
        ruling = compiled.judge(Request(method, target, {"x-tier": tier}, caller))
        return f"{ruling.rule} {'allows' if ruling.allows else 'denies'}"

    assert decided("DELETE", "/", "a.staff") == "nobody deletes denies"
    assert decided("PUT", "/", "a.staff") == "staff allows"
    assert decided("PUT", "/", "intern.staff") == "default denies"
    assert decided("GET", "/lamps/7", "shop.production", "gold") == "rules[2] allows"
    assert decided("GET", "/lamps/7", "shop.production") == "default denies"
    assert decided("GET", "/lampshades", "shop.production", "gold") == "default denies"


def test_what_is_said_to_who_operates() -> None:
    """Which document, and which rule."""
    denied = made({"rules": [{"name": "no", "deny": "anybody"}]}, "*.production").decide(Request())
    assert denied is not None and denied.status == 403
    assert denied.reason == "policies/authz/*.production: by the rule no"
    nothing = made({"rules": []}).decide(Request())
    assert nothing is not None and nothing.reason == "policies/authz/lamps.production: no rule allows it"


# The index says what rules say one after the other.

LABELS = st.sampled_from(["shop", "a", "production"])
NAMES = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
SOURCES = st.one_of(
    st.lists(st.one_of(NAMES, NAMES.map(lambda name: f"*.{name}")), min_size=1, max_size=3),
    st.sampled_from(["anybody", "anonymous"]),
)
SEGMENTS = st.sampled_from(["a", "b", "cats", "a;x=1", "%61", "a%2Fb", "..", "."])
PATHS = st.lists(SEGMENTS, max_size=3).map(lambda found: "/" + "/".join(found)) | st.sampled_from(
    ["/a/", "//a", "/", "*"]
)
CONDITIONS = st.one_of(
    st.lists(st.sampled_from(["a", "b", "cats"]), max_size=3).flatmap(
        lambda found: st.sampled_from(["exact", "prefix"]).map(lambda how: {how: "/" + "/".join(found)})
    ),
    st.sampled_from(
        [{"template": "/cats/{id}"}, {"template": "/{x}/a"}, {"template": "/a/b"}, {"regex": "/a.*"}, {"prefix": "/a/"}]
    ),
)
MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "method": st.lists(st.sampled_from(["GET", "PUT"]), min_size=1, max_size=2, unique=True),
        "path": CONDITIONS,
        "headers": st.just({"x": "1"}),
    },
)
RULES = st.builds(
    lambda sources, how, match, unless: {how: sources, "match": match, **({"not": unless} if unless else {})},
    SOURCES,
    st.sampled_from(["allow", "deny"]),
    MATCHES,
    st.none() | MATCHES,
)
REQUESTS = st.builds(
    Request,
    st.sampled_from(["GET", "PUT", "POST"]),
    PATHS,
    st.sampled_from([{}, {"x": "1"}]),
    NAMES | st.just(""),
)


def covers(rule: Rule, caller: str) -> bool:
    if isinstance(rule.sources, str):
        return rule.sources == "anybody" or not caller
    return bool(caller) and any(matches(pattern, caller) for pattern in rule.sources)


def one_by_one(document: Authz, request: Request) -> bool:
    for rule in document.rules:
        predicate = compile_match(rule.match, {})
        unless = compile_match(rule.not_, {}) if rule.not_ is not None else None
        matched = covers(rule, request.caller) and (predicate is None or predicate(request))
        if matched and (unless is None or not unless(request)):
            return rule.allow is not None
    return document.default == "allow"


@given(st.lists(RULES, min_size=1, max_size=8), st.sampled_from(["allow", "deny"]), REQUESTS)
def test_the_index_says_what_rules_say_one_after_the_other(found: list[Any], default: str, request: Request) -> None:
    """For the path as it is judged; and a request that has other readings passes no more than that."""
    document = parse("authz", LAMPS, json.dumps({"rules": found, "default": default}).encode())
    if isinstance(document, Invalid):
        return
    compiled = compile(document)
    assert compiled._first(request).allows == one_by_one(document, request)
    if compiled.judge(request).allows:
        assert one_by_one(document, request)


@given(st.lists(RULES, min_size=1, max_size=6), RULES, st.integers(0, 6), REQUESTS)
def test_an_unrelated_rule_changes_nothing(found: list[Any], other: Any, at: int, request: Request) -> None:
    """One that is for another caller, wherever it stands."""
    unrelated = {**other, ("allow" if "allow" in other else "deny"): ["somebody.else"]}
    without = parse("authz", LAMPS, json.dumps({"rules": found}).encode())
    with_it = parse("authz", LAMPS, json.dumps({"rules": [*found[:at], unrelated, *found[at:]]}).encode())
    if isinstance(without, Authz) and isinstance(with_it, Authz):
        assert compile(without).judge(request).allows == compile(with_it).judge(request).allows


# What services could take a request for.

TRICKS = [
    "/admin",
    "//admin",
    "/./admin",
    "/x/../admin",
    "/x/%2e%2e/admin",
    "/x/%2E%2E/admin",
    "/x/..;/admin",
    "/x/..%2fadmin",
    "/%61dmin",
    "/admin;v=1",
    "/admin;v=1/x",
    "/\\admin",
    "/x\\..\\admin",
    "/admin%2Fx",
    "/admin%5cx",
    "/%2Fadmin",
    "/x/..%5Cadmin",
    "/admin/",
    "/admin/./x",
]


@pytest.mark.parametrize("target", TRICKS)
def test_every_spelling_of_a_place_is_closed_with_it(target: str) -> None:
    """As it comes to a service that keeps every spelling; what `path` makes of it is asked of whole requests."""
    closed = {"deny": "anybody", "match": {"path": {"prefix": "/admin"}}}
    assert not passes(rules(closed, {"allow": "anybody"}), target)
    assert not passes(rules({"allow": "anybody", "match": {"path": {"prefix": "/x"}}}), target)


@pytest.mark.parametrize("target", ["/", "/administrator", "/x/admin", "/a%20b", "/x?at=//admin"])
def test_other_places_are_open(target: str) -> None:
    """As they were."""
    assert passes(rules({"deny": "anybody", "match": {"path": {"prefix": "/admin"}}}, default="allow"), target)


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"x-http-method-override": "DELETE"}, ""),
        ({"x-method-override": "delete"}, ""),
        ({"x-http-method": "PATCH, DELETE"}, ""),
        ({}, "?_method=DELETE"),
        ({}, "?a=b&%5Fmethod=delete"),
        ({"x-http-method-override": "PUT"}, "?_method=DELETE"),
        ({"x-http-method-override": "A,B,C,D,E"}, ""),
    ],
)
def test_a_method_that_a_request_asks_to_be_taken_for_has_to_be_allowed(headers: dict[str, str], query: str) -> None:
    """Beside the one that it has."""
    for compiled in (
        rules({"deny": "anybody", "match": {"method": ["DELETE"]}}, {"allow": "anybody"}),
        rules({"allow": "anybody", "match": {"method": ["POST", "PUT"]}}),
    ):
        assert passes(compiled, "/", "POST", headers={"x-http-method-override": "PUT"})
        assert not passes(compiled, f"/{query}", "POST", headers=headers)


def test_who_operates_is_told_for_what_a_request_was_taken() -> None:
    """And nothing where it is denied as it stands, or passes; no value of a parameter is told: it may be a secret."""
    compiled = rules({"name": "no deletes", "deny": "anybody", "match": {"method": ["DELETE"]}}, {"allow": "anybody"})
    asks = {"x-http-method-override": "DELETE"}
    assert compiled.taken(Request("POST", "/", asks)).endswith("take it for DELETE")
    assert compiled.taken(Request("DELETE", "/")) == compiled.taken(Request("POST", "/")) == ""
    compiled = rules({"deny": "anybody", "match": {"path": {"prefix": "/admin"}}}, {"allow": "anybody"})
    assert "'/admin/x'" in compiled.taken(Request("GET", "/admin%2Fx"))
    compiled = rules({"deny": "anybody", "match": {"query": {"as": "root"}}}, {"allow": "anybody"})
    said = compiled.taken(Request("GET", "/?as=ann&as=root"))
    assert "several values" in said and "root" not in said


DOUBLED = [
    ({"query": {"as": "ann"}}, "/?as=ann", "", True),
    ({"query": {"as": "ann"}}, "/?as=ann&as=ann", "", True),
    ({"query": {"as": "ann"}}, "/?as=ann&as=bob", "", False),
    ({"query": {"as": "ann"}}, "/?as=bob&as=ann", "", False),
    ({"query": {"as": "ann"}}, "/?as=ann&%61s=bob", "", False),
    ({"query": {"as": "ann"}}, "/?as=ann&as=", "", False),
    ({"query": {"as": "ann"}}, "/?as=ann&as=bob&as=ann", "", False),
    ({"query": {"as": {"in": ["ann", "bob"]}}}, "/?as=ann&as=bob", "", True),
    ({"query": {"as": "ann"}}, "/?as=ann&of=1&of=2", "", True),
    ({"query": {"as": {"present": False}}}, "/?of=1&of=2", "", True),
    ({"query": {"as": "ann", "of": "1"}}, "/?as=ann&of=1&of=2", "", False),
    ({"cookies": {"as": "ann"}}, "/", "as=ann; of=1", True),
    ({"cookies": {"as": "ann"}}, "/", "as=ann; as=bob", False),
    ({"cookies": {"as": "ann"}}, "/", "as=bob, as=ann", False),
    ({"cookies": {"as": "ann"}}, "/", "as=ann; of=1; of=2", True),
    ({"cookies": {"as": "ann"}}, "/", 'as=ann; as="ann"', True),
]


@pytest.mark.parametrize(("match", "target", "cookie", "holds"), DOUBLED)
def test_an_allowing_rule_holds_for_every_value_and_a_denying_one_for_any(
    match: dict[str, Any], target: str, cookie: str, holds: bool
) -> None:
    """A service may read the first or the last; and `not` is no way around it."""
    headers = {"cookie": cookie} if cookie else {}
    assert passes(rules({"allow": "anybody", "match": match}), target, headers=headers) is holds
    negated = {"deny": "anybody", "not": match}
    assert passes(rules(negated, {"allow": "anybody"}), target, headers=headers) is holds


@pytest.mark.parametrize("target", ["/?as=root", "/?as=ann&as=root", "/?as=root&as=ann", "/?as=a&as=root&as=b"])
def test_a_denying_rule_is_for_any_value(target: str) -> None:
    denying = {"deny": "anybody", "match": {"query": {"as": "root"}}}
    assert not passes(rules(denying, default="allow"), target)
    assert passes(rules(denying, default="allow"), "/?as=ann&as=bob")
    assert not passes(rules({"allow": "anybody", "not": {"query": {"as": "root"}}}), target)


def test_values_of_two_names_are_read_in_each_combination() -> None:
    """A service may take the first of one and the last of the other."""
    two = [{"allow": "anybody", "match": {"query": {"a": n, "b": n}}} for n in "12"]
    assert passes(rules(*two), "/?a=1&b=1") and passes(rules(*two), "/?a=2&b=2")
    assert not passes(rules(*two), "/?a=1&b=1&a=2&b=2")


@pytest.mark.parametrize(("names", "values", "judged"), [(1, 16, True), (1, 17, False), (4, 2, True), (5, 2, False)])
def test_ways_to_read_a_request_are_bounded(names: int, values: int, judged: bool) -> None:
    """Beyond it is denied, and says so; what no rule looks at is no matter of it."""
    asked = {f"n{n}": {"present": True} for n in range(names)}
    target = "/?" + "&".join(f"n{n}={value}" for n in range(names) for value in range(values))
    ruling = rules({"allow": "anybody", "match": {"query": asked}}).judge(Request("GET", target))
    assert ruling.allows is judged and (judged or "values of one name" in ruling.reason)
    assert passes(rules({"allow": "anybody", "match": {"query": {"x": {"present": False}}}}), target)


@pytest.mark.parametrize("field", ["query", "cookies"])
def test_a_request_that_could_be_read_in_many_ways_is_denied_before_they_are_written_down(field: str) -> None:
    """Ten thousand values of one name would else be ten thousand texts as long as the head: 600 MB. And a few ways to
    read a long one would hold a worker up for as long as it takes to read it as often."""
    compiled = rules({"deny": "anybody", "match": {field: {"a": "no"}}}, {"allow": "anybody"})

    def ruling(values: int, rest: int) -> Any:
        said = [*(f"a={n}" for n in range(values)), *(f"b{n}=1" for n in range(rest))]
        target, headers = ("/?" + "&".join(said), {}) if field == "query" else ("/", {"cookie": "; ".join(said)})
        return compiled.judge(Request("GET", target, headers))

    tracemalloc.start()
    try:
        many = ruling(8000, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not many.allows and "values of one name" in many.reason and peak < 16 * 2**20
    assert not ruling(2, 1000).allows
    assert ruling(1, 1000).allows and ruling(2, 100).allows


def test_an_overriding_method_is_asked_for_nothing_where_methods_are_none_of_the_matter() -> None:
    """Whatever it is."""
    assert passes(rules({"allow": "anybody"}), "/", "POST", headers={"x-http-method-override": "DELETE"})


# Bounds.


@pytest.mark.parametrize("odd", [";x", "%2F", "/../", "//"])
def test_an_odd_path_is_read_up_to_a_length(odd: str) -> None:
    """Each way to read it costs, and nobody needs such; a plain one may be as long as it likes."""
    compiled = rules({"allow": "anybody"})
    assert passes(compiled, f"/a{odd}b") and passes(compiled, f"/{'a' * 60_000}")
    ruling = compiled.judge(Request("GET", f"/a{odd}{'a' * 4096}"))
    assert not ruling.allows and "over 4096 bytes" in ruling.reason


def test_a_thousand_rules() -> None:
    """Are read, and the last of them decides; one more is refused."""
    many = [
        {"allow": [f"svc-{n}.production"], "match": {"method": ["GET"], "path": {"prefix": f"/p/{n}"}}}
        for n in range(1000)
    ]
    compiled = rules(*many)
    assert compiled.judge(Request("GET", "/p/999/x", caller="svc-999.production")).rule == "rules[999]"
    assert isinstance(parse("authz", LAMPS, json.dumps({"rules": [*many, many[0]]}).encode()), Invalid)


def test_conditions_of_not_are_counted_too() -> None:
    """Among those that a document may have."""
    rule = {"allow": "anybody", "not": {"headers": {f"h{n}": "1" for n in range(50)}}}
    found = parse("authz", LAMPS, json.dumps({"rules": [rule] * 100}).encode())
    assert isinstance(found, Invalid) and "more than 4000 conditions" in found.reason
