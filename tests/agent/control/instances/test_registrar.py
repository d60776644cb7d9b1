"""Registration against a store in memory: what stands in etcd at each step."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.control.host.own_ports import OwnPorts
from agent.control.host.programs import Programs
from agent.control.instances.checks import Means
from agent.control.instances.registrar import Registrar
from agent.control.instances.registration import (
    NotYours,
    Registered,
    Registration,
    Taken,
    TooMany,
    state_before,
)
from agent.control.instances.tokens import Tokens, digest
from agent.control.mesh.table import Table
from agent.identity.users import User
from agent.settings.file import parse
from policies.language.document import convert
from policies.language.plain import Flaw
from registry.keys import Keys
from registry.lease import Holder
from registry.ownership import whose
from registry.store import Change, Put
from tests.support.memory import MemoryStore
from tests.support.proxy import listening

KEYS = Keys()
PETS = ("pets", "here-80")
TTL_CHECK = {"ttl": "1h"}
"""Health that only changes when the instance says so."""


class Host:
    """One host: its registrar, and the etcd that it writes to. The table sees what the test lets it see."""

    def __init__(self, folder: Path, store: MemoryStore | None = None, settings: str = "") -> None:
        self.store = store or MemoryStore()
        self.settings = parse(f'host = "here"\nzone = "z"\nstate_dir = "{folder}"\n{settings}', "agent.toml")
        self.table = Table(KEYS, "here")
        self.holder = Holder(self.store, 10, whose=whose(KEYS, "here", "boot"))
        means = Means(Programs(), OwnPorts([("admin", ("127.0.0.1", 15000)), ("inbound", ("0.0.0.0", 15006))]))
        self.told: list[list[str]] = []
        """Whose tokens there were each time when it was said that there are others."""
        tokens = Tokens()
        self.registrar = Registrar(
            self.settings,
            "10.0.0.1",
            KEYS,
            self.holder,
            self.table,
            means,
            tokens,
            on_tokens=lambda: self.told.append(sorted(tokens.callers().values())),
        )

    def register(self, body: Any, uid: int = 1000, *, operates: bool = False) -> Registered:
        """As a user of this host."""
        return self.registrar.register(convert(body, Registration), User(uid), operates=operates)

    async def value(self, key: str) -> Any:
        found = await self.store.get(f"{KEYS.prefix}{key}")
        return None if found is None else json.loads(found.value)

    async def until(self, key: str, question: Any) -> Any:
        with trio.fail_after(60):
            while not question(value := await self.value(key)):
                await trio.sleep(0.01)
        return value

    def see(self, values: dict[str, Any]) -> None:
        """The mirror delivers."""
        changes = [Change(KEYS.prefix + key, json.dumps(value).encode(), 5) for key, value in values.items()]
        self.table.apply(changes, 5)


@asynccontextmanager
async def running(host: Host) -> AsyncIterator[Host]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.holder.run)
        nursery.start_soon(host.registrar.run)
        await trio.testing.wait_all_tasks_blocked()
        yield host
        nursery.cancel_scope.cancel()


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


async def test_workers_hear_of_each_new_token(tmp_path: Path) -> None:
    """One an instance: a second of the same service has its own, and nobody is told of another's."""
    host = Host(tmp_path)
    shown = [host.register({"service": service, "port": port}).token for service, port in (("a", 80), ("a", 81))]
    shown.append(host.register({"service": "a", "port": 80}).token)
    shown.append(host.register({"service": "b", "port": 82}).token)
    assert host.told == [["a"], ["a", "a"], ["a", "a", "b"]]
    assert shown.pop(2) == ""
    assert len(set(shown)) == 3


async def test_an_instance_is_its_users_alone(tmp_path: Path) -> None:
    """Another user neither replaces it nor gets its token; who operates may, and it stays whose it was."""
    host = Host(tmp_path, settings='[[instances]]\nservice = "shop"\nport = 81\n')
    host.registrar.load()
    host.register({"service": "pets", "port": 80})
    for body, owner in (({"service": "pets", "port": 80}, "1000"), ({"service": "shop", "port": 81}, "agent.toml")):
        with pytest.raises(NotYours) as refused:
            host.register(body, uid=1001)
        assert owner in refused.value.reason
    assert host.registrar.is_of(PETS, User(1000))
    assert host.register({"service": "pets", "port": 80, "version": "v2"}, uid=0, operates=True).token == ""
    assert host.registrar.is_of(PETS, User(1000))


