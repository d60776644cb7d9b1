"""`import`: whom callers expect, and where."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.kinds.import_.decide import compile
from policies.kinds.import_.document import Import, parse_gateway
from policies.language.document import Invalid

GOOD = {"trust_domain": "eu.shoal", "remote_service": "pets.production", "gateways": ["203.0.113.10:15006"]}


def test_what_it_compiles_to() -> None:
    """The identity that a gateway has to prove, and addresses."""
    found = parse(
        "import", "pets.eu", json.dumps({**GOOD, "gateways": ["203.0.113.10:15006", "[2001:DB8::7]:1"]}).encode()
    )
    assert isinstance(found, Import)
    compiled = compile(found)
    assert compiled.expected == "spiffe://eu.shoal/svc/pets.production"
    assert compiled.remote_service == "pets.production"
    assert list(compiled.gateways.values()) == [("203.0.113.10", 15006), ("2001:db8::7", 1)]


@pytest.mark.parametrize("key", ["*", "*.eu"])
def test_a_pattern_makes_no_service(key: str) -> None:
    """A key is one name."""
    found = parse("import", key, json.dumps(GOOD).encode())
    assert isinstance(found, Invalid) and found.path == "$.service" and "is a pattern" in found.reason


NONE = (
    *("203.0.113.10", "203.0.113.10:", ":15006", "203.0.113.10:0", "203.0.113.10:65536", "203.0.113.10:+1", ""),
    *("203.0.113.10:\u0967", "[203.0.113.10]:1", "2001:db8::7:15006", "[2001:db8::7]", "gate:15006", "203.0.113.010:1"),
    "203.0.113.10:15006 ",
)


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_gateway(text: str) -> None:
    """Names, what is no address, and what is no port."""
    with pytest.raises(ValueError, match="is no address with a port, such as"):
        parse_gateway(text)


@given(st.text(max_size=40))
def test_no_text_breaks_it(text: str) -> None:
    """It is a gateway, or a reason."""
    try:
        address, port = parse_gateway(text)
    except ValueError:
        return
    assert address and 0 < port < 65536


def test_two_spellings_of_one_gateway_are_one() -> None:
    """And said so."""
    found = parse(
        "import", "pets.eu", json.dumps({**GOOD, "gateways": ["[2001:db8::7]:1", "[2001:db8:0::7]:1"]}).encode()
    )
    assert isinstance(found, Invalid) and found.path == "$.gateways[1]"
