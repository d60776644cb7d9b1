"""Sticky sessions: what a client is given, and what it gets for it."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.endpoint import Endpoint
from policies.kinds.balance.algorithms import BalanceState
from policies.kinds.balance.decide import Balancer, make
from policies.kinds.balance.document import Balance
from policies.kinds.balance.locality import candidates
from policies.kinds.balance.session import StickySession
from policies.kinds.balance.sticky import CookieSessions, NamedSessions, point
from policies.language.plain import Flaw
from policies.request import Request
from tests.support.endpoints import endpoint, endpoints

few = settings(max_examples=40)


def sessions(fleet: list[Endpoint], zone: str = "", **rule: object) -> Balancer:
    """A balancer with sticky sessions."""
    return make(Balance(sticky=StickySession(**rule)), fleet, zone=zone)  # type: ignore[arg-type]


def returning(set_cookie: str | None, more: str = "") -> Request:
    """The client comes back with what it was given."""
    assert set_cookie is not None
    return Request(headers={"Cookie": more + set_cookie.partition(";")[0]})


@few
@given(st.integers(1, 50), st.data())
def test_a_client_comes_back_to_its_endpoint(count: int, data: st.DataObject) -> None:
    """Whichever it was, and whatever other cookies it has."""
    fleet = endpoints(count)
    mine = data.draw(st.sampled_from(fleet))
    more = data.draw(st.sampled_from(["", "a=b; ", "shoal-sessio=x; "]))
    balancer = sessions(fleet)
    assert balancer.sticky_endpoint(returning(balancer.sticky_cookie(mine), more)) is mine


def test_another_agent_knows_the_cookie() -> None:
    """Nothing is kept: an agent that sees the same endpoints, in any order, understands it."""
    cookie = sessions(endpoints(5)).sticky_cookie(endpoints(5)[3])
    found = sessions(endpoints(5)[::-1]).sticky_endpoint(returning(cookie))
    assert found is not None
    assert found.id == "pets-3"


@pytest.mark.parametrize(
    "state",
    [{"healthy": False}, {"draining": True}, {"suspect": True}, {"weight": 0}],
    ids=lambda state: next(iter(state)),
)
def test_an_endpoint_that_can_take_nothing_loses_its_clients(state: dict[str, bool]) -> None:
    """They are picked another, and given its cookie."""
    cookie = sessions(endpoints(3)).sticky_cookie(endpoint("pets-0"))
    balancer = sessions([endpoint("pets-0", **state), *endpoints(3)[1:]])
    assert balancer.sticky_endpoint(returning(cookie)) is None
    other = balancer.pick(None, 0, random.Random(1))
    assert other is not None
    assert balancer.sticky_endpoint(returning(balancer.sticky_cookie(other))) is other


def test_a_session_outlives_a_zone_that_fails_back() -> None:
    """It began in another zone while the own one was down, and stays there."""
    away = endpoint("away", zone="b")
    cookie = sessions([endpoint("home", zone="a", healthy=False), away], "a").sticky_cookie(away)
    balancer = sessions([endpoint("home", zone="a"), away], "a")
    assert balancer.candidates() == [balancer.pick(None, 0, random.Random(1))]
    assert balancer.sticky_endpoint(returning(cookie)) is away


@pytest.mark.parametrize("rule", [{}, {"header": "x-device"}])
def test_a_dead_zone_keeps_no_sessions(rule: dict[str, str]) -> None:
    """Every instance of it is ill, and most of all are; another zone can take them."""
    fleet = [*endpoints(9, "home", zone="a", healthy=False), endpoint("away", zone="b")]
    cookie = sessions(endpoints(9, "home", zone="a"), "a").sticky_cookie(endpoint("home-0"))
    found = sessions(fleet, "a", **rule).sticky_endpoint(
        Request(headers={"x-device": "7"}) if rule else returning(cookie)
    )
    assert found is (fleet[-1] if rule else None)


@few
@given(st.text())
def test_what_a_client_makes_up_is_not_believed(value: str) -> None:
    """Any cookie value but a token of a usable endpoint is no session."""
    assert sessions(endpoints(3)).sticky_endpoint(Request(headers={"cookie": f"shoal-session={value}"})) is None


def test_the_cookie_tells_no_address() -> None:
    """Sixteen hexadecimal digits, and attributes that keep scripts and other sites away."""
    cookie = sessions(endpoints(1)).sticky_cookie(endpoint("10.0.0.1:8080"))
    assert cookie is not None
    assert re.fullmatch(r"shoal-session=[0-9a-f]{16}; Path=/; HttpOnly; SameSite=Lax", cookie)


def test_the_cookie_has_the_attributes_that_the_document_says() -> None:
    """Name, path, age in seconds, Secure and SameSite."""
    balancer = sessions(endpoints(1), cookie="shop", ttl="2h", path="/shop", same_site="none", secure=True)
    cookie = balancer.sticky_cookie(endpoint("a"))
    assert cookie is not None
    assert cookie.partition(";")[2] == " Path=/shop; Max-Age=7200; HttpOnly; Secure; SameSite=None"
    assert cookie.startswith("shop=")


def test_without_sessions_there_are_none() -> None:
    """A balancer without the rule says so and sets nothing."""
    balancer = make(None, endpoints(2))
    assert not balancer.sticky
    assert balancer.sticky_endpoint(Request(headers={"cookie": "shoal-session=x"})) is None
    assert balancer.sticky_cookie(endpoint("a")) is None


# By header.


def test_a_header_chooses_and_nothing_is_set() -> None:
    """The same value the same endpoint, in every agent; without the header it is for `pick` to say."""
    one, other = sessions(endpoints(9), header="X-Device"), sessions(endpoints(9)[::-1], header="x-device")
    chosen = set()
    for n in range(50):
        request = Request(headers={"x-device": f"d{n}"})
        mine, theirs = one.sticky_endpoint(request), other.sticky_endpoint(request)
        assert mine is not None and theirs is not None and mine.id == theirs.id
        chosen.add(mine.id)
    assert len(chosen) > 5
    assert one.sticky_endpoint(Request()) is None
    assert one.sticky_cookie(endpoint("a")) is None


def test_header_sessions_of_others_stay_when_one_fails() -> None:
    """Only those of the failed one move."""
    before = sessions(endpoints(5), header="x-device")
    after = sessions([endpoint("pets-0", healthy=False), *endpoints(5)[1:]], header="x-device")
    for n in range(200):
        request = Request(headers={"x-device": f"d{n}"})
        mine, now = before.sticky_endpoint(request), after.sticky_endpoint(request)
        assert mine is not None and now is not None
        assert now.id == mine.id or mine.id == "pets-0"


def test_header_sessions_keep_to_the_zones_shares() -> None:
    """Half of the local zone is down, so three tenths of the sessions go elsewhere, always the same ones."""
    fleet = [endpoint(f"a{n}", zone="a", healthy=n < 5) for n in range(10)] + [
        endpoint("b", zone="b") for _ in range(3)
    ]
    balancer = sessions(fleet, "a", header="x-device")
    zones = [balancer.sticky_endpoint(Request(headers={"x-device": f"d{n}"})) for n in range(1000)]
    assert sum(one is not None and one.zone == "b" for one in zones) == pytest.approx(300, abs=90)


def test_a_user_is_known_by_a_claim() -> None:
    """Of a verified token, and not by what looks like it; without one there is no session."""
    balancer = sessions(endpoints(8), claim="sub")
    picked = {user: balancer.sticky_endpoint(Request(claims={"sub": user})) for user in map(str, range(40))}
    assert len({one.id for one in picked.values() if one is not None}) > 4
    for user, one in picked.items():
        assert balancer.sticky_endpoint(Request(headers={"sub": "other"}, claims={"sub": user, "n": "7"})) is one
    assert balancer.sticky_endpoint(Request(headers={"sub": "1"})) is None


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"claim": "sub", "header": "x"}, "$.sticky: both header and claim; one of them names the session"),
        ({"claim": "sub", "ttl": "1h"}, "$.sticky.ttl: for sessions by cookie; with $.sticky.claim no cookie is set"),
    ],
)
def test_a_claim_is_the_only_thing_that_names_a_session(rule: dict[str, object], said: str) -> None:
    """Nothing beside it would do anything."""
    with pytest.raises(Flaw) as caught:
        StickySession(**rule).check()  # type: ignore[arg-type]
    assert str(caught.value) == said


def test_no_endpoints_no_session() -> None:
    """Neither by cookie nor by header."""
    found = candidates([], "", (), 50, True)
    assert (
        CookieSessions(StickySession(), found.usable).endpoint(Request(headers={"cookie": "shoal-session=x"})) is None
    )
    assert NamedSessions(StickySession(header="x"), found, BalanceState()).endpoint(Request(headers={"x": "1"})) is None


@few
@given(st.integers(0, 2**64 - 1))
def test_a_point_lies_between_the_ends(key: int) -> None:
    """From 0 up to but not 1."""
    assert 0 <= point(key) < 1