async def test_a_user_registers_so_many(tmp_path: Path) -> None:
    """And no more, however they are called; what stands may be said again, and others have their own number."""
    host = Host(tmp_path, settings="[local]\nmax_instances = 2")
    for port in (80, 81):
        host.register({"service": f"s{port}", "port": port})
    with pytest.raises(TooMany) as refused:
        host.register({"service": "pets", "port": 82})
    assert "max_instances" in refused.value.reason
    host.register({"service": "s80", "port": 80, "version": "v2"})
    host.register({"service": "pets", "port": 82}, uid=1001)


async def test_whoever_takes_a_leaving_instances_name_gets_a_token(tmp_path: Path) -> None:
    """The one before ends by and by; it is not shown to the next."""
    async with running(Host(tmp_path)) as host:
        first = host.register({"service": "pets", "port": 80, "health": TTL_CHECK}).token

        async def others(revision: int) -> None:
            await trio.sleep_forever()

        assert await host.registrar.deregister(PETS, others, 5)
        second = host.register({"service": "pets", "port": 80, "health": TTL_CHECK}).token
        assert second not in ("", first)
        assert set(host.registrar.tokens.callers()) == {digest(first), digest(second)}


async def test_a_token_that_was_forgotten_here_is_taken_back(tmp_path: Path) -> None:
    """The agent lost its state, the program goes on with what it has; a made-up short one is replaced."""
    host = Host(tmp_path)
    lost = "a" * 24
    assert host.register({"service": "pets", "port": 80, "token": lost}).token == lost
    assert host.register({"service": "pets", "port": 81, "token": "guess"}).token not in ("", "guess")


COMMAND = {"command": {"argv": ["/bin/sh", "-c", "touch {0}"]}, "interval": "50ms"}


def commanding(note: Path) -> dict[str, Any]:
    return {**COMMAND, "command": {"argv": ["/bin/sh", "-c", f"touch {note}"]}}


async def test_a_policy_runs_no_program_and_takes_nobody_down(tmp_path: Path) -> None:
    """The port is checked instead; it is said where the health is, and not any more once the policy is another."""
    sock, port = listening()
    with sock:
        async with running(Host(tmp_path)) as host:
            host.see({"policies/health/*": commanding(tmp_path / "ran")})
            host.register({"service": "pets", "port": port, "address": "127.0.0.1", "id": "a"})
            health = await host.until("health/pets/a", lambda health: health and health["healthy"])
            assert "accepts connections; only its port is checked" in health["reason"]
            assert "checks.commands" in health["reason"]
            assert list(host.registrar.refused) == [("pets", "a")]
            host.see({"policies/health/*": {"tcp": {}, "interval": "50ms"}})
            host.registrar.refresh()
            health = await host.until("health/pets/a", lambda health: "only its port" not in health["reason"])
            assert health["healthy"] and host.registrar.refused == {}
            host.see({"policies/health/*": {"http": {"port": 15000, "method": "DELETE"}}})
            host.registrar.refresh()
            health = await host.until("health/pets/a", lambda health: "only its port" in health["reason"])
            assert health["healthy"] and "$.http.port: 15000 is not the instance's own port" in health["reason"]
    assert not (tmp_path / "ran").exists()


async def test_a_program_that_may_run(tmp_path: Path) -> None:
    """By the settings' word a policy's; and always the one that agent.toml names for its instance."""
    toml = '[[instances]]\nservice = "shop"\nport = 81\nid = "a"\n[instances.health.command]\nargv = ["/bin/true"]\n'
    async with running(Host(tmp_path, settings=f"[checks]\ncommands = true\n{toml}")) as host:
        host.see({"policies/health/*": {"command": {"argv": ["/bin/sh", "-c", "echo s3cret"]}}})
        host.register({"service": "pets", "port": 80, "id": "a"})
        health = await host.until("health/pets/a", lambda health: health and health["healthy"])
        assert health["reason"] == "/bin/sh ended with 0"
    async with running(host := Host(tmp_path / "other", settings=toml)) as host:
        host.registrar.load()
        await host.until("health/shop/a", lambda health: health and health["healthy"])


async def test_a_command_that_an_older_agent_took_is_dropped(tmp_path: Path) -> None:
    """Its instance stays, checked by its port."""
    tmp_path.joinpath("instances.json").write_text(
        json.dumps({"tokens": {}, "instances": [{"service": "pets", "id": "a", "port": 80, "health": COMMAND},
                                                {"service": "pets", "id": "b", "port": 80, "address": "192.0.2.7"}]})
    )  # fmt: skip
    host = Host(tmp_path)
    host.registrar.load()
    assert list(host.registrar.local) == [("pets", "a")]
    assert host.registrar.local["pets", "a"].own_check is None


