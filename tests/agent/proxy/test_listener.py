"""What clients of one listener may take, so that those of the other have theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from agent.frames import Limits, Where
from agent.proxy.budget import LOOKED_AT
from agent.proxy.peer import peer_at
from agent.proxy.report.state import metrics
from tests.support.conversation import POST
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import AGENT, GET, STRANGER, Client, Proxy, always_ok, endpoint, running_proxy

A, B, C = "10.0.0.7", "10.0.0.8", "2001:db8::9"


def busy(client: Wire) -> Wire:
    """A request of it is under way."""
    return client >> POST


def served(client: Wire) -> Wire:
    """It had a request, and may have another."""
    client >> b"OPTIONS * HTTP/1.1\r\nHost: nobody.nowhere\r\n\r\n"
    return client << b"HTTP/1.1 404 ..."


def is_full(client: Wire) -> bool:
    """Whether it was told so at once."""
    told = client.closed and client.heard.startswith(b"HTTP/1.1 503")
    client.heard = b""
    return told


@contextmanager
def small(most: int) -> Iterator[Playbook]:
    with Playbook() as play:
        play.worker.limits = Limits(max_connections=most)
        play.put("one", "two")
        yield play


@pytest.mark.parametrize("inbound", [True, False])
def test_a_part_is_for_agents_and_this_host(inbound: bool) -> None:
    """However many requests outsiders have under way, of however many addresses."""
    with small(8) as play:
        taken = [busy(play.client(inbound=inbound, peer=f"10.0.0.{n}")) for n in range(6)]
        assert is_full(play.client(inbound=inbound, peer=A))
        near = [busy(play.client(inbound=inbound, peer=peer)) for peer in ("127.0.0.1", "::1")]
        assert is_full(play.client(inbound=inbound, peer="127.0.0.1"))
        assert not any(each.closed for each in (*taken, *near))


@pytest.mark.parametrize("inbound", [True, False])
@pytest.mark.parametrize("address", [A, C])
def test_one_address_has_its_share(inbound: bool, address: str) -> None:
    """Half of what there is for outsiders: others find a place. When its connections go, it may have others."""
    with small(8) as play:
        taken = [busy(play.client(inbound=inbound, peer=address)) for _ in range(3)]
        assert is_full(play.client(inbound=inbound, peer=address))
        others = [busy(play.client(inbound=inbound, peer=B)) for _ in range(3)]
        assert not any(each.closed for each in others)
        taken[0].ends()
        assert not busy(play.client(inbound=inbound, peer=address)).closed


@pytest.mark.parametrize("inbound", [True, False])
@pytest.mark.parametrize("said", [b"", b"GET /"], ids=["silent", "slowly speaking"])
def test_who_has_no_head_makes_way_the_oldest_first(inbound: bool, said: bytes) -> None:
    """A slowloris sends its own connections away, and nobody else's."""
    with small(8) as play:
        first = busy(play.client(inbound=inbound, peer=A))
        slow = [play.client(inbound=inbound, peer=f"10.0.1.{n}") for n in range(5)]
        for each in slow if said else ():
            assert each >> said
        late = [play.client(inbound=inbound, peer=f"10.0.2.{n}") for n in range(2)]
        assert [each.closed for each in slow] == [True, True, False, False, False]
        assert slow[0].heard.startswith(b"HTTP/1.1 503" if said else b"") and bool(slow[0].heard) == bool(said)
        assert not busy(late[0]).closed and not first.closed
        budget = play.worker.inbound if inbound else play.worker.outbound
        assert (budget.made_way, budget.outsiders, budget.open) == (2, 6, 6)
        assert metrics(play.worker)["connections"]["made_way"] == 2


def test_who_floods_from_one_address_sends_away_his_own() -> None:
    """And not those of others that are older."""
    with small(16) as play:
        other = play.client(inbound=True, peer=B)
        flood = [play.client(inbound=True, peer=A) for _ in range(20)]
        assert not other.closed
        assert [each.closed for each in flood] == [True] * 14 + [False] * 6


