"""`path`: what a document says of a target."""

import pytest

from policies.catalogue import parse
from policies.kinds.path.decide import Compiled, Refused, compile
from policies.kinds.path.document import PathPolicy
from policies.language.document import Invalid
from policies.language.matching import PathMatch, compile_path
from policies.request import Request


def compiled(text: str) -> Compiled:
    found = parse("path", "pets.production", text.encode())
    assert isinstance(found, PathPolicy), found
    return compile(found)


def said(policy: Compiled, target: str) -> tuple[str, str] | str:
    """What is passed on and what is judged; or the refusal."""
    found = policy.decide(target.encode())
    if isinstance(found, Refused):
        return "refused"
    return (target, target.partition("?")[0]) if found is None else (found.target.decode(), found.place.decode())


ODD = ["/x/../admin", "//admin", "/%61dmin", "/\\admin", "/admin;v=1", "/x/..%2fadmin"]


@pytest.mark.parametrize("target", ODD)
def test_they_are_one_place_and_refused_or_kept_where_a_document_says_so(target: str) -> None:
    """Without a document and with each action."""
    passed_on = "/admin;v=1" if ";" in target else "/admin"
    assert said(compile(None), target) == (passed_on, "/admin") == said(compiled('{"action": "normalize"}'), target)
    assert said(compiled('{"action": "refuse"}'), target) == "refused"
    assert said(compiled('{"action": "keep"}'), target) == (target, target)


def test_what_only_differs_in_the_case_of_digits_is_not_refused() -> None:
    """Clients write either."""
    assert said(compiled('{"action": "refuse"}'), "/caf%c3%a9") == ("/caf%C3%A9", "/caf%C3%A9")
    assert said(compiled('{"action": "refuse"}'), "/a%2fb?x=%61") == ("/a%2Fb?x=%61", "/a%2Fb")


@pytest.mark.parametrize(
    ("escaped", "expected"),
    [("keep", ("/a%2Fb%5C", "/a%2Fb%5C")), ("decode", ("/a/b/", "/a/b/")), ("refuse", "refused")],
)
def test_encoded_slashes(escaped: str, expected: object) -> None:
    """As the document says."""
    assert said(compiled(f'{{"escaped_slashes": "{escaped}"}}'), "/a%2Fb%5c") == expected


def test_what_is_refused_says_the_normal_form() -> None:
    """For whoever wrote the client; `*` is no path."""
    found = compiled('{"action": "refuse"}').decide(b"/x/../admin")
    assert found == Refused("a path policy refuses what is not in its normal form, /admin")
    assert compile(None).decide(b"*") is None


def test_a_setting_without_effect_is_refused() -> None:
    """By name."""
    assert isinstance(parse("path", "pets", b'{"action": "keep", "escaped_slashes": "decode"}'), Invalid)


@pytest.mark.parametrize(
    ("match", "path"),
    [
        (PathMatch(exact="/caf%c3%a9"), "/caf%C3%A9"),
        (PathMatch(exact="/%61dmin"), "/admin"),
        (PathMatch(exact="//admin/../admin"), "/admin"),
        (PathMatch(prefix="/caf%c3%a9/"), "/caf%C3%A9/x"),
        (PathMatch(prefix="//api"), "/api"),
        (PathMatch(template="/caf%c3%a9/{id}.json"), "/caf%C3%A9/7.json"),
    ],
)
def test_rules_may_be_written_in_either_spelling(match: PathMatch, path: str) -> None:
    """And match what was sent so, where a service keeps every spelling."""
    holds = compile_path(match)
    assert holds(Request(target=path))
    written = (match.exact or match.prefix or match.template or "").replace("{id}", "7")
    assert holds(Request(target=written))
    assert not holds(Request(target="/y" + path))
