"""Records: what agents write they read again; anything else is refused with the place and the fix."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.records import (
    MAX_RECORD_BYTES,
    Ack,
    Agent,
    Compared,
    Health,
    Instance,
    Malformed,
    Record,
    Rejection,
    Seen,
    decode,
    encode,
)

KINDS: list[type[Record]] = [Instance, Health, Agent, Rejection, Ack, Seen, Compared]
_TEXT = st.text(max_size=20)
_ADDRESS = st.ip_addresses(network="10.0.0.0/8").map(str) | st.ip_addresses(network="fd00::/8").map(str)
_PORT = st.integers(1, 65535)
RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.builds(
        Instance,
        address=_ADDRESS,
        port=_PORT,
        version=_TEXT,
        zone=_TEXT,
        weight=st.floats(0, 1_000_000),
        agent=_TEXT,
        state=st.sampled_from(["serving", "draining"]),
        metadata=st.dictionaries(_TEXT, _TEXT, max_size=3),
    ),
    st.builds(Health, healthy=st.booleans(), reason=_TEXT, since=_TEXT, agent=_TEXT),
    st.builds(Agent, address=_ADDRESS, inbound_port=_PORT, zone=_TEXT, version=_TEXT, started=_TEXT, boot=_TEXT),
    st.builds(Rejection, path=_TEXT, reason=_TEXT, revision=st.integers(0, 2**60), agent=_TEXT, at=_TEXT),
    st.builds(Ack, revision=st.integers(0, 2**60), workers=st.dictionaries(_TEXT, st.integers(0, 9)), at=_TEXT),
    st.builds(
        Compared,
        revision=st.integers(0, 2**63 - 1),
        tally=st.dictionaries(_TEXT, st.integers(0, 9), max_size=3),
        at=_TEXT,
    ),
    st.builds(Seen, calls=st.dictionaries(_TEXT, st.lists(_TEXT, max_size=3)), at=_TEXT),
)


@given(RECORDS)
def test_what_is_written_is_read_again(record: Record) -> None:
    """As it was; and what is a default is not written."""
    value = encode(record)
    assert decode(type(record), value) == record
    for field in msgspec.structs.fields(type(record)):
        if getattr(record, field.name) == field.default:
            assert field.name not in msgspec.json.decode(value)


@given(st.sampled_from(KINDS), st.binary() | st.text().map(str.encode) | RECORDS.map(encode))
def test_anything_is_a_record_or_malformed(kind: type[Record], value: bytes) -> None:
    """And nothing else comes out, whatever a person or a broken program put there."""
    try:
        assert isinstance(decode(kind, value), kind)
    except Malformed as error:
        assert error.path.startswith("$")
        assert error.reason


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b'{"address": "10.0.0.5"}', "$: missing field 'port'"),
        (b'{"address": "10.0.0.5", "port": "80"}', "$.port: expected a whole number, got text"),
        (b'{"address": "10.0.0.5", "port": 0}', "$.port: expected a whole number >= 1"),
        (b'{"address": "10.0.0.5", "port": 65536}', "$.port: expected a whole number <= 65535"),
        (b'{"address": "10.0.0.5", "port": 80, "prot": 1}', "$: no field 'prot' here (did you mean 'port'?)"),
        (b'{"address": "10.0.0.5", "port": 80, "weight": -1}', "$.weight: expected a number >= 0.0"),
        (b'{"address": "10.0.0.5", "port": 80, "state": "up"}', "$.state: 'up' is none of: draining, serving"),
        (
            b'{"address": "10.0.0.5", "port": 80, "metadata": {"a": 1}}',
            "$.metadata.a: expected text, got a whole number",
        ),
        (b'{"address": "web-1", "port": 80}', "$.address: 'web-1' is no IPv4 or IPv6 address, such as 10.0.0.5"),
        (b'{"address": "0.0.0.0", "port": 80}', "$.address: 0.0.0.0 cannot be connected to"),
        (b'{"address": "::", "port": 80}', "$.address: :: cannot be connected to"),
        (b'{"address": "224.0.0.1", "port": 80}', "$.address: 224.0.0.1 cannot be connected to"),
        (b"address: 10.0.0.5", "$: not JSON: "),
        (b"[]", "$: expected an object, got a list"),
        (b"", "$: not JSON: "),
        (b'{"address": "\xff", "port": 80}', "$: not JSON: "),
        (b"[" * 60_000, "$: "),
        (b" " * (MAX_RECORD_BYTES + 1), "$: 65537 bytes; a record has at most 65536"),
    ],
)
def test_what_is_said_of_a_bad_instance(value: bytes, said: str) -> None:
    """Where, and what would be right."""
    with pytest.raises(Malformed) as caught:
        decode(Instance, value)
    assert str(caught.value).startswith(said)


def test_numbers_that_are_none() -> None:
    """JSON has no infinity, and a weight beyond a float's reach is one."""
    for weight in (b"NaN", b"Infinity", b"1e999"):
        with pytest.raises(Malformed):
            decode(Instance, b'{"address": "10.0.0.5", "port": 80, "weight": %s}' % weight)


def test_records_are_never_changed() -> None:
    """They are shared by whoever has them."""
    with pytest.raises(AttributeError):
        Health(healthy=True).healthy = False  # type: ignore[misc]
