"""Which instances of a host others reach around its agent."""

from __future__ import annotations

import ipaddress

import pytest

from agent.control.instances.exposed import MOST, Exposed
from agent.control.instances.registration import Identity, Local
from agent.ports import Ports
from agent.process.listening import Listener
from registry.records import Instance


def local(port: int, address: str = "127.0.0.1") -> Local:
    return Local(Instance(address=address, port=port), None, "admin")


def look(instances: dict[Identity, Local], listening: list[Listener], *guarded: int | str) -> dict[str, str]:
    return Exposed(instances, Ports(guarded), lambda: listening).look()


def listener(address: str, port: int = 8080, *, only_6: bool = False) -> Listener:
    return Listener(ipaddress.ip_address(address), port, only_6)


@pytest.mark.parametrize(
    ("listening", "told"),
    [
        ([], {}),
        ([listener("127.0.0.1")], {}),
        ([listener("0.0.0.0", 8081)], {}),
        ([listener("0.0.0.0")], {"pets/a": "0.0.0.0:8080"}),
        ([listener("::")], {"pets/a": "[::]:8080"}),
        ([listener("::", only_6=True)], {}),  # another program's, for all that is known
        ([listener("127.0.0.1"), listener("10.1.2.3")], {}),
    ],
)
def test_what_others_reach_is_told(listening: list[Listener], told: dict[str, str]) -> None:
    """Where the socket that the agent itself would dial takes other hosts' connections too."""
    assert look({("pets", "a"): local(8080)}, listening) == told


def test_what_is_kept_or_is_not_here_is_not_told() -> None:
    """Ports that the settings name for the guard; instances at an address of another network."""
    instances = {("pets", "a"): local(8080), ("pets", "b"): local(8081, "192.0.2.7"), ("pets", "c"): local(8082)}
    listening = [listener("0.0.0.0", port) for port in (8080, 8081, 8082)]
    assert look(instances, listening, "8079-8080") == {"pets/c": "0.0.0.0:8082"}


def test_a_record_of_them_stays_small() -> None:
    """Of very many the first are told."""
    instances = {("pets", str(n)): local(8080) for n in range(MOST + 50)}
    assert len(look(instances, [listener("0.0.0.0")])) == MOST