async def test_who_may_register_anywhere(tmp_path: Path) -> None:
    """An operator, and that survives a restart; and agent.toml, whose addresses others may name then."""
    there = {"service": "pets", "port": 80, "address": "192.0.2.7", "id": "there"}
    host = Host(tmp_path)
    host.register(there, operates=True)
    again = Host(tmp_path)
    again.registrar.load()
    assert list(again.registrar.local) == [("pets", "there")]
    settings = '[[instances]]\nservice = "shop"\nport = 81\naddress = "192.0.2.7"\n'
    host = Host(tmp_path / "other", settings=settings)
    host.registrar.load()
    host.register(there)
    for address in ("127.0.0.1", "127.3.2.1", "::1", "10.0.0.1"):
        host.register({**there, "address": address, "id": "x"})


async def test_an_instance_of_agent_toml_where_an_agent_listens(tmp_path: Path) -> None:
    """Is not registered; the others are."""
    both = "".join(f'[[instances]]\nservice = "shop"\nport = {port}\naddress = "127.0.0.1"\n' for port in (15000, 81))
    host = Host(tmp_path, settings=both)
    host.registrar.load()
    assert list(host.registrar.local) == [("shop", "here-81")]


# How long a registration lasts, and whose a port is.

RUN = {"service": "cart", "port": 80, "health": TTL_CHECK, "renew_within": "20s"}
CART = ("cart", "here-80")
BANK = {"service": "bank", "port": 80, "health": TTL_CHECK}


