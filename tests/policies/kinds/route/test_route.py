"""`route`: where a request goes."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.decision import Decision, Edits, Forward, Redirect, Respond, Subset
from policies.endpoint import Endpoint
from policies.kind import Scope
from policies.kinds.fault import decide as fault
from policies.kinds.fault.document import FaultPolicy
from policies.kinds.route.decide import Compiled, compile, decide
from policies.kinds.route.document import Route
from policies.kinds.shadow import decide as shadow
from policies.kinds.shadow.document import Shadow
from policies.language.document import Invalid
from policies.request import Request

SERVICE = "pets.production"
RNG = random.Random(11)


def route(**fields: Any) -> Compiled:
    found = parse("route", SERVICE, json.dumps(fields).encode())
    assert isinstance(found, Route), found
    return compile(found, Scope(SERVICE))


def refusal(**fields: Any) -> str:
    found = parse("route", SERVICE, json.dumps(fields).encode())
    assert isinstance(found, Invalid), found
    return f"{found.path}: {found.reason}"


def decision(compiled: Compiled, *args: Any, **more: Any) -> Decision:
    return decide(compiled, Request(*args, **more), RNG)


def forward(compiled: Compiled, *args: Any, **more: Any) -> Forward:
    action = decision(compiled, *args, **more).action
    assert isinstance(action, Forward)
    return action


def version(compiled: Compiled, *args: Any, **more: Any) -> str | None:
    subset = forward(compiled, *args, **more).subset
    return subset.version if subset is not None else None


CANARY = [{"version": "v1", "weight": 90}, {"version": "v2", "weight": 10}]


# Rules.


def test_the_first_rule_that_matches_decides() -> None:
    """And when none does, the request goes to the service itself."""
    compiled = route(
        rules=[
            {"match": {"path": {"prefix": "/a"}}, "split": [{"version": "v1"}]},
            {"name": "second", "match": {"method": ["GET"]}, "split": [{"version": "v2"}]},
        ]
    )
    assert decision(compiled, "GET", "/a/x") == Decision("rules[0]", "100% to version v1", Forward(subset=Subset("v1")))
    assert decision(compiled, "GET", "/b").rule == "second"
    assert decision(compiled, "POST", "/b") == Decision("default", "no rule matched", Forward())


def test_an_empty_document_changes_nothing() -> None:
    """The service as it is."""
    assert forward(route()) == Forward()


def test_decisions_that_do_not_depend_on_the_request_are_shared() -> None:
    """A route over one target makes nothing for each request."""
    compiled = route(rules=[{"split": [{"version": "v1"}, {"version": "v2", "weight": 0}]}])
    assert decision(compiled) is decision(compiled, "POST", "/x")
    split = route(rules=[{"split": CANARY}])
    assert len({id(decision(split)) for _ in range(200)}) == 2


def test_targets() -> None:
    """A version, labels, another service by either spelling, and the route's own by its name."""
    own = {"service": "pets/production", "version": "v2"}
    compiled = route(
        rules=[
            {"match": {"query": {"q": "own"}}, "split": [own]},
            {"match": {"query": {"q": "other"}}, "split": [{"service": "Dogs/production"}]},
            {"split": [{"labels": {"tier": "gold", "disk": "ssd"}}]},
        ]
    )
    assert forward(compiled, target="/?q=own") == Forward(subset=Subset("v2"))
    assert forward(compiled, target="/?q=other") == Forward(service="dogs.production")
    assert forward(compiled).subset == Subset(None, (("disk", "ssd"), ("tier", "gold")))


def test_a_target_that_is_the_services_own_name_is_no_second_one() -> None:
    """Its weight is added: a user has one draw for each place that requests go to."""
    split = [{"version": "v2", "weight": 1}, {"version": "v2", "service": SERVICE, "weight": 2}, {"version": "v1"}]
    compiled = route(rules=[{"split": split, "sticky": {"header": "user"}}])
    sides = [version(compiled, headers={"user": f"u{n}"}) for n in range(4000)]
    assert abs(sides.count("v2") / 4000 - 0.75) < 0.03


