"""Registration against a store in memory: what stands in etcd at each step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.control.instances.registration import (
    Taken,
)
from agent.control.instances.tokens import digest
from policies.language.plain import Flaw
from registry.store import Change, Put
from tests.support.proxy import listening
from tests.support.registering import KEYS, PETS, TTL_CHECK, Host, running


async def test_an_instance_is_put_with_its_health_at_once(tmp_path: Path) -> None:
    """One transaction, unhealthy until checked, on the lease; the agent's own address and zone fill in."""
    async with running(Host(tmp_path)) as host:
        service, identity, token, _ = host.register({"service": "pets", "port": 80, "health": TTL_CHECK})
        await host.holder.settled()
        assert (service, identity) == PETS
        assert len(token) >= 20
        instance = await host.store.get(KEYS.instance(*PETS))
        health = await host.store.get(KEYS.health(*PETS))
        assert instance is not None and health is not None
        assert instance.mod_revision == health.mod_revision
        assert instance.lease == health.lease == host.holder.lease != 0
        record = json.loads(instance.value)
        assert (record["address"], record["zone"], record["agent"]) == ("10.0.0.1", "z", "here")
        assert json.loads(health.value)["healthy"] is False


async def test_health_is_written_on_transitions_only(tmp_path: Path) -> None:
    """What an instance says again changes nothing in etcd."""
    async with running(Host(tmp_path)) as host:
        host.register({"service": "pets", "port": 80, "health": {**TTL_CHECK, "fall": 2}})
        assert host.registrar.hear("pets", "here-80", True, "warm")
        await host.until("health/pets/here-80", lambda health: health and health["healthy"])
        before = host.store.revision
        for ok in (True, True, False, True):
            assert host.registrar.hear("pets", "here-80", ok, "again")
        await host.holder.settled()
        assert host.store.revision == before
        host.registrar.hear("pets", "here-80", False, "tired")
        host.registrar.hear("pets", "here-80", False, "tired")
        health = await host.until("health/pets/here-80", lambda health: not health["healthy"])
        assert health["reason"] == "tired"
        assert not host.registrar.hear("pets", "nobody", True, "")


async def test_registering_again_is_nothing_new(tmp_path: Path) -> None:
    """`shoal run` says it every two seconds: same id, no token, and no write, neither to etcd nor to disk."""
    body = {"service": "pets", "port": 80, "health": TTL_CHECK}
    async with running(Host(tmp_path)) as host:
        first = host.register(body)
        assert first.token
        await host.holder.settled()
        before = host.store.revision, (tmp_path / "instances.json").stat().st_mtime_ns
        assert host.register(body) == first._replace(token="")
        await host.holder.settled()
        assert (host.store.revision, (tmp_path / "instances.json").stat().st_mtime_ns) == before
        host.register({**body, "version": "v2"})
        await host.until("instances/pets/here-80", lambda record: record.get("version") == "v2")


async def test_the_default_check_is_that_the_port_listens(tmp_path: Path) -> None:
    """Nobody said how to check it: it is healthy once it accepts connections; a `health` policy applies at once."""
    sock, port = listening()
    with sock:
        async with running(Host(tmp_path)) as host:
            host.register({"service": "pets", "port": port, "address": "127.0.0.1", "id": "a"})
            await host.until("health/pets/a", lambda health: health and health["healthy"])
            policy = {"http": {}, "timeout": "50ms", "interval": "50ms", "fall": 1}
            host.see({"policies/health/*": policy})
            host.registrar.refresh()
            health = await host.until("health/pets/a", lambda health: not health["healthy"])
            assert health["reason"] == "no answer within 0.05 s"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ([], "$"),
        ({}, "$"),
        ({"service": "pets"}, "$"),
        ({"service": "Pe ts", "port": 80}, "$.service"),
        ({"service": "pets", "port": 0}, "$.port"),
        ({"service": "pets", "port": "80"}, "$.port"),
        ({"service": "pets", "port": 80, "id": "../x"}, "$.id"),
        ({"service": "pets", "port": 80, "address": "localhost"}, "$.address"),
        ({"service": "pets", "port": 80, "wait": 1}, "$"),
        ({"service": "pets", "port": 80, "weight": 1e308}, "$.weight"),
        ({"service": "pets", "port": 80, "health": {"http": {"pth": "/"}}}, "$.health.http"),
        ({"service": "pets", "port": 80, "health": {"tcp": {}, "http": {}}}, "$.health"),
        ({"service": "pets", "port": 80, "health": {"command": {"argv": ["/bin/true"]}}}, "$.health.command"),
        ({"service": "pets", "port": 80, "health": {"http": {"port": 81}}}, "$.health.http.port"),
        ({"service": "pets", "port": 15000, "address": "127.0.0.1"}, "$.port"),
        ({"service": "pets", "port": 15006, "address": "127.0.0.77"}, "$.port"),
        ({"service": "pets", "port": 15000, "address": "::ffff:127.0.0.1"}, "$.port"),
        ({"service": "pets", "port": 80, "address": "192.0.2.7"}, "$.address"),
        ({"service": "pets", "port": 80, "address": "2001:db8::7"}, "$.address"),
    ],
)
async def test_what_is_wrong_is_told_with_its_path(tmp_path: Path, body: Any, path: str) -> None:
    """Nothing is registered by a body that is wrong anywhere."""
    host = Host(tmp_path)
    with pytest.raises(Flaw) as caught:
        host.register(body)
    assert caught.value.path == path
    assert host.registrar.local == {}


