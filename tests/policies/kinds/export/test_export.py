"""`export`: who calls from another trust domain is let pass by each document, or by none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.kind import Scope
from policies.kinds.export.decide import TIGHTEST, compile, gateways
from policies.kinds.export.document import Export
from policies.request import Request
from policies.stranger import Stranger

SHOP = Stranger("spiffe://us.shoal/svc/shop.production", "gate-1")


def passes(to: tuple[str, ...], stranger: Stranger | None = SHOP, caller: str = "") -> bool:
    document = Export(to=to)
    document.check()
    return compile(document).decide(Request(caller=caller, stranger=stranger)) is None


@pytest.mark.parametrize(
    ("to", "let"),
    [
        (("us.shoal",), True),
        (("spiffe://us.shoal/svc/shop.production",), True),
        (("asia.shoal", "us.shoal"), True),
        (("asia.shoal",), False),
        (("shoal",), False),
        (("us.shoal.example",), False),
        (("spiffe://us.shoal/svc/shop",), False),
        (("spiffe://us.shoal/svc/shop.production.more",), False),
        (("spiffe://us.shoal/agent/shop.production",), False),
        ((), False),
    ],
)
def test_who_is_let_pass(to: tuple[str, ...], let: bool) -> None:
    """A whole trust domain, or one name in it; never a part of either."""
    assert passes(to) is let


@pytest.mark.parametrize("caller", ["", "shop.production"])
@pytest.mark.parametrize("to", [(), ("us.shoal",)])
def test_callers_of_ours_are_not_asked(to: tuple[str, ...], caller: str) -> None:
    """Whatever it says."""
    assert passes(to, None, caller)


def test_what_nobody_knows_lets_nobody_pass() -> None:
    """And no caller of ours is refused by it."""
    assert compile(TIGHTEST).decide(Request(stranger=SHOP)) is not None
    assert compile(TIGHTEST).decide(Request(caller="shop.production")) is None


def test_what_is_said_to_who_operates() -> None:
    """Who, what, and which document; and that the caller hears nothing of it."""
    denied = compile(Export(to=()), Scope("pets.production", key="*")).decide(Request(stranger=SHOP))
    assert denied is not None and denied.hidden and denied.status == 421
    assert (
        denied.reason
        == "pets.production is not exported to spiffe://us.shoal/svc/shop.production, by policies/export/*"
    )


HOSTS = st.frozensets(st.sampled_from(["gate-1", "gate-2", "gate-3"]))


@given(st.lists(HOSTS, max_size=4))
def test_gateways_of_all_levels(levels: list[frozenset[str]]) -> None:
    """Each level that names any has to name it, and one has to."""
    found = gateways([Export(to=(), gateways=tuple(level)) for level in levels])
    for host in ("gate-1", "gate-2", "gate-3"):
        assert (host in found) == (any(levels) and all(host in level for level in levels if level))
