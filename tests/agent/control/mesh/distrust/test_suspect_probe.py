from __future__ import annotations

import errno
import json

import pytest
import trio

from agent.control.mesh.distrust import suspect_probe
from agent.control.mesh.distrust.suspect_probe import Found, probe_suspects
from agent.control.mesh.table import Table
from registry.keys import Keys
from registry.store import Change
from tests.support.proxy import listening, refusing_port

KEYS = Keys()


def instance(port: int, agent: str) -> bytes:
    return json.dumps({"address": "127.0.0.1", "port": port, "agent": agent}).encode()


def emptied(**endpoints: tuple[str, int]) -> Table:
    """A table whose instances all vanished at once."""
    table = Table(KEYS, "here")
    keys = {KEYS.instance(service, "a"): at for service, at in endpoints.items()}
    records = {key: json.dumps({"address": at[0], "port": at[1]}).encode() for key, at in keys.items()}
    table.apply([Change(key, value, 2) for key, value in records.items()], 2)
    table.apply([Change(key, None, 3) for key in keys], 3, now_s=trio.current_time())
    assert len(list(table.suspects)) == len(endpoints)
    return table


async def probed(table: Table, rounds: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is dropped in so many rounds."""
    dropped: list[tuple[str, str]] = []
    done = 0

    def drop(found: Found) -> None:
        nonlocal done
        for service, identity in found[0]:
            dropped.append((service, identity))
            table.drop_suspect(service, identity)
        for (service, identity), place in found[1]:
            table.dial_suspect(service, identity, place)
        done += 1
        if done == rounds:
            nursery.cancel_scope.cancel()

    monkeypatch.setattr(suspect_probe, "EVERY_S", 0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(probe_suspects, table, drop)
    return dropped


async def test_who_refuses_is_dropped_and_who_accepts_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is the host's own word; an accepted one keeps the endpoint, round after round."""
    sock, port = listening()
    with sock:
        table = emptied(alive=("127.0.0.1", port), gone=("127.0.0.1", refusing_port()))
        dropped = await probed(table, 5, monkeypatch)
    assert dropped == [("gone", "a")]
    assert [suspect.service for suspect in table.suspects] == ["alive"]


async def test_silence_is_believed_after_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """No route and no answer may be about us: not the first such probe drops an endpoint, but the third."""

    async def no_answer(address: str, port: int) -> suspect_probe.Answer:
        return suspect_probe.Answer.NONE

    monkeypatch.setattr(suspect_probe, "_ask", no_answer)
    table = emptied(a=("192.0.2.1", 1), b=("192.0.2.1", 2))
    assert await probed(table, 2, monkeypatch) == []
    assert sorted(await probed(table, 3, monkeypatch)) == [("a", "a"), ("b", "a")]


async def test_an_unreachable_network_is_no_refusal() -> None:
    """Where we cannot even send, we have learnt nothing about the instance."""
    assert await suspect_probe._ask("255.255.255.255", 1) is suspect_probe.Answer.NONE
    assert await suspect_probe._ask("127.0.0.1", refusing_port()) is suspect_probe.Answer.REFUSED


async def test_a_suspect_is_dialled_where_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """By way of its owner's agent as long as that answers, else at its own address; the agent that is gone is no agent
    any more; and whoever is refused by both is gone at once."""
    at, own = listening()
    table = Table(KEYS, "here")
    places = {"alive": own, "gone": refusing_port()}
    records = {KEYS.instance(name, "a"): instance(port, "there") for name, port in places.items()}
    records[KEYS.agent("there")] = json.dumps({"address": "127.0.0.1", "inbound_port": refusing_port()}).encode()
    table.apply([Change(key, value, 2) for key, value in records.items()], 2)
    table.apply([Change(key, None, 3) for key in records], 3, now_s=trio.current_time())
    assert table.frame("alive").endpoints[0].via
    assert table.agents_frame().addresses == {"there": "127.0.0.1"}
    with at:
        dropped = await probed(table, 2, monkeypatch)
    assert sorted(dropped) == [("", "there"), ("gone", "a")]
    (endpoint,) = table.frame("alive").endpoints
    assert (endpoint.dial_port, endpoint.via, endpoint.suspect) == (own, False, True)
    assert table.agents_frame().addresses == {}


async def test_a_failure_of_our_own_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without descriptors nobody can be asked, and nobody is dropped for it."""

    def no_descriptors(family: int) -> trio.socket.SocketType:
        raise OSError(errno.EMFILE, "Too many open files")

    table = emptied(a=("127.0.0.1", refusing_port()), b=("127.0.0.1", refusing_port()))
    with monkeypatch.context() as patched:
        patched.setattr(trio.socket, "socket", no_descriptors)
        assert await probed(table, 5, patched) == []
    assert len(table.suspects) == 2
