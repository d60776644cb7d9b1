from __future__ import annotations

from agent.cli.running.instance import surroundings
from agent.surroundings import handed_on


def test_secrets_are_handed_on_to_nobody() -> None:
    """Not to workers and checks, and not to the program of `shoal run`; everything else is."""
    told = {"SHOAL_ETCD_PASSWORD": "a", "SHOAL_SECRET": "b", "SHOAL_HOOK_CHAT": "c", "SHOAL_ETCD": "d", "PATH": "e"}
    assert handed_on(told) == {"SHOAL_ETCD": "d", "PATH": "e"}
    given = surroundings(told, "http://127.0.0.1:15001", {"port": 80, "service": "pets", "id": "a"}, "127.0.0.1")
    assert not given.keys() & {"SHOAL_ETCD_PASSWORD", "SHOAL_SECRET", "SHOAL_HOOK_CHAT"}