@pytest.mark.parametrize("inbound", [True, False])
def test_who_is_between_two_requests_makes_way_after_them(inbound: bool) -> None:
    """A first request is no ticket to stay; one that is under way is."""
    with small(8) as play:
        kept = [served(play.client(inbound=inbound, peer=f"10.0.1.{n}")) for n in range(3)]
        working = [busy(served(play.client(inbound=inbound, peer=f"10.0.3.{n}"))) for n in range(2)]
        slow = play.client(inbound=inbound, peer="10.0.2.1")
        late = [busy(play.client(inbound=inbound, peer=f"10.0.4.{n}")) for n in range(4)]
        assert slow.closed and all(each.closed for each in kept)
        assert not any(each.closed for each in (*working, *late))
        assert is_full(play.client(inbound=inbound, peer=A))


def test_outsiders_make_way_for_this_host_and_never_the_other_way_round() -> None:
    """Also where this host's own connections took what outsiders could have had."""
    with small(8) as play:
        own = [play.client(peer="127.0.0.1") for _ in range(4)]
        out = [play.client(peer=A), play.client(peer=B), play.client(peer=A), play.client(peer=B)]
        more = [busy(play.client(peer="127.0.0.1")) for _ in range(3)]
        assert [each.closed for each in out] == [True, True, True, False]
        assert busy(out[3]) and is_full(play.client(peer=A))
        assert not any(each.closed for each in (*own, *more))
        assert not busy(play.client(peer="127.0.0.1")).closed
        assert own[0].closed and not own[1].closed


@pytest.mark.parametrize("said", [POST, POST[:9]], ids=["whole", "in part"])
@pytest.mark.parametrize("first", [True, False])
def test_what_came_and_was_not_read_yet_counts(first: bool, said: bytes) -> None:
    """A burst of clients: those accepted last do not cut those whose request is here already."""
    with small(2) as play:
        early = play.client()
        if not first:
            served(early)
        early._said.append(said)
        other = busy(play.client())
        late = play.client()
        assert early.closed is (said != POST) and is_full(late) is (said == POST)
        assert early.heard.startswith(b"" if said == POST else b"HTTP/1.1 503") and not other.closed


def test_one_that_has_gone_makes_room_by_itself() -> None:
    """Though nobody has looked yet."""
    with small(2) as play:
        gone, other = play.client(), busy(play.client())
        gone._said.append(b"")
        late = play.client()
        assert gone.closed and not late.closed and not other.closed
        assert (play.worker.outbound.made_way, play.worker.outbound.open) == (0, 2)


