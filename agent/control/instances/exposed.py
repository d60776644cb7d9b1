"""Instances of this host that others reach around the agent, and so around every policy: pure, but for its default.

Law: told is what the kernel says of sockets that listen, where an instance of this host is dialled. Of one in another
network (a container's), and of what a firewall keeps away, nothing is known here; ports that the settings name for
`shoal guard` count as kept.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from agent.control.host.own_ports import is_here
from agent.control.instances.registration import Identity, Local
from agent.ports import Ports
from agent.process.listening import Listener, listeners

MOST: Final = 200
"""That are told, so that a record of them stays small."""


class Exposed:
    """Asked again and again; what it says is as of now."""

    def __init__(
        self,
        local: Mapping[Identity, Local],
        guarded: Ports,
        listening: Callable[[], Iterable[Listener]] = listeners,
    ) -> None:
        """`guarded`: ports that nobody but the agent reaches."""
        self._local = local
        self._guarded = guarded
        self._listening = listening

    def look(self) -> dict[str, str]:
        """By service/id: where it is reached from other hosts, such as 0.0.0.0:8080."""
        by_port: dict[int, list[Listener]] = {}
        for one in self._listening():
            if one.by_strangers:
                by_port.setdefault(one.port, []).append(one)
        found: dict[str, str] = {}
        for (service, id), local in sorted(self._local.items()):
            listening = by_port.get(local.record.port)
            if listening and local.record.port not in self._guarded and is_here(local.record.address):
                ip = ipaddress.ip_address(local.record.address)
                at = next((one for one in listening if one.reached_at(ip)), None)
                if at is not None and len(found) < MOST:
                    found[f"{service}/{id}"] = str(at)
        return found