def test_subsets_select_endpoints() -> None:
    """By version and by every label."""
    one = Endpoint("pets", "a", "::1", 1, version="v1", metadata={"tier": "gold", "x": "1"})
    assert Subset("v1").selects(one)
    assert Subset(None, (("tier", "gold"),)).selects(one)
    assert not Subset("v2").selects(one)
    assert not Subset("v1", (("tier", "gold"), ("x", "2"))).selects(one)
    assert str(Subset("v1", (("tier", "gold"),))) == "version v1, tier=gold"


# Splits.


def test_a_split_divides_at_random() -> None:
    """In proportion to the weights."""
    compiled = route(rules=[{"split": CANARY}])
    rng = random.Random(3)
    found = [decide(compiled, Request(), rng).reason for _ in range(5000)]
    assert set(found) == {"90% to version v1", "10% to version v2"}
    assert abs(found.count("10% to version v2") / 5000 - 0.1) < 0.02


@pytest.mark.parametrize("key", ["header", "cookie"])
def test_a_sticky_split_keeps_users_on_their_sides(key: str) -> None:
    """By header or cookie, whatever chance says; raising 5% to 20% moves nobody back."""

    def side(weight: int, user: str) -> str | None:
        split = [{"version": "v1", "weight": 100 - weight}, {"version": "v2", "weight": weight}]
        compiled = route(rules=[{"split": split, "sticky": {key: "user"}}])
        headers = {"header": {"user": user}, "cookie": {"cookie": f"user={user}"}}.get(key, {})
        return version(compiled, "GET", "/", headers)

    users = [f"u{n}" for n in range(300)]
    few = {user for user in users if side(5, user) == "v2"}
    more = {user for user in users if side(20, user) == "v2"}
    assert few < more
    assert {user for user in users if side(5, user) == "v2"} == few
    assert 5 <= len(few) <= 30
    assert 40 <= len(more) <= 85


def first_tenth(kind: str, service: str) -> set[str]:
    """The users whom a tenth takes in, of a document of some kind that a thousand services might have."""
    users = [f"user-{n}" for n in range(4000)]
    asked = [(user, Request("GET", "/", {"user": user})) for user in users]
    sticky: dict[str, Any] = {"percent": 10, "sticky": {"header": "user"}}
    if kind == "fault":
        fields = {"expires": "2099-01-01T00:00:00Z", "rules": [{"name": "v2", **sticky, "reset": True}]}
        found = parse("fault", "*", json.dumps(fields).encode())
        assert isinstance(found, FaultPolicy)
        faults = fault.compile(found)
        return {user for user, each in asked if faults.decide(each, 0.0, RNG, service) is not None}
    if kind == "shadow":
        found = parse("shadow", "*", json.dumps({"copies": [{"to": "lab", **sticky}]}).encode())
        assert isinstance(found, Shadow)
        shadows = shadow.compile(found, Scope(service))
        return {user for user, each in asked if shadows.decide(each, RNG)}
    split = {"split": CANARY, "sticky": {"header": "user"}}
    group = {"match": {"groups": ["v2"]}, "split": [{"version": "v2"}]}
    groups = {"groups": {"v2": {"header": "user", "percent": 10}}} if kind == "group" else {}
    found = parse("route", "*", json.dumps({**groups, "rules": [group if groups else split]}).encode())
    assert isinstance(found, Route)
    compiled = compile(found, Scope(service))
    return {user for user, each in asked if decide(compiled, each, RNG).action == Forward(subset=Subset("v2"))}


@pytest.mark.parametrize("kind", ["split", "group", "fault", "shadow"])
def test_not_the_same_users_are_guinea_pigs_everywhere(kind: str) -> None:
    """A tenth of a tenth is in two of them: of two services under one document, and of two kinds of one service."""
    one = first_tenth(kind, "pets.production")
    assert one == first_tenth(kind, "pets.production")
    others = [first_tenth(kind, "shop.production")]
    others += [first_tenth(each, "pets.production") for each in ("split", "group", "fault", "shadow") if each != kind]
    for other in others:
        assert 300 < len(one) < 500 and 300 < len(other) < 500
        assert 10 < len(one & other) < 80


