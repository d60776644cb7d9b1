"""`fault`: who is hit, with what, and until when."""

import json
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.kinds.fault.decide import Compiled, compile
from policies.kinds.fault.document import FaultPolicy
from policies.language.duration import moment
from policies.request import Request

RNG = random.Random(5)
NOW = 1_800_000_000.0


def policy(*rules: dict[str, Any], expires: str = "2099-01-01T00:00:00Z") -> Compiled:
    found = parse("fault", "pets", json.dumps({"expires": expires, "rules": rules}).encode())
    assert isinstance(found, FaultPolicy), found
    return compile(found)


def ask(path: str = "/", **headers: str) -> Request:
    return Request(target=path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_the_first_that_matches_decides() -> None:
    """Also when its share spares the request."""
    faults = policy(
        {"match": {"path": {"prefix": "/a"}}, "percent": 0.000001, "reset": True},
        {"name": "all", "abort": {"status": 500}},
    )
    assert faults.decide(ask("/a"), NOW, RNG) is None
    found = faults.decide(ask("/b"), NOW, RNG)
    assert found is not None and (found.rule, found.abort is not None and found.abort.status) == ("all", 500)


@given(st.floats(1, 99))
def test_a_share_is_about_that_share(percent: float) -> None:
    """Of many requests."""
    faults = policy({"percent": percent, "reset": True})
    hit = sum(faults.decide(ask(), NOW, RNG) is not None for _ in range(2000))
    assert abs(hit / 20 - percent) < 6


def test_a_user_stays_hit() -> None:
    """Whoever is in 10% is in 30%."""
    few, many = (policy({"name": "x", "percent": p, "sticky": {"header": "x-user"}, "reset": True}) for p in (10, 30))
    users = [f"u{n}" for n in range(300)]
    hit = {user for user in users if few.decide(ask(x_user=user), NOW, RNG)}
    assert 0 < len(hit) < 80
    assert hit <= {user for user in users if many.decide(ask(x_user=user), NOW, RNG)}


def test_it_ends_by_itself() -> None:
    """To the second, whatever the zone it is written in."""
    faults = policy({"reset": True}, expires="2027-01-15T10:00:00+02:00")
    last = moment("2027-01-15T08:00:00Z")
    assert faults.decide(ask(), last - 0.1, RNG) is not None
    assert faults.decide(ask(), last, RNG) is None


def test_whoever_asks_to_be_spared_is() -> None:
    """Whatever the header says."""
    assert policy({"reset": True}).decide(ask(x_shoal_no_fault="0"), NOW, RNG) is None


@given(st.floats(0.001, 10), st.floats(0.001, 10))
def test_delays_lie_between(one: float, other: float) -> None:
    """`least` and `most`."""
    least, most = sorted((one, other))
    found = policy({"delay": {"least": least, "most": most}}).decide(ask(), NOW, RNG)
    assert found is not None and least <= found.delay_s <= most + 1e-9
