from __future__ import annotations

import pytest

from agent.cli.commands.wait import refusals
from agent.cli.spreading import Laggard, laggards
from registry.census import Census, Policy, take
from registry.keys import Keys
from registry.records import Ack, Agent, Rejection, encode
from tests.support.memory import MemoryStore

AGENT = Agent(address="10.0.0.1", inbound_port=15006)


def test_an_agent_that_is_behind_or_silent_lags() -> None:
    """Only live agents count, those with a lease: an ack that outlived its agent is nobody's."""
    census = Census(
        agents={"a": AGENT, "b": AGENT, "c": AGENT},
        acks={name: Ack(revision=revision) for name, revision in {"a": 7, "b": 6, "gone": 1}.items()},
    )
    assert laggards(census, 7) == [Laggard("b", 6), Laggard("c", 0)]
    assert [str(laggard) for laggard in laggards(census, 7)] == ["b runs 6", "c has not said what it runs"]


def test_a_policy_that_arrived_and_was_refused_is_not_in_force() -> None:
    """Else `etcdctl put … && shoal wait` would say that a misspelt document is in force."""
    census = Census(
        policies={
            ("route", "pets"): Policy("route", "pets", 7, b'{"activ": "v1"}'),
            ("retry", "pets"): Policy("retry", "pets", 7, b"{}"),
            ("timeout", "pets"): Policy("timeout", "pets", 6, b"{"),
        }
    )
    refused = refusals(census, 7)
    assert [(found.policy, found.path) for found in refused] == [("route/pets", "$")]
    assert "'active'" in str(refused[0])
    assert refusals(census, 8) == []


def test_what_agents_refuse_for_its_bundle_is_theirs_to_say() -> None:
    """What was good of a bundle that is refused is known to them alone."""
    text = b'{"rego": {"bundles": ["groups"], "modules": {"l.rego": "package shoal\\nallow if data.groups.staff"}}}'
    census = Census(
        policies={
            ("authz", "pets"): Policy("authz", "pets", 7, text),
            ("rego", "groups"): Policy("rego", "groups", 7, b'{"modules": {"g.rego": 1}}'),
        }
    )
    assert [found.policy for found in refusals(census, 7)] == ["rego/groups"]
    said = Rejection(path="$.rego.bundles[0]", reason="not there", revision=7, agent="a", at="")
    census.rejected["authz", "pets"] = said
    assert [found.policy for found in refusals(census, 7)] == ["rego/groups", "authz/pets"]
    assert refusals(census, 8) == []


@pytest.mark.parametrize(
    "rest",
    ["retry/pets.*", "retry/**", "route/a.b.c.d.e.f", "Retry/pets", "retry", "retry/", "", "/pets", "retry/pets//x"],
)
async def test_a_key_that_names_nothing_is_refused(rest: str) -> None:
    """As the newest change, though no agent could put it in force: a `*` in the wrong place is easily overlooked."""
    store = MemoryStore()
    await store.put(Keys().policy("route", "pets"), b"{}")
    put = await store.put(f"/shoal/default/policies/{rest}", b"{}")
    census = await take(store, "default")
    assert (census.newest, census.wanted) == (put, put)
    assert [(found.policy, found.path) for found in refusals(census, put)] == [(rest, "key")]
    assert refusals(census, put - 1) == []
    await store.aclose()


async def test_a_deletion_is_the_newest_change_too() -> None:
    """Once the first agent runs it, `shoal wait` waits for the others, though etcd shows no trace of it."""
    keys, store = Keys("default"), MemoryStore()
    await store.put(keys.policy("route", "pets"), b"{}")
    gone = await store.delete(keys.policy("route", "pets"))
    assert (await take(store, "default")).wanted == 0
    await store.put(keys.ack("a"), encode(Ack(revision=gone)))
    assert (await take(store, "default")).wanted == gone
    await store.aclose()


async def test_nobody_waits_for_an_acknowledgement() -> None:
    """Who reads everything anew may do so at the revision of another agent's word, which nobody else hears of."""
    keys, store = Keys("default"), MemoryStore()
    put = await store.put(keys.policy("route", "pets"), b"{}")
    for host in ("a", "b"):
        await store.put(keys.agent(host), encode(AGENT))
    newest = store.revision
    word = await store.put(keys.ack("a"), encode(Ack(revision=newest)))
    await store.put(keys.ack("b"), encode(Ack(revision=word, newest=newest)))
    census = await take(store, "default")
    assert census.wanted == newest > put
    assert laggards(census, census.wanted) == []
    await store.aclose()