def test_within_a_document_users_are_on_the_same_side_of_each_rule() -> None:
    """A user of the new version has it on every path."""
    rules: list[Any] = [
        {"match": {"path": {"prefix": path}}, "split": CANARY, "sticky": {"cookie": "user"}} for path in ("/a", "/b")
    ]
    compiled = route(rules=rules)
    for n in range(200):
        cookie = {"cookie": f"user=u{n}"}
        assert version(compiled, "GET", "/a", cookie) == version(compiled, "GET", "/b", cookie)


@pytest.mark.parametrize(
    ("sticky", "attributes"),
    [
        ({"cookie": "user"}, "; Path=/; HttpOnly; SameSite=Lax"),
        ({"cookie": "user", "ttl": "30m"}, "; Path=/; Max-Age=1800; HttpOnly; SameSite=Lax"),
        ({"cookie": "__Host-user"}, "; Path=/; HttpOnly; Secure; SameSite=Lax"),
    ],
)
def test_who_has_no_cookie_is_given_one(sticky: dict[str, str], attributes: str) -> None:
    """And is from the first request on where it keeps him; the sides get their shares; who has one keeps that."""
    compiled = route(rules=[{"split": CANARY, "sticky": sticky}])
    name, sides = sticky["cookie"], []
    for _ in range(1000):
        first = forward(compiled)
        assert first.cookie is not None and first.subset is not None
        value, _, rest = first.cookie.partition(";")
        assert value.startswith(f"{name}=") and f";{rest}" == attributes
        again = forward(compiled, "GET", "/", {"cookie": value})
        assert again.subset == first.subset and again.cookie is None
        sides.append(first.subset.version)
    assert 60 < sides.count("v2") < 150 and forward(compiled, "GET", "/", {"cookie": f"{name}="}).cookie


@pytest.mark.parametrize("sticky", [{"header": "user"}, {"cookie": "user", "issue": False}, None])
def test_who_needs_no_cookie_gets_none(sticky: Any) -> None:
    """By header, where the document says no, and where users are not kept together."""
    compiled = route(rules=[{"split": CANARY, **({"sticky": sticky} if sticky else {})}])
    assert {version(compiled) for _ in range(100)} == {"v1", "v2"}
    assert {forward(compiled).cookie for _ in range(20)} == {None}


def test_without_the_sticky_value_requests_are_divided_at_random() -> None:
    """And an empty value tells nobody apart."""
    compiled = route(rules=[{"split": CANARY, "sticky": {"header": "User"}}])
    for headers in ({}, {"user": ""}):
        assert {version(compiled, "GET", "/", headers) for _ in range(200)} == {"v1", "v2"}
    assert len({version(compiled, "GET", "/", {"user": "ann"}) for _ in range(200)}) == 1


def test_sums_do_not_overflow() -> None:
    """The largest weights there may be, and the smallest."""
    split = [{"version": f"v{n}", "weight": 1_000_000} for n in range(63)] + [{"version": "w", "weight": 5e-324}]
    compiled = route(rules=[{"split": split, "sticky": {"header": "user"}}])
    for n in range(50):
        assert version(compiled, headers={"user": str(n)}) != "w"
        assert version(compiled) != "w"


# Groups.


def test_groups_are_by_value() -> None:
    """A canary for the free tier and for guinea pigs, by whatever tells them."""
    compiled = route(
        groups={
            "free": {"header": "X-Tier", "where": {"in": ["free", "trial"]}},
            "pigs": {"cookie": "pig", "where": "yes"},
        },
        rules=[{"match": {"groups": ["free", "pigs"]}, "split": [{"version": "v2"}]}],
    )
    assert version(compiled, headers={"x-tier": "trial"}) == "v2"
    assert version(compiled, headers={"cookie": "pig=yes"}) == "v2"
    assert version(compiled, headers={"cookie": "pig=no", "x-tier": "gold"}) is None


@settings(max_examples=50)
@given(st.floats(0, 100), st.floats(0, 100))
def test_a_group_by_percent_only_grows(one: float, other: float) -> None:
    """Whoever is in at 5% is in at 20%; 0 is nobody and 100 everybody who has the value."""
    low, high = sorted((one, other))

    def members(percent: float) -> set[str]:
        compiled = route(
            groups={"some": {"header": "user", "percent": percent}},
            rules=[{"match": {"groups": ["some"]}, "split": [{"version": "v2"}]}],
        )
        assert version(compiled) is None
        return {str(n) for n in range(100) if version(compiled, headers={"user": str(n)}) == "v2"}

    assert members(low) <= members(high)
    assert not members(0)
    assert len(members(100)) == 100


