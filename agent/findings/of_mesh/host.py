"""This host: its agent, by its own word."""

from __future__ import annotations

from collections.abc import Iterator

from agent.findings.finding import Finding
from agent.findings.of_agent import of_agent
from agent.findings.of_mesh.facts import Facts


def of_local_agent(facts: Facts) -> Iterator[Finding]:
    """Whether it is there, serves, and can do what it was asked for."""
    local = facts.local
    if local is None and not facts.place:
        return
    if local is None:
        start = "`shoal agent` starts one; --admin names another place"
        what = "no agent answers on this host, and so none is asked what is wrong with it, nor which hosts were lost"
        if facts.local_error:
            yield Finding("no-local-agent", "error", facts.place, what, start)
        else:
            yield Finding("no-local-agent", "info", facts.place, what, start)
        return
    host = str(local["host"])
    if local["mesh"] != facts.mesh:
        say = f"--mesh {local['mesh']}, or change `mesh` in its agent.toml"
        yield Finding("other-mesh", "warning", host, f"the agent here is of the mesh {local['mesh']!r}", say)
    yield from of_agent(local)