async def test_an_id_that_another_agent_has_is_refused(tmp_path: Path) -> None:
    """Two instances cannot have one name, whoever is known to live; nor one that was put by hand."""
    host = Host(tmp_path)
    host.see({
        "agents/there": {"address": "10.0.0.9", "inbound_port": 1},
        "instances/pets/a": {"address": "10.0.0.9", "port": 1, "agent": "there"},
        "instances/pets/b": {"address": "10.0.0.9", "port": 1},
    })  # fmt: skip
    with pytest.raises(Flaw, match="already registered by the agent on 'there'"):
        host.register({"service": "pets", "port": 80, "id": "a"})
    with pytest.raises(Taken, match=r"put by hand, at 10\.0\.0\.9:1; .* delete /shoal/default/instances/pets/b"):
        host.register({"service": "pets", "port": 80, "id": "b"})
    assert host.registrar.local == {}


async def test_who_is_second_in_etcd_is_refused_though_the_table_knew_nothing(tmp_path: Path) -> None:
    """At the same moment: etcd decides. Nothing is left of the registration, nor told of the first's health."""
    async with running(Host(tmp_path)) as host:
        first = {"address": "10.0.0.9", "port": 1, "agent": "there"}
        await host.store.put(KEYS.instance(*PETS), json.dumps(first).encode())
        registered = host.register({"service": "pets", "port": 80, "health": TTL_CHECK})
        with pytest.raises(Taken, match=r"already registered by the agent on 'there', at 10\.0\.0\.9:1"):
            await host.registrar.admitted(registered)
        await host.holder.settled()
        assert host.registrar.local == {}
        assert await host.value("instances/pets/here-80") == first
        assert await host.value("health/pets/here-80") is None
        await host.store.delete(KEYS.instance(*PETS))
        await host.registrar.admitted(host.register({"service": "pets", "port": 80, "health": TTL_CHECK}))
        assert (await host.value("instances/pets/here-80"))["agent"] == "here"


async def test_what_is_declared_waits_for_its_id(tmp_path: Path) -> None:
    """agent.toml's is refused and not forgotten; the verdict of whoever has the id is not taken for its own."""
    settings = '[[instances]]\nservice = "pets"\nport = 80\nid = "here-80"\nhealth = { ttl = "1h" }\n'
    host = Host(tmp_path, settings=settings)
    first = {"address": "10.0.0.9", "port": 1, "agent": "there"}
    host.see({"instances/pets/here-80": first, "health/pets/here-80": {"healthy": True, "agent": "there"}})
    await host.store.put(KEYS.instance(*PETS), json.dumps(first).encode())
    host.registrar.load()
    async with running(host):
        await host.holder.settled()
        assert list(host.registrar.taken()) == [PETS]
        assert host.registrar.farewell() == []
        await host.store.delete(KEYS.instance(*PETS))
        host.holder.hear(Change(KEYS.instance(*PETS), None, host.store.revision))
        await host.until("health/pets/here-80", lambda health: health and not health["healthy"])
        assert (await host.value("instances/pets/here-80"))["agent"] == "here"
        assert host.registrar.taken() == {}


async def test_leaving_is_said_before_it_is_done(tmp_path: Path) -> None:
    """`draining` first; the keys go when the word has spread, and not before."""
    async with running(Host(tmp_path)) as host:
        host.register({"service": "pets", "port": 80, "health": TTL_CHECK})
        spread = trio.Event()

        async def others(revision: int) -> None:
            await spread.wait()

        revision = await host.registrar.deregister(PETS, others, 5)
        assert revision == host.store.revision
        assert (await host.value("instances/pets/here-80"))["state"] == "draining"
        spread.set()
        await host.until("instances/pets/here-80", lambda record: record is None)
        assert await host.value("health/pets/here-80") is None
        assert host.registrar.local == {}