# Blue-green.

BLUE_GREEN = {"active": "v1", "standby": "v2", "preview": {"header": "x-preview"}}


def test_one_version_is_active() -> None:
    """All traffic goes there, and one document switches it."""
    assert version(route(active="v1", standby="v2")) == "v1"
    assert version(route(active="v2", standby="v1")) == "v2"
    assert "version v1 is active" in decision(route(active="v1")).reason


def test_the_standby_version_can_be_seen_before_the_switch() -> None:
    """By those whom `preview` names."""
    compiled = route(**BLUE_GREEN)
    assert version(compiled) == "v1"
    assert version(compiled, headers={"X-Preview": ""}) == "v2"
    by_cookie = route(active="v1", standby="v2", preview={"cookie": "side", "where": {"prefix": "green"}})
    assert version(by_cookie, headers={"cookie": "side=green-7"}) == "v2"
    assert version(by_cookie, headers={"cookie": "side=blue"}) == "v1"


def test_rules_that_place_nothing_leave_the_release_as_it_is() -> None:
    """A rule that only edits headers does not send requests to the version that waits."""
    edit = {"headers": {"request": {"set": {"x": "1"}}}, "rewrite": {"path": "/new"}}
    compiled = route(**BLUE_GREEN, rules=[edit])
    for headers, side in (({}, "v1"), ({"x-preview": "1"}, "v2")):
        found = forward(compiled, "GET", "/old?q", headers)
        assert found == Forward(subset=Subset(side), target="/new?q", request_headers=Edits((("x", "1"),)))
    beside = route(**BLUE_GREEN, rules=[{"split": [{}]}])
    assert version(beside) == "v1"


def test_rules_that_place_requests_go_before_the_release() -> None:
    """A canary of a third version, beside the active one."""
    compiled = route(**BLUE_GREEN, rules=[{"match": {"method": ["PUT"]}, "split": [{"version": "v3"}]}])
    assert version(compiled, "PUT") == "v3"
    assert version(compiled, "GET") == "v1"
    other = route(**BLUE_GREEN, rules=[{"split": [{"service": "dogs"}]}])
    assert forward(other) == Forward(service="dogs")


# Rewrites.


@pytest.mark.parametrize(
    ("match", "path", "asked", "seen"),
    [
        ({"prefix": "/api"}, "/", "/api/x?q=1", "/x?q=1"),
        ({"prefix": "/api"}, "/", "/api", "/"),
        ({"prefix": "/api/"}, "/v2/", "/api/x", "/v2/x"),
        ({"prefix": "/api"}, "/v2", "/api", "/v2"),
        ({"prefix": "/"}, "/v2", "/x", "/v2/x"),
        ({"template": "/pets/{id}/toys/{toy}"}, "/t/{toy}/of/{id}", "/pets/a%2Fb/toys/2?x", "/t/2/of/a%2Fb?x"),
        ({"template": "/pets/{id}"}, "/pets", "/pets/7", "/pets"),
        ({"regex": "/v([0-9]+)/(.*)"}, "/{2}/{1}", "/v3/a/b", "/a/b/3"),
        ({"regex": "/(?P<what>[a-z]+)(/x)?"}, "/{what}{2}!", "/cats", "/cats!"),
        ({"exact": "/old"}, "/new", "/old?q=1", "/new?q=1"),
        (None, "/all", "/anything", "/all"),
    ],
)
def test_paths_are_rewritten(match: dict[str, str] | None, path: str, asked: str, seen: str) -> None:
    """A prefix is replaced, places are filled in, else it is the whole path; the query stays."""
    rule: dict[str, Any] = {"rewrite": {"path": path}}
    if match is not None:
        rule["match"] = {"path": match}
    assert forward(route(rules=[rule]), target=asked).target == seen


@given(st.text("ab/%2F.", max_size=8))
def test_a_rewritten_path_is_a_path(rest: str) -> None:
    """Whatever follows the prefix."""
    compiled = route(rules=[{"match": {"path": {"prefix": "/api"}}, "rewrite": {"path": "/"}}])
    found = forward(compiled, target=f"/api/{rest}").target
    assert found is not None
    assert found.startswith("/")
    assert found == f"/{rest}"


