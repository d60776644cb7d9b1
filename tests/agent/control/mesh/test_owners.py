"""What other hosts say that they can prove reaches the workers with the endpoints that it is about."""

from datetime import UTC, datetime

from agent.control.mesh.table import Table
from registry.identity_records import Holds
from registry.keys import Keys
from registry.records import Agent, Instance, encode
from registry.store import Change

KEYS = Keys()
ENDS = datetime(2030, 1, 1, tzinfo=UTC)
THERE = Change(KEYS.agent("web-1"), encode(Agent(address="10.0.0.1", inbound_port=15006)), 1)
PETS = Change(KEYS.instance("pets.production", "a"), encode(Instance(address="10.0.0.1", port=80, agent="web-1")), 1)
SHOP = Change(KEYS.instance("shop.production", "b"), encode(Instance(address="10.0.0.1", port=81, agent="web-1")), 1)


def holds(*services: str) -> Change:
    record = Holds(trust_domain="default.shoal", bundle=1, agent=ENDS, services=dict.fromkeys(services, ENDS))
    return Change(KEYS.trust("web-1"), encode(record), 2)


def until(table: Table, service: str, instance: str) -> float:
    endpoint = table.endpoint(service, table.services[service], instance)
    assert endpoint is not None
    return endpoint.secured_until


def test_an_endpoint_says_until_when_its_agent_holds_the_service() -> None:
    """That service, and no other; and only those are touched that change."""
    table = Table(Keys(), "here")
    table.apply([THERE, PETS, SHOP], 1)
    assert until(table, "pets.production", "a") == 0
    assert table.apply([holds("pets.production", "other.production")], 2) == {"pets.production"}
    assert (until(table, "pets.production", "a"), until(table, "shop.production", "b")) == (ENDS.timestamp(), 0)
    assert table.apply([holds("pets.production")], 3) == set()
    assert table.apply([holds("shop.production")], 4) == {"pets.production", "shop.production"}


def test_a_record_that_is_gone_says_nothing() -> None:
    """An agent that lost its lease serves on; with its last instance it is forgotten."""
    table = Table(Keys(), "here")
    table.apply([THERE, PETS, SHOP, holds("pets.production")], 2)
    assert table.apply([Change(KEYS.trust("web-1"), None, 3)], 3) == set()
    assert until(table, "pets.production", "a") == ENDS.timestamp()
    table.apply([Change(SHOP.key, None, 4)], 4)
    assert until(table, "pets.production", "a") == ENDS.timestamp()
    assert table.apply([holds()], 5) == {"pets.production"}
    assert until(table, "pets.production", "a") == 0
    table.apply([holds("pets.production"), Change(KEYS.trust("web-1"), None, 6)], 6)
    table.apply([Change(PETS.key, None, 7)], 7)
    assert table.owners.holds == {}


def test_garbage_takes_nothing_back() -> None:
    """The last good one stays, and the key is listed."""
    table = Table(Keys(), "here")
    table.apply([THERE, PETS, holds("pets.production")], 2)
    for garbage in (b"", b"\xff", b'{"services": 1}', b'{"trust_domain": "a", "bundle": 1, "agent": "soon"}'):
        assert table.apply([Change(KEYS.trust("web-1"), garbage, 3)], 3) == set()
        assert until(table, "pets.production", "a") == ENDS.timestamp()
        assert KEYS.trust("web-1") in table.malformed


def test_it_outlives_a_restart_without_etcd() -> None:
    """What goes to disk makes the same table."""
    table = Table(Keys(), "here")
    table.apply([THERE, PETS, holds("pets.production")], 2)
    again = Table(Keys(), "here")
    again.apply([Change(key, value, revision) for key, value, revision in table.saved()], 2)
    assert until(again, "pets.production", "a") == ENDS.timestamp()


def test_on_this_host_nothing_is_secured() -> None:
    """An instance beside its caller is dialled directly."""
    table = Table(Keys(), "web-1")
    table.apply([THERE, PETS, holds("pets.production")], 2)
    assert until(table, "pets.production", "a") == 0