async def test_what_nobody_renews_ends(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """`shoal run` was killed: drained first, then gone, and for good, with its token retired. Who renews stays."""
    async with running(Host(tmp_path)) as host:
        host.register(RUN)
        for _ in range(10):
            await trio.sleep(19)
            host.register(RUN)
        await host.holder.settled()
        await host.until("instances/cart/here-80", lambda record: record.get("state") is None)
        await trio.sleep(20.5)
        assert (await host.value("instances/cart/here-80"))["state"] == "draining"
        await trio.sleep(1)
        assert await host.value("instances/cart/here-80") is await host.value("health/cart/here-80") is None
    assert Host(tmp_path).registrar.local == {}


async def test_who_comes_back_in_time_stays(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Paused for longer than its time, and back while the word of its end spreads; or it is to stay for ever now."""
    async with running(Host(tmp_path)) as host:
        host.register(RUN)
        await trio.sleep(20.5)
        host.register(RUN)
        await trio.sleep(5)
        assert (await host.value("instances/cart/here-80")).get("state") is None
        host.register({name: value for name, value in RUN.items() if name != "renew_within"})
        await trio.sleep(1000)
        assert CART in host.registrar.local


async def test_a_restart_gives_time_to_renew(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """The agent was away: nobody could have renewed anything. A file that says nonsense costs nothing."""
    async with running(Host(tmp_path)) as host:
        host.register(RUN)
        host.register({"service": "pets", "port": 81, "health": TTL_CHECK})
    host = Host(tmp_path)
    host.registrar.load()
    async with running(host):
        await trio.sleep(19)
        assert set(host.registrar.local) == {CART, ("pets", "here-81")}
        await trio.sleep(3)
        assert set(host.registrar.local) == {("pets", "here-81")}
    saved = json.loads((tmp_path / "instances.json").read_text())
    for nonsense in (None, [1], {"pets/here-81": "x"}, {"pets/here-81": -5}, {"/": 1e300}):
        (tmp_path / "instances.json").write_text(json.dumps({**saved, "renew_within": nonsense}))
        again = Host(tmp_path)
        again.registrar.load()
        assert set(again.registrar.local) == {("pets", "here-81")}


@pytest.mark.parametrize("within", ["1s", "25h", "soon", -1, True])
async def test_a_length_of_time_that_is_none(tmp_path: Path, within: Any) -> None:
    """Said with its path, and nothing is registered."""
    async with running(Host(tmp_path)) as host:
        with pytest.raises(Flaw) as caught:
            host.register({**RUN, "renew_within": within})
        assert caught.value.path == "$.renew_within"
        assert host.registrar.local == {}


async def test_a_port_is_one_services(tmp_path: Path) -> None:
    """A registration that outlived its program would have `cart` answered by `bank`."""
    async with running(Host(tmp_path)) as host:
        host.register({"service": "cart", "port": 80, "id": "stale", "health": TTL_CHECK})
        assert host.register(BANK).replaced == ("cart/stale",)
        await host.holder.settled()
        assert await host.value("instances/cart/stale") is None
        assert host.register(BANK).replaced == ()
        host.register({**BANK, "id": "another"})
        assert set(host.registrar.local) == {("bank", "here-80"), ("bank", "another")}


async def test_an_instance_that_moves_to_anothers_port(tmp_path: Path) -> None:
    """Its record changes, and that is judged as a new one would be; so is another spelling of the address."""
    async with running(Host(tmp_path)) as host:
        host.register({"service": "cart", "port": 80, "address": "::1", "id": "a", "health": TTL_CHECK})
        host.register({**BANK, "port": 81, "id": "b"})
        moved = host.register({**BANK, "address": "0:0:0:0:0:0:0:1", "id": "b"})
        assert moved.replaced == ("cart/a",)


async def test_what_is_renewed_keeps_its_port(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """The newcomer is told whose it is. What was not renewed for half its time yields, and does not come back by
    turns: then it is the one that is refused."""
    async with running(Host(tmp_path)) as host:
        host.register(RUN)
        await trio.sleep(9)
        with pytest.raises(Taken, match=r"10\.0\.0\.1:80 is cart/here-80's, which was renewed a moment ago") as caught:
            host.register(BANK)
        assert caught.value.path == "$.port"
        await trio.sleep(2)
        assert host.register({**BANK, "renew_within": "20s"}).replaced == ("cart/here-80",)
        with pytest.raises(Taken, match="bank/here-80's"):
            host.register(RUN)


async def test_a_port_that_is_not_to_be_taken(tmp_path: Path) -> None:
    """Another user's, one that agent.toml declares, one that was put by hand; an operator takes another user's."""
    declared = '[[instances]]\nservice = "declared"\nport = 90\nhealth = {ttl = "1h"}\n'
    async with running(Host(tmp_path, settings=declared)) as host:
        host.registrar.load()
        host.see({"instances/hand/x": {"address": "10.0.0.1", "port": 91}})
        host.register({"service": "cart", "port": 80, "health": TTL_CHECK}, uid=1000)
        for port, reason in ((80, "belongs to"), (90, "agent.toml declares"), (91, "delete instances/hand/x first")):
            with pytest.raises(Taken, match=reason):
                host.register({**BANK, "port": port}, uid=1001)
        for port in (90, 91):
            with pytest.raises(Taken):
                host.register({**BANK, "port": port}, uid=0, operates=True)
        assert host.register(BANK, uid=0, operates=True).replaced == ("cart/here-80",)


async def test_agent_toml_takes_a_port_from_what_was_registered(tmp_path: Path) -> None:
    """Which stood on the disk; of two that it declares itself the second is refused."""
    async with running(Host(tmp_path)) as host:
        host.register(BANK)
    both = "".join(f'[[instances]]\nservice = "{name}"\nport = 80\nhealth = {{ttl = "1h"}}\n' for name in "ab")
    host = Host(tmp_path, settings=both)
    host.registrar.load()
    assert set(host.registrar.local) == {("a", "here-80")}


async def test_other_hosts_loopback_is_another_place(tmp_path: Path) -> None:
    """127.0.0.1:80 of another host's agent is not ours."""
    async with running(Host(tmp_path)) as host:
        host.see(
            {
                "agents/there": {"address": "10.0.0.2", "inbound_port": 15006},
                "instances/cart/x": {"address": "127.0.0.1", "port": 80, "agent": "there"},
            }
        )
        assert host.register({**BANK, "address": "127.0.0.1"}).replaced == ()


async def test_a_renewal_ends_no_draining(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """The agent stops, and `shoal run` goes on saying its registration: nobody is sent there again, and it is not taken
    for one that nobody renews."""
    async with running(Host(tmp_path)) as host:
        host.register(RUN)
        await host.until("instances/cart/here-80", lambda record: record and record.get("state") is None)
        host.registrar.leave()
        for _ in range(20):
            host.register(RUN)
            await trio.sleep(2)
            assert (await host.value("instances/cart/here-80"))["state"] == "draining"
        assert CART in host.registrar.local


@pytest.mark.parametrize(
    ("told", "healthy", "before"),
    [
        ((False, "not checked yet"), True, "not checked"),
        ((True, "not checked yet"), False, "not checked"),
        ((False, "connection refused"), True, "unhealthy"),
        ((True, "known from before"), False, "healthy"),
        (None, False, "healthy"),
    ],
)
def test_what_an_instance_was_before(told: tuple[bool, str] | None, healthy: bool, before: str) -> None:
    """A first verdict is no recovery: events say so."""
    assert state_before(told, healthy) == before