@pytest.mark.parametrize("died", ["", "its program was killed by signal 9 (SIGKILL)"])
async def test_a_program_that_died_does_not_leave_in_order(tmp_path: Path, died: str) -> None:
    """It is unhealthy, and why, before it drains, and its end says so: nobody takes it for a deployment."""
    told: list[tuple[str, Any]] = []

    def tell(name: str, identity: tuple[str, str], data: Any) -> list[Put]:
        told.append((name, dict(data)))
        return []

    host = Host(tmp_path)
    host.registrar.published._events = tell
    async with running(host):
        host.register({"service": "pets", "port": 80, "health": TTL_CHECK})
        host.registrar.hear("pets", "here-80", True, "I am well")
        spread = trio.Event()

        async def others(revision: int) -> None:
            await spread.wait()

        await host.registrar.deregister(PETS, others, 5, died)
        health = await host.value("health/pets/here-80")
        assert (health["healthy"], health["reason"]) == ((False, died) if died else (True, "I am well"))
        spread.set()
        await host.until("instances/pets/here-80", lambda record: record is None)
    assert [name for name, _ in told] == ["instance.healthy", *["instance.unhealthy"] * bool(died), "instance.gone"]
    assert told[-1][1]["orderly"] is not bool(died)
    assert told[-1][1]["reason"] == (died or "it was deregistered")


async def test_leaving_without_etcd(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """etcd does not take the word: the instance is forgotten in time, and its keys are deleted when etcd is back."""
    async with running(Host(tmp_path)) as host:
        host.register({"service": "pets", "port": 80, "health": TTL_CHECK})
        await host.holder.settled()
        host.store.down = True

        async def others(revision: int) -> None:
            raise AssertionError("nobody can have heard")

        assert await host.registrar.deregister(PETS, others, 2) is None
        assert host.registrar.local == {}
        host.store.down = False
        await host.until("instances/pets/here-80", lambda record: record is None)


async def test_a_lost_lease_is_made_again(tmp_path: Path) -> None:
    """The mirror sees keys of ours vanish: every one stands again, on another lease, as it stood."""
    async with running(Host(tmp_path)) as host:
        host.register({"service": "pets", "port": 80, "health": TTL_CHECK})
        host.registrar.hear("pets", "here-80", True, "warm")
        await host.holder.settled()
        lease = host.holder.lease
        host.store.expire(lease)
        assert await host.value("instances/pets/here-80") is None
        host.holder.hear(Change(KEYS.instance(*PETS), None, host.store.revision))
        await host.until("health/pets/here-80", lambda health: health and health["healthy"])
        assert await host.value("instances/pets/here-80") is not None
        assert host.holder.lease != lease


async def test_registrations_and_tokens_survive_a_restart(tmp_path: Path) -> None:
    """What was registered, with its check and whose it is; and an instance's credentials stay what they were."""
    before = Host(tmp_path)
    token = before.register({"service": "pets", "port": 80, "metadata": {"a": "b"}, "health": TTL_CHECK}).token
    after = Host(tmp_path)
    after.registrar.load()
    assert after.registrar.tokens.callers() == {digest(token): "pets"}
    assert token not in (tmp_path / "instances.json").read_text()
    assert after.registrar.local == before.registrar.local
    assert (tmp_path / "instances.json").stat().st_mode & 0o777 == 0o600
    after.registrar.forget(PETS)
    again = Host(tmp_path)
    again.registrar.load()
    assert again.registrar.local == {}


async def test_a_damaged_file_costs_registrations_only(tmp_path: Path) -> None:
    """Whatever stands in it, the agent starts, with what agent.toml declares."""
    for text in ("{", "[]", '{"instances": [{"port": 1}, 7], "tokens": 3}', '{"instances": 5}'):
        (tmp_path / "instances.json").write_text(text)
        host = Host(tmp_path, settings='[[instances]]\nservice = "shop"\nport = 81\n')
        host.registrar.load()
        assert list(host.registrar.local) == [("shop", "here-81")]


async def test_a_verdict_from_before_a_crash_is_adopted(tmp_path: Path) -> None:
    """etcd still says that it is healthy: it stays so, and nobody is told otherwise, until a check says so."""
    host = Host(tmp_path, settings='[[instances]]\nservice = "pets"\nport = 80\nhealth = { ttl = "1h" }\n')
    host.registrar.load()
    record = {"address": "10.0.0.1", "port": 80, "agent": "here"}
    host.see({"instances/pets/here-80": record, "health/pets/here-80": {"healthy": True}})
    host.registrar.adopt_verdicts()
    async with running(host):
        await host.holder.settled()
        assert (await host.value("health/pets/here-80"))["healthy"] is True
