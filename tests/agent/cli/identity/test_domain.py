from __future__ import annotations

import pytest

from agent.cli.failure import Failure
from agent.cli.identity.domain import take
from agent.cli.identity.report import report
from agent.identity.bundles import bundle_document
from registry.keys import Keys
from registry.records import Agent, Instance, encode
from tests.support.identity import NOW_S, Authority
from tests.support.memory import MemoryStore

KEYS = Keys("default")
GRANT = KEYS.identity("grants", "shop.production")


async def mesh() -> MemoryStore:
    """A host that may hold a service, and has it."""
    store = MemoryStore()
    await store.put(KEYS.identity("bundle"), bundle_document(Authority().bundle))
    await store.put(KEYS.identity("hosts", "web-1"), b"{}")
    await store.put(KEYS.agent("web-1"), encode(Agent(address="10.0.0.1", inbound_port=15006)))
    instance = Instance(address="10.0.0.1", port=80, agent="web-1")
    await store.put(KEYS.instance("shop.production", "a"), encode(instance))
    return store


async def test_what_is_told_goes_by_what_agents_go_by() -> None:
    """A grant that is misspelt takes nothing away from who has it: agents go by the good one, and so do commands."""
    store = await mesh()
    good = await store.put(GRANT, b'{"hosts": ["web-1"]}')
    await store.put(GRANT, b"{")
    await store.put(GRANT, b'{"host": ["web-1"]}')
    domain = await take(store, "default")
    said = "$: no field 'host' here (did you mean 'hosts'?); there are: hosts, description"
    assert domain.malformed == {GRANT: f"{said}; what was put at revision {good} stays in force until it is mended"}
    told = report(domain, NOW_S)
    assert (told["ungranted"], told["wrong"]) == ([], True)
    assert [host["granted"] for host in told["hosts"]] == [["shop.production"]]
    assert domain.grants == {}, "decisions are made by what stands"
    with pytest.raises(Failure, match="cannot be read"):
        domain.unchanged(GRANT)
    await store.aclose()


@pytest.mark.parametrize("compacted", [False, True])
async def test_what_was_never_good_or_is_forgotten_is_not_made_up(*, compacted: bool) -> None:
    """What stood before a deletion is gone."""
    store = await mesh()
    await store.put(GRANT, b'{"hosts": ["web-1"]}')
    await store.delete(GRANT)
    await store.put(GRANT, b"[]")
    bad = await store.put(GRANT, b"{}")
    if compacted:
        store.compact(bad)
    domain = await take(store, "default")
    said = "agents that knew what stood there before go by that" if compacted else "nothing good stood there before"
    assert said in domain.malformed[GRANT]
    assert [row["name"] for row in report(domain, NOW_S)["ungranted"]] == ["svc/shop.production"]
    await store.aclose()


async def test_a_grant_of_a_host_that_is_none_is_told() -> None:
    """Mistyped, mostly; of hosts that were invited a token is there."""
    store = await mesh()
    await store.put(GRANT, b'{"hosts": ["web-1", "wbe-1", "web-2"]}')
    await store.put(KEYS.identity("joins", "0" * 64), b'{"host": "web-2", "until": "2027-01-01T00:00:00Z"}')
    told = report(await take(store, "default"), NOW_S)
    assert told["hostless"] == [
        {"pattern": "shop.production", "host": "wbe-1", "meant": " (did you mean 'web-1'?)"},
    ]
    await store.aclose()
