"""This host: its agent, by its own word, and what strangers reach here."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from agent.cli.findings.facts import Facts
from agent.cli.findings.finding import Finding
from agent.findings.of_agent import of_agent


def of_local_agent(facts: Facts) -> Iterator[Finding]:
    """Whether it is there, serves, and can do what it was asked for."""
    local = facts.local
    if local is None and not facts.place:
        return
    if local is None:
        start = "`shoal agent` starts one; --admin names another place"
        yield Finding("no-local-agent", "info", facts.place, "no agent answers on this host", start)
        return
    host = str(local["host"])
    if local["mesh"] != facts.mesh:
        say = f"--mesh {local['mesh']}, or change `mesh` in its agent.toml"
        yield Finding("other-mesh", "warning", host, f"the agent here is of the mesh {local['mesh']!r}", say)
    yield from of_agent(local)


def of_open_ports(facts: Facts) -> Iterator[Finding]:
    """What is meant for this host, and can be reached from others; instances that can be reached around the mesh."""
    local = facts.local
    if local is None:
        return
    for listener in local.get("listeners", []):
        address, port, name = listener["address"], listener["port"], listener["name"]
        if name not in ("inbound", "metrics") and not ipaddress.ip_address(address).is_loopback:
            what = f"{_door(name)} (listens on {address}:{port})"
            yield Finding(
                "open-port",
                "warning",
                f"{local['host']} {name}",
                what,
                f'[{name}] listen = "127.0.0.1:{port}", or a firewall',
            )
    for (service, id), instance in sorted(facts.census.instances.items()):
        loopback = ipaddress.ip_address(instance.address).is_loopback
        if instance.agent == local["host"] and loopback and instance.port in facts.wide:
            what = f"reached around the mesh and its policies: port {instance.port} listens on every address"
            yield Finding("open-port", "info", f"{service}/{id}", what, f"let it listen on {instance.address}")


def _door(name: str) -> str:
    if name == "admin":
        return "other hosts may look at its state, metrics and explanations"
    return "other hosts may send requests into the mesh here"