def test_hosts_are_rewritten() -> None:
    """And the path then stays."""
    compiled = route(rules=[{"rewrite": {"host": "pets.internal:8080"}}])
    assert forward(compiled, target="/x") == Forward(host="pets.internal:8080")


def test_a_split_can_be_rewritten_and_edited() -> None:
    """All in one rule."""
    edits = {
        "request": {"set": {"X-A": "1"}, "add": {"x-b": "2"}, "remove": ["X-C"]},
        "response": {"remove": ["server"]},
    }
    rule = {"split": CANARY, "sticky": {"header": "user"}, "rewrite": {"path": "/n", "host": "h"}, "headers": edits}
    found = forward(route(rules=[rule]), headers={"user": "ann"})
    assert found.target == "/n"
    assert found.host == "h"
    assert found.request_headers == Edits((("X-A", "1"),), (("x-b", "2"),), frozenset({"x-c"}))
    assert found.response_headers == Edits(remove=frozenset({"server"}))
    assert found.subset in (Subset("v1"), Subset("v2"))


# Answers.


@pytest.mark.parametrize(
    ("location", "asked", "sent_to"),
    [
        ("/new", "/old?x=1", "/new"),
        ("https://shop.example{path}?{query}", "/a%20b?x=1&y=%C3%A4", "https://shop.example/a%20b?x=1&y=%C3%A4"),
        ("{path}/", "/a", "/a/"),
        ("{path}", "//evil.example/x", "/evil.example/x"),
        ("{path}", "/\\evil.example", "/%5Cevil.example"),
        ("/x{path}", "/{query}", "/x/%7Bquery%7D"),
        ("https://shop.example{path}", "*", "https://shop.example/*"),
    ],
)
def test_redirects(location: str, asked: str, sent_to: str) -> None:
    """Places are filled in, and no path can lead the client to another host."""
    compiled = route(rules=[{"redirect": {"location": location, "status": 308}}])
    assert decision(compiled, target=asked).action == Redirect(308, sent_to)


@given(st.text(st.characters(max_codepoint=0x17F), max_size=12))
def test_a_location_is_always_one_header_value(path: str) -> None:
    """Whatever was asked for."""
    found = decision(route(rules=[{"redirect": {"location": "{path}?{query}"}}]), target=path).action
    assert isinstance(found, Redirect)
    assert found.location.isascii()
    assert found.location.isprintable()
    assert found.location[:1] == "/"
    assert found.location[:2] != "//"


def test_direct_responses() -> None:
    """A status, headers and a body, which is text unless the headers say otherwise."""
    compiled = route(rules=[{"respond": {"status": 503, "headers": {"Retry-After": "60"}, "body": "Löschwasser"}}])
    plain = ("content-type", "text/plain; charset=utf-8")
    assert decision(compiled).action == Respond(503, (("Retry-After", "60"), plain), "Löschwasser".encode())
    compiled = route(rules=[{"respond": {"headers": {"Content-Type": "application/json"}, "body": "{}"}}])
    assert decision(compiled).action == Respond(200, (("Content-Type", "application/json"),), b"{}")
    assert decision(route(rules=[{"respond": {"status": 204}}])).action == Respond(204, (), b"")


# What is refused.


def rule(**fields: Any) -> dict[str, Any]:
    return {"rules": [{}, fields]}