def test_many_that_work_do_not_hide_one_that_waits() -> None:
    """They are looked at a few at a time, each once before any is looked at again."""
    with small(400) as play:
        working = [busy(play.client(peer=AGENT)) for _ in range(300)]
        waiting = served(play.client(peer=AGENT))
        working += [busy(play.client(peer=AGENT)) for _ in range(99)]
        found = []
        for _ in range(400 // LOOKED_AT + 1):
            late = play.client(peer=AGENT)
            found.append(not late.closed)
            if found[-1]:
                busy(late)
        assert waiting.closed and sum(found) == 1
        assert not any(each.closed for each in working)


@pytest.mark.parametrize(("most", "outsiders"), [(1, 1), (2, 1), (4, 1), (5, 1), (6, 2)])
def test_small_budgets(most: int, outsiders: int) -> None:
    """An outsider is served by the smallest agent, too."""
    with small(most) as play:
        clients = [busy(play.client(inbound=True, peer=A)) for _ in range(1)]
        clients += [play.client(inbound=True, peer=A) for _ in range(9)]
        assert sum(not each.closed for each in clients) == outsiders


def test_an_agent_is_no_outsider() -> None:
    """By where it is registered; and whoever it was when it came, leaves."""
    with small(4) as play:
        play.worker.agents.learn({"another": A}, "here")
        agents = [busy(play.client(inbound=True, peer=A)) for _ in range(4)]
        assert not any(each.closed for each in agents) and play.worker.inbound.outsiders == 0
        play.worker.agents.learn({}, "here")
        for each in agents:
            each.ends()
        assert (play.worker.inbound.open, play.worker.inbound.outsiders) == (0, 0)


@pytest.mark.parametrize(
    ("peer", "found"),
    [("10.0.0.5", "10.0.0.5"), ("::ffff:10.0.0.5", "10.0.0.5"), ("::1", "::1"), ("::ffff:a:1", "::ffff:a:1")],
)
def test_an_ipv4_client_of_an_ipv6_socket(peer: str, found: str) -> None:
    """Has the address that it has: for loopback, for agents, and for X-Forwarded-For."""
    assert peer_at(peer, None).address == found


async def flood(proxy: Proxy, count: int) -> list[Client]:
    """Connections of one stranger that say nothing."""
    return [await proxy.client(inbound=True, source=STRANGER) for _ in range(count)]


async def served_by(proxy: Proxy, *, inbound: bool) -> bool:
    client = await proxy.client(inbound=inbound)
    return (await client.ask(GET, b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_a_flood_of_strangers_locks_out_strangers_only() -> None:
    """With every connection that they may have taken, local services and agents are served; a further stranger is, too,
    and the flood's oldest has gone."""
    async with running_proxy(max_connections=20) as proxy:
        proxy.worker.table.host = "here"
        proxy.put(endpoint(await proxy.upstream(always_ok), agent="here"))
        taken = await flood(proxy, 30)
        with trio.fail_after(60):
            while proxy.worker.inbound.made_way < 23:
                await trio.sleep(0.005)
        assert proxy.worker.inbound.outsiders == 7
        for client in taken[:23]:
            assert await client.rest() == b""
        assert await served_by(proxy, inbound=False) and await served_by(proxy, inbound=True)
        client = await proxy.client(inbound=True, source="127.0.0.99")
        assert (await client.ask(GET)).endswith(b"ok")
        assert (await taken[29].ask(GET)).endswith(b"ok")


async def test_who_says_nothing_is_cut() -> None:
    """After the time for a head, and the place is free again."""
    async with running_proxy(max_connections=8, head_s=0.1) as proxy:
        for client in await flood(proxy, 3):
            assert await client.rest() == b""
        assert proxy.worker.inbound.open == proxy.worker.inbound.outsiders == 0


async def test_requests_before_the_first_table_wait_apart() -> None:
    """As many as strangers may have waiting, local services have their own."""
    async with running_proxy(max_waiting=2) as proxy:
        proxy.worker.table.host = "here"
        clients = await flood(proxy, 3)
        for client in clients:
            await client.send(GET)
        with trio.fail_after(60):
            while proxy.worker.refused != {"agent": 1}:
                await trio.sleep(0.005)
        local = await proxy.client()
        await local.send(GET)
        with trio.fail_after(60):
            while proxy.worker.outbound.waiting < 1:
                await trio.sleep(0.005)
        proxy.put(endpoint(await proxy.upstream(always_ok), agent="here"))
        assert (await local.until(b"ok")).startswith(b"HTTP/1.1 200")
        assert proxy.worker.inbound.waiting == proxy.worker.outbound.waiting == 0


async def test_what_an_agent_said_before_the_first_table_is_believed() -> None:
    """Who it is is known with the table, and its words are judged then."""
    async with running_proxy() as proxy:
        proxy.worker.agents.learn({}, "here")
        proxy.worker.table.host = "here"
        client = await proxy.client(inbound=True)
        await client.send(GET[:-2] + b"X-Shoal-Endpoint: pets.production/two\r\n\r\n")
        with trio.fail_after(60):
            while proxy.worker.inbound.waiting < 1:
                await trio.sleep(0.005)
        proxy.worker.take(Where("here", {"another": "127.0.0.1"}))
        proxy.put(endpoint(await proxy.upstream(always_ok), "one", agent="here"))
        assert b"pets.production/two is not on this host" in await client.until(b"}\n")
