"""`isolation`: who calls, and nothing else, says whether a service is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.kind import Scope
from policies.kinds.isolation.decide import compile
from policies.kinds.isolation.document import Isolation
from policies.language.names import matches, parse_pattern
from policies.request import Request
from policies.stranger import Stranger

LABELS = st.sampled_from(["shop", "pets", "a", "production"])
SERVICES = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
PATTERNS = st.one_of(SERVICES, SERVICES.map(lambda name: f"*.{name}"), st.just("*"))


@given(st.lists(PATTERNS, max_size=4), st.booleans(), SERVICES | st.just(""))
def test_who_sees_it(allow: list[str], anonymous: bool, caller: str) -> None:
    """Whom a pattern covers; who is no known service only where that is said, and never by a `*`."""
    compiled = compile(Isolation(allow=tuple(allow), anonymous=anonymous), Scope("pets", key="*"))
    sees = any(matches(pattern, caller) for pattern in allow) if caller else anonymous
    assert compiled.sees(caller) == sees
    assert (compiled.decide(Request(caller=caller, headers={"x-shoal-caller": "shop"})) is None) == sees


@pytest.mark.parametrize("text", ["Shop/Production", "*/Production", "SHOP.production"])
def test_spellings_of_one_pattern(text: str) -> None:
    """Are one."""
    document = Isolation(allow=(text,))
    document.check()
    assert parse_pattern(text) and compile(document).sees("shop.production")


@pytest.mark.parametrize(
    "caller", ["a." * 20_000 + "a", "x" * 60_000, "*", "*.production", "", ".", "spiffe://x/svc/shop"]
)
def test_names_that_are_none(caller: str) -> None:
    """See nothing, and cost nothing."""
    assert not compile(Isolation(allow=("*.a", "shop", "*.production"))).sees(caller)


def test_what_is_said_to_who_operates() -> None:
    """Who, what, and which document; and that no caller hears of it."""
    denied = compile(Isolation(allow=()), Scope("pets.staging", key="*.staging")).decide(Request(caller="shop"))
    assert denied is not None and denied.hidden and denied.status == 404
    assert denied.reason == "pets.staging is not there for shop, by policies/isolation/*.staging"


@pytest.mark.parametrize(
    ("allow", "sees"),
    [
        ("spiffe://us.shoal", True),
        ("spiffe://us.shoal/svc/shop.production", True),
        ("spiffe://eu.shoal", False),
        ("spiffe://us.shoal/svc/shop", False),
        ("*", False),
        ("*.production", False),
        ("shop.production", False),
        ("us.shoal", False),
    ],
)
@pytest.mark.parametrize("anonymous", [False, True])
def test_who_calls_from_another_mesh(allow: str, sees: bool, anonymous: bool) -> None:
    """Is none of our services, whatever it is called there, and not anonymous: only what names it lets it see."""
    document = Isolation(allow=(allow,), anonymous=anonymous)
    document.check()
    stranger = Stranger("spiffe://us.shoal/svc/shop.production", "gate-1")
    denied = compile(document, Scope("pets", key="*")).decide(Request(stranger=stranger))
    assert (denied is None) == sees
    assert denied is None or stranger.id in denied.reason
