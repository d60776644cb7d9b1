"""What a rule may ask of a request."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.language.document import Invalid, convert
from policies.language.matching import Match, PathMatch, Text, compile_match, compile_path, compile_text, linear_regex
from policies.request import Request

SEGMENT = st.lists(st.sampled_from(["a", "B", "7", "%2F", "%25", ".", "-", "~", "+"]), min_size=1, max_size=5).map(
    "".join
)


def holds(match: dict[str, Any], request: Request) -> bool:
    predicate = compile_match(convert(match, Match), {})
    return predicate is None or predicate(request)


def refusal(match: dict[str, Any]) -> str:
    found = parse("route", "pets", json.dumps({"rules": [{"match": match}]}).encode())
    assert isinstance(found, Invalid), found
    return f"{found.path.removeprefix('$.rules[0].match')}: {found.reason}"


@pytest.mark.parametrize(
    ("path", "yes", "no"),
    [
        ({"exact": "/pets"}, ["/pets", "/pets?x=1"], ["/pets/", "/Pets", "/pets/1", "/", "/%70ets"]),
        ({"prefix": "/api"}, ["/api", "/api/", "/api/x/y", "/api?x"], ["/apix", "/", "/ap", "/x/api"]),
        ({"prefix": "/api/"}, ["/api", "/api/", "/api/x"], ["/apix"]),
        ({"prefix": "/"}, ["/", "/x", "/x/y", "//"], ["*"]),
        (
            {"template": "/pets/{id}"},
            ["/pets/1", "/pets/a%2Fb", "/pets/."],
            ["/pets/", "/pets", "/pets/1/", "/pets/1/x"],
        ),
        ({"template": "/a.b/{x}-{y}"}, ["/a.b/1-2", "/a.b/1-2-3"], ["/aXb/1-2", "/a.b/1"]),
        ({"template": "/*"}, ["/*"], ["/x", "/"]),
        ({"regex": "/v[0-9]+/.*"}, ["/v1/", "/v22/x/y"], ["/v/", "/x/v1/", "/v1"]),
    ],
)
def test_paths(path: dict[str, Any], yes: list[str], no: list[str]) -> None:
    """Exact, by whole segments, by template, and by a pattern that has to match the whole path."""
    for target in yes:
        assert holds({"path": path}, Request(target=target)), target
    for target in no:
        assert not holds({"path": path}, Request(target=target)), target


@given(st.lists(SEGMENT, min_size=1, max_size=5), st.data())
def test_a_template_takes_one_segment_for_each_place(segments: list[str], data: st.DataObject) -> None:
    """Whatever the segments are: with any of them made places the path matches, with one more or less it does not."""
    places = data.draw(st.lists(st.booleans(), min_size=len(segments), max_size=len(segments)))
    named = [f"{{p{n}}}" if place else s for n, (s, place) in enumerate(zip(segments, places, strict=True))]
    matches = compile_path(PathMatch(template="/" + "/".join(named)))
    path = "/" + "/".join(segments)
    assert matches(Request(target=path))
    assert not matches(Request(target=path + "/x"))
    assert not matches(Request(target="/x" + path))


def test_a_long_path_is_matched_to_its_end() -> None:
    """No part of it is left out, or what comes after would be another path than the one that was judged."""
    assert not holds({"path": {"regex": "/a+"}}, Request(target="/" + "a" * 50_000 + "/secret"))
    assert holds({"path": {"regex": "/a+"}}, Request(target="/" + "a" * 50_000))
    assert not holds({"headers": {"x": {"regex": "a+"}}}, Request(headers={"x": "a" * 50_000 + "!"}))


def test_patterns_that_would_run_for_ever_elsewhere_run_in_linear_time() -> None:
    """Nested quantifiers over 60 KiB: with backtracking this test would not end."""
    for pattern in ("/(a+)+", "/(a|aa)+", "/(a*)*b", "/(.*)(.*)(.*)(.*)(.*)x"):
        assert not holds({"path": {"regex": pattern}}, Request(target="/" + "a" * 60_000 + "!"))
    for template in ("/{a}a{b}a{c}a{d}a{e}a/x", "/{a}a/{b}a/{c}a/x"):
        assert not holds({"path": {"template": template}}, Request(target="/" + "a" * 60_000 + "/y"))
        assert not holds({"path": {"template": template}}, Request(target=("/" + "a" * 20_000) * 3 + "/y"))


@pytest.mark.parametrize(
    ("condition", "yes", "no"),
    [
        ("gold", ["gold"], ["Gold", "", "golden", None]),
        ({"exact": ""}, [""], ["x", None]),
        ({"prefix": "go", "suffix": "ld"}, ["gold", "go old"], ["go", "ld", None]),
        ({"regex": "[a-c]+"}, ["abc"], ["abcd", "", None]),
        ({"in": ["a", "b"]}, ["a", "b"], ["c", "a, b", None]),
        ({"present": True}, ["", "x"], [None]),
        ({"present": False}, [None], ["", "x"]),
    ],
)
def test_values(condition: Any, yes: list[str | None], no: list[str | None]) -> None:
    """The same conditions for headers, parameters and cookies; and an absent value only meets present: false."""
    for value in yes + no:
        headers = {} if value is None else {"X-Tier": value}
        assert holds({"headers": {"x-TIER": condition}}, Request(headers=headers)) == (value in yes)
    for value in yes + no:
        target = "/" if value is None else f"/?a=1&tier={value.replace(' ', '+')}"
        assert holds({"query": {"tier": condition}}, Request(target=target)) == (value in yes)
    for value in yes + no:
        crumbs = "a=1" if value is None else f"a=1; tier={value}"
        if value is None or ", " not in value:
            assert holds({"cookies": {"tier": condition}}, Request(headers={"cookie": crumbs})) == (value in yes)


@given(st.text(max_size=8), st.text(max_size=8))
def test_exact_holds_for_one_value(wanted: str, value: str) -> None:
    """And for no other."""
    assert compile_text(Text(exact=wanted))(value) == (wanted == value)


def test_methods_and_callers() -> None:
    """One of the methods; one of the calling services or patterns, and an unknown caller is none of them."""
    assert holds({"method": ["GET", "M-SEARCH"]}, Request("M-SEARCH"))
    assert not holds({"method": ["GET"]}, Request("get"))
    match = {"caller": ["*/production", "tests"]}
    for caller, yes in (("web.production", True), ("tests", True), ("production", False), ("web.staging", False)):
        assert holds(match, Request(caller=caller)) == yes
    assert not holds({"caller": ["*"]}, Request())


def test_all_conditions_have_to_hold() -> None:
    """A rule with several is as narrow as they are together; one without any takes everything."""
    match = {"method": ["GET"], "path": {"prefix": "/a"}, "headers": {"x": "1"}, "query": {"q": "2"}}
    assert holds(match, Request("GET", "/a?q=2", {"x": "1"}))
    assert not holds(match, Request("POST", "/a?q=2", {"x": "1"}))
    assert not holds(match, Request("GET", "/b?q=2", {"x": "1"}))
    assert not holds(match, Request("GET", "/a?q=2"))
    assert not holds(match, Request("GET", "/a", {"x": "1"}))
    assert compile_match(Match(), {}) is None


@pytest.mark.parametrize(
    ("match", "said"),
    [
        ({"method": ["get"]}, ".method[0]: expected a method in upper case, such as GET"),
        ({"method": ["GET\n"]}, ".method[0]: expected a method in upper case, such as GET"),
        ({"method": "GET"}, ".method: expected a list, got text"),
        ({"path": "/x"}, ".path: expected an object, got text"),
        ({"path": {}}, ".path: exactly one of exact, prefix, template and regex; here: none"),
        ({"path": {"exact": "/", "regex": "/"}}, ".path: exactly one of exact, prefix, template and regex; "
         "here: exact and regex"),
        ({"path": {"prefix": "api"}}, ".path.prefix: expected a path, which begins with /"),
        ({"path": {"exact": "/a?b=1"}}, ".path.exact: a path without its query; use match.query"),
        ({"path": {"exact": "/käse"}},
         ".path.exact: '/käse' can be no part of a path as it is sent; percent-encode it"),
        ({"path": {"template": "/{a}/{a}"}}, ".path.template: a place that stands twice"),
        ({"path": {"template": "/{a b}"}}, ".path.template: a brace that belongs to no {place}; a place is a name in "
         "braces"),
        ({"path": {"regex": "/(x"}}, ".path.regex: no regular expression (RE2 syntax): missing ): /(x"),
        ({"path": {"regex": "(?=x)"}}, ".path.regex: no regular expression (RE2 syntax): invalid perl operator: (?="),
        ({"headers": {"x y": "1"}}, '.headers["x y"]: \'x y\' is no header name'),
        ({"cookies": {"a;b": "1"}}, '.cookies["a;b"]: \'a;b\' is no cookie name'),
        ({"headers": {"x": {}}}, ".headers.x: no condition; one of exact, prefix, suffix, regex, in and present"),
        ({"headers": {"x": {"in": []}}}, ".headers.x.in: an empty list, in which nothing can be"),
        ({"headers": {"x": {"regex": "*"}}}, ".headers.x.regex: no regular expression (RE2 syntax): no argument for "
         "repetition operator: *"),
        ({"headers": {"x": {"present": False, "exact": "1"}}}, ".headers.x: present: false together with a condition "
         "on the value can never hold"),
        ({"groups": ["free"]}, ".groups[0]: no group 'free' under $.groups; there are: none"),
        ({"caller": ["a..b"]},
         ".caller[0]: '' in 'a..b' is not a DNS label: use 1 to 63 of a-z, 0-9 and '-', beginning "
         "and ending with a letter or digit"),
    ],
)  # fmt: skip
def test_what_can_never_match_is_refused(match: dict[str, Any], said: str) -> None:
    """With its place and what would be right."""
    assert refusal(match) == said


def test_a_pattern_that_is_too_large_is_refused() -> None:
    """Repetitions of repetitions make megabytes out of a line."""
    assert "1500 steps" in refusal(
        {"path": {"regex": "/" + "(" * 6 + "a" + "{99}){99}" * 3 + "{99}){99}" * 2 + "{99})"}}
    )
    assert linear_regex("$", "(a{9}){9}").fullmatch("a" * 81)