SET = "$.rules[1].headers.request.set"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (rule(split=[{"version": "a", "weight": 0}, {"version": "b", "weight": 0}]),
         "$.rules[1].split: the weights add up to 0: nothing could be chosen; give one target a weight"),
        (rule(split=[{}, {"version": "v2", "weight": 1e308}]),
         "$.rules[1].split[1].weight: expected a number <= 1000000.0"),
        (rule(split=[{"version": "v1", "weight": -1}]), "$.rules[1].split[0].weight: expected a number >= 0.0"),
        (rule(split=[{"weight": float("nan")}]), "$.rules[1].split[0].weight: not a finite number"),
        (rule(split=[{"weight": "5%"}]), "$.rules[1].split[0].weight: expected a number, got text"),
        (rule(split=[{"version": "v1"}, {}, {"version": "v1"}]),
         "$.rules[1].split[2]: the same as split[0]; add the weights up"),
        (rule(split=[{"service": "a/../b"}]),
         "$.rules[1].split[0].service: '' in 'a/../b' is not a DNS label: use 1 to 63 "
         "of a-z, 0-9 and '-', beginning and ending with a letter or digit"),
        (rule(split=[{"version": 2}]),
         "$.rules[1].split[0].version: expected text, got a whole number; put it in quotes"),
        (rule(split=[{"labels": {"a": "b", "tier": 1}}]),
         "$.rules[1].split[0].labels.tier: expected text, got a whole number; put it in quotes"),
        (rule(sticky={"header": "user"}),
         "$.rules[1].sticky: without a split over two targets there is nothing to stick to"),
        (rule(split=CANARY, sticky={"claim": "s" * 513}), "$.rules[1].sticky.claim: 513 characters; at most 512"),
        ({"groups": {"a": {"claim": "s" * 513, "where": "x"}}}, "$.groups.a.claim: 513 characters; at most 512"),
        (rule(split=CANARY, sticky={}), "$.rules[1].sticky: exactly one of header, cookie, claim; here: none"),
        (rule(split=CANARY, sticky={"header": "a", "cookie": "b"}),
         "$.rules[1].sticky: exactly one of header, cookie, claim; here: header and cookie"),
        (rule(timeout={}), "$.rules[1].timeout: does nothing; one or both of request and try"),
        (rule(timeout={"request": 0}), "$.rules[1].timeout.request: 0 s; more than nothing, and at most 86400 s"),
        (rule(timeout={"request": "2s", "try": "5s"}),
         "$.rules[1].timeout.try: 5 s is longer than the whole request may take (2 s)"),
        (rule(respond={}, timeout={"request": "2s"}),
         "$.rules[1].timeout: does nothing beside respond, which answers by itself; take one out"),
        (rule(empty="others"), "$.rules[1].empty: without a split over two targets there are no others"),
        (rule(split=[{"version": "v1"}, {"version": "v2", "weight": 0}], empty="others"),
         "$.rules[1].empty: without a split over two targets there are no others"),
        (rule(split=CANARY, sticky={"header": "a", "issue": False}),
         "$.rules[1].sticky.issue: does nothing without cookie: a client sends headers by itself"),
        (rule(split=CANARY, sticky={"header": "a", "ttl": "1h"}),
         "$.rules[1].sticky.ttl: does nothing where no cookie is set; it goes with cookie, and issue true"),
        (rule(split=CANARY, sticky={"cookie": "a", "issue": False, "ttl": 60}),
         "$.rules[1].sticky.ttl: does nothing where no cookie is set; it goes with cookie, and issue true"),
        (rule(split=CANARY, sticky={"cookie": "a", "ttl": "9000h"}),
         "$.rules[1].sticky.ttl: 3.24e+07 s; from 0 s to 3.16224e+07 s"),
        (rule(split=CANARY, sticky={"header": "a b"}), "$.rules[1].sticky.header: 'a b' is no header name"),
        (rule(rewrite={}), "$.rules[1].rewrite: neither path nor host"),
        (rule(rewrite={"path": "new"}),
         "$.rules[1].rewrite.path: 'new' is no path; begin with / and percent-encode the rest"),
        (rule(rewrite={"path": "/a\tb"}),
         "$.rules[1].rewrite.path: '/a\\tb' is no path; begin with / and percent-encode the rest"),
        (rule(rewrite={"path": "/a HTTP/1.1\r\nx: y"}),
         "$.rules[1].rewrite.path: '/a HTTP/1.1\\r\\nx: y' is no path; begin "
         "with / and percent-encode the rest"),
        (rule(rewrite={"path": "/a?b=1"}), "$.rules[1].rewrite.path: a path without its query, which stays as it is"),
        (rule(rewrite={"path": "/{id}"}), "$.rules[1].rewrite.path: {id} stands for nothing that match.path names"),
        (rule(match={"path": {"regex": "/(.)"}}, rewrite={"path": "/{2}"}),
         "$.rules[1].rewrite.path: {2} stands for nothing that match.path names"),
        (rule(rewrite={"host": "a b"}), "$.rules[1].rewrite.host: 'a b' is no host name"),
        (rule(redirect={"location": "/x", "status": 300}),
         "$.rules[1].redirect.status: 300; a redirect is 301, 302, 303, 307 or 308"),
        (rule(redirect={"location": "www.shop.example"}),
         "$.rules[1].redirect.location: 'www.shop.example' is no place; "
         "begin with / or https:// or {path}"),
        (rule(redirect={"location": "https://{host}/"}),
         "$.rules[1].redirect.location: {host} stands for nothing; there are {path} and {query}"),
        (rule(redirect={"location": "/a\r\nset-cookie: x"}),
         "$.rules[1].redirect.location: a character that cannot stand in a header; percent-encode it"),
        (rule(redirect={"location": "/x"}, split=CANARY),
         "$.rules[1].split: does nothing beside redirect, which answers by itself; take one out"),
        (rule(redirect={"location": "/x"}, respond={}),
         "$.rules[1].respond: does nothing beside redirect, which answers by itself; take one out"),
        (rule(respond={}, headers={}),
         "$.rules[1].headers: does nothing beside respond, which answers by itself; take one out"),
        (rule(respond={"status": 100}), "$.rules[1].respond.status: expected a whole number >= 200"),
        (rule(respond={"status": 204, "body": "x"}), "$.rules[1].respond.body: an answer with status 204 has no body"),
        (rule(respond={"headers": {"content-length": "7"}}),
         "$.rules[1].respond.headers.content-length: content-length belongs to the proxy and cannot be edited"),
        (rule(headers={"request": {"set": {"x": "a\r\nb: c"}}}),
         f"{SET}.x: a character that cannot stand in a header: printable ASCII on one line"),
        (rule(headers={"request": {"set": {"x\r\ny": "a"}}}), f'{SET}["x\\r\\ny"]: \'x\\r\\ny\' is no header name'),
        (rule(headers={"request": {"set": {"Host": "a"}}}),
         f"{SET}.Host: Host belongs to the proxy and cannot be edited; use rewrite.host"),
        (rule(headers={"request": {"set": {"Transfer-Encoding": "chunked"}}}),
         f"{SET}.Transfer-Encoding: Transfer-Encoding belongs to the proxy and cannot be edited"),
        (rule(headers={"request": {"set": {"x-shoal-caller": "root"}}}),
         f"{SET}.x-shoal-caller: x-shoal-caller belongs to the proxy and cannot be edited"),
        (rule(headers={"response": {"remove": ["x", "Connection"]}}),
         "$.rules[1].headers.response.remove[1]: Connection belongs to the proxy and cannot be edited"),
        ({"groups": {"a b": {"header": "x"}}}, '$.groups["a b"]: exactly one of where and percent says who is in'),
        ({"groups": {"a": {"where": "x"}}}, "$.groups.a: exactly one of header, cookie, claim; here: none"),
        ({"groups": {"a": {"cookie": "x;", "percent": 5}}}, "$.groups.a.cookie: 'x;' is no cookie name"),
        ({"groups": {"a": {"header": "x", "percent": 101}}}, "$.groups.a.percent: expected a number <= 100.0"),
        ({"groups": {"a": {"header": "x", "where": {"regex": "["}}}},
         "$.groups.a.where.regex: no regular expression (RE2 syntax): missing ]: ["),
        ({"standby": "v2"}, "$.active: missing: with a standby version there has to be an active one"),
        ({"active": "v1", "standby": "v1"}, "$.standby: 'v1' is the active version too; they are two"),
        ({"active": "v1", "preview": {"header": "x"}}, "$.preview: there is no standby version to show"),
        ({**BLUE_GREEN, "preview": {}}, "$.preview: exactly one of header, cookie, claim; here: none"),
        ({"rules": {}}, "$.rules: expected a list, got an object"),
        ({"rules": [{}] * 1001}, "$.rules: expected a list of length <= 1000"),
        ({"rules": [{"spilt": []}]},
         "$.rules[0]: no field 'spilt' here (did you mean 'split'?); there are: name, match, split, "
         "empty, sticky, rewrite, headers, retry, timeout, redirect, respond"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(document: dict[str, Any], said: str) -> None:
    """Every refusal, word by word."""
    assert refusal(**document) == said
