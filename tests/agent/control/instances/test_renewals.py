"""How long a registration lasts, and whose a port is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.control.instances.registration import (
    Taken,
    state_before,
)
from policies.language.plain import Flaw
from tests.support.registering import TTL_CHECK, Host, running

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
