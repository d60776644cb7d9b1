"""`when`: conditions in CEL, checked when they are put, bounded by how they are written, and never an open door."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.kinds.authz import condition
from policies.kinds.authz.decide import compile
from policies.kinds.authz.document import Authz
from policies.kinds.authz.graph import SOME, may
from policies.language.claims import claims_named
from policies.language.document import Invalid
from policies.request import Request

LAMPS = "lamps.production"
OWN = 'request.path.startsWith("/lamps/") && source.service == "shop"'


def read(*rules: dict[str, Any]) -> Authz | Invalid:
    found = parse("authz", LAMPS, json.dumps({"rules": list(rules)}).encode())
    assert isinstance(found, Authz | Invalid)
    return found


def refused(when: str) -> str:
    found = read({"allow": "anybody", "when": when})
    assert isinstance(found, Invalid), when
    assert found.path == "$.rules[0].when"
    return found.reason


def allows(when: str, **more: Any) -> bool:
    """Asked of a rule that allows."""
    found = read({"allow": "anybody", "when": when})
    assert isinstance(found, Authz), found
    return compile(found).decide(Request(**more)) is None


def denies(when: str, **more: Any) -> bool:
    """Asked of a rule that denies, before one that allows everything."""
    found = read({"deny": "anybody", "when": when}, {"allow": "anybody"})
    assert isinstance(found, Authz), found
    return compile(found).decide(Request(**more)) is not None


# Without the library.


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    condition._environment.cache_clear()
    condition._compiled.cache_clear()
    monkeypatch.setattr(condition, "import_module", missing)


@pytest.mark.usefixtures("without")
def test_who_has_no_library_says_so() -> None:
    """A document that needs it is refused; others are as ever."""
    assert refused("true") == "conditions in CEL need a package that is not here: pip install 'shoal-mesh[cel]'"
    assert isinstance(read({"allow": ["shop"]}), Authz)


@pytest.mark.parametrize(
    "when",
    [
        "[1, 2].all(x, x > 0)",
        "[1, 2].\tall(x, true)",
        "[1] . exists (x, x > 0)",
        "request.headers.map(k, k).size() > 0",
        "[[1]].filter(x, x.exists_one(y, true)) == []",
        "request.path.matches('(a+)+')",
        "'a'.matches(request.path)",
        "matches(request.path, 'x')",
        "[1].// \nall(x, true)",
        "true // why",
        "[1].\nall(x, true)",
        "'''a''' == \"a\"",
        "[1].`all`(x, true)",
        "a" * 1001,
        "request.headers['X-Tier'] == 'a'",
        "\x00",
    ],
)
def test_what_could_cost_without_a_bound_is_refused(when: str) -> None:
    """By how it is written, before any library looks at it."""
    assert "CEL" not in refused(when)


def test_a_document_has_few_conditions() -> None:
    """Each is asked one after the other."""
    found = read(*[{"allow": "anybody", "when": "true"}] * 51)
    assert isinstance(found, Invalid) and "more than 50 rules with `when`" in found.reason


# With it.


@pytest.fixture
def library() -> None:
    pytest.importorskip("cel_expr_python", reason="conditions in CEL are an extra: pip install 'shoal-mesh[cel]'")
    condition._environment.cache_clear()
    condition._compiled.cache_clear()


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("when", "request_", "holds"),
    [
        (
            'request.path.startsWith("/lamps/") && source.service == "shop"',
            {"target": "/lamps/7", "caller": "shop"},
            True,
        ),
        (
            'request.path.startsWith("/lamps/") && source.service == "shop"',
            {"target": "/lamps/7", "caller": "web"},
            False,
        ),
        ('request.headers["x-tier"] == "gold"', {"headers": {"X-Tier": "gold"}}, True),
        ('"x-tier" in request.headers', {"headers": {}}, False),
        ("has(request.headers.tier)", {"headers": {"tier": "1"}}, True),
        ('int(request.query["n"]) <= 100', {"target": "/?n=7"}, True),
        ('int(request.query["n"]) <= 100', {"target": "/?n=101"}, False),
        ('request.method in ["GET", "HEAD"]', {"method": "PUT"}, False),
        ('source.principal == "spiffe://us.shoal/svc/a"', {"principal": "spiffe://us.shoal/svc/a"}, True),
        ('request.path.startsWith("/rooms/" + source.service + "/")', {"target": "/rooms/a/1", "caller": "a"}, True),
    ],
)
def test_what_it_says(when: str, request_: dict[str, Any], holds: bool) -> None:
    """Of a rule that allows, and of one that denies."""
    assert allows(when, **request_) == holds and denies(when, **request_) == holds


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "when",
    [
        'request.headers["x-tier"] == "gold"',
        'int(request.query["n"]) <= 100',
        "1 / size(request.query) == 1",
        "request.headers[request.method] == ''",
        "9223372036854775807 + size(request.path) > 0",
        'timestamp(request.path) == timestamp("2026-01-01T00:00:00Z")',
    ],
)
def test_an_error_denies(when: str) -> None:
    """Whichever way the rule goes."""
    assert not allows(when) and denies(when)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("request.path", "says string, and a condition is true or false"),
        ("1", "says int, and a condition is true or false"),
        ("dyn(1)", "says dyn, and a condition is true or false"),
        ('request.pth == "a"', "no CEL at character 8: undeclared reference to 'request.pth'"),
        (
            "request.path + 1 == 2",
            "no CEL at character 14: found no matching overload for '_+_' applied to '(string, int)'",
        ),
        (
            "claims.age > 17",
            "no CEL at character 12: found no matching overload for '_>_' applied to '(string, int)'",
        ),
        ("(" * 60 + "true" + ")" * 60, "no CEL: Expression recursion limit exceeded. limit: 32 [CANCELLED]"),
    ],
)
def test_what_is_none_is_said_when_it_is_put(when: str, said: str) -> None:
    """With the place."""
    assert refused(when) == said


@pytest.mark.usefixtures("library")
def test_claims_are_those_of_a_verified_token() -> None:
    """As texts; one that is not there is an error, and that denies."""
    gold = 'claims.tier == "gold" && request.path.startsWith("/lamps/")'
    assert allows(gold, target="/lamps/7", claims={"tier": "gold"})
    assert not allows(gold, target="/beds/7", claims={"tier": "gold"})
    for claims in ({"tier": "free"}, {"sub": "ann"}, {}, None):
        assert not allows(gold, target="/lamps/7", claims=claims), claims
    assert denies('claims["tier"] == "free"') and denies('claims["tier"] == "free"', claims={"tier": "free"})
    assert not denies('"tier" in claims && claims.tier == "free"', claims={"sub": "ann"})
    assert allows("int(claims.age) > 17", claims={"age": "18"})
    assert not allows("int(claims.age) > 17", claims={"age": "x"})
    assert allows('claims["ROLES x"].contains("staff")', claims={"ROLES x": '["staff","dev"]'})
    assert not allows('claims.sub == "ann"', headers={"claims": "ann", "sub": "ann"}, target="/?sub=ann")


@pytest.mark.usefixtures("library")
def test_a_condition_on_claims_is_known_to_need_a_token() -> None:
    """To those that warn where nobody verifies any; a text that speaks of claims asks for none."""
    for when, needs in (('claims.sub == "a"', True), ('request.path == "/claims.sub"', False), ("true", False)):
        found = read({"allow": "anybody", "when": when})
        assert isinstance(found, Authz)
        assert claims_named(found) == (["$.rules[0].when"] if needs else []), when


@pytest.mark.usefixtures("library")
def test_every_reading_meets_the_condition() -> None:
    """A path that a service could take for another is asked about as that one, too."""
    assert denies('request.path.startsWith("/admin/")', target="/admin%2Fx")
    assert denies('request.method == "DELETE"', method="POST", headers={"x-http-method-override": "DELETE"})
    assert not allows('!request.path.startsWith("/admin/")', target="/admin%2Fx")
    assert allows('request.query["as"] == "ann"', target="/?as=ann&of=1&of=2")
    assert not allows('request.query["as"] == "ann"', target="/?as=ann&as=bob")
    assert denies('request.query.as_ == "root"', target="/?as_=ann&as_=root")


@pytest.mark.usefixtures("library")
def test_the_graph_knows_no_more_than_some() -> None:
    """Of a rule with a condition."""
    found = read({"allow": "anybody", "when": "true"})
    assert isinstance(found, Authz) and may([(LAMPS, found)], "shop").what == SOME


TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(
            [
                "request.path",
                "==",
                '"/a"',
                "&&",
                "||",
                "!",
                "(",
                ")",
                "1",
                "+",
                "[",
                "]",
                ".",
                "size",
                ",",
                "?",
                ":",
                "true",
            ]
        ),
        max_size=14,
    ).map(" ".join),
)


@pytest.mark.usefixtures("library")
@given(TEXTS, st.sampled_from(["/", "/a", "/a/b;x"]))
def test_whatever_is_written_is_refused_or_judges(when: str, target: str) -> None:
    """It raises nothing, when it is put and when it is asked."""
    found = parse("authz", LAMPS, json.dumps({"rules": [{"allow": "anybody", "when": when}]}).encode())
    if isinstance(found, Authz):
        compile(found).decide(Request(target=target))


@pytest.mark.parametrize(("more", "said"), [({}, "limit"), ({"target": "/?limit=abc"}, "")])
def test_a_condition_that_cannot_be_judged_is_named(more: dict[str, Any], said: str) -> None:
    """With its rule, of the request that was judged last, and of no other."""
    pytest.importorskip("cel_expr_python")
    found = read({"name": "few", "allow": "anybody", "when": 'int(request.query["limit"]) <= 100'})
    assert isinstance(found, Authz), found
    compiled = compile(found)
    assert not compiled.judge(Request(**more)).allows
    told = compiled.unjudged()
    assert told.startswith("few: its condition cannot be judged: ") and said in told
    assert compiled.judge(Request(target="/?limit=5")).allows and compiled.unjudged() == ""
    assert not compiled.judge(Request(target="/?limit=101")).allows and compiled.errors == {}
