"""Whose an instance is: tokens, users, and the commands that check it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.control.instances.registration import (
    NotYours,
    TooMany,
)
from agent.control.instances.tokens import digest
from agent.identity.users import User
from tests.support.proxy import listening
from tests.support.registering import PETS, TTL_CHECK, Host, running


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
