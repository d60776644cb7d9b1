"""Gathers the facts that checks are given: from etcd, from the agent on this host, and from the host."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from agent.cli.agent_client import API
from agent.cli.commands.network.guard_rules import TABLE
from agent.cli.etcd_client import ask, settings_of
from agent.cli.failure import Failure
from agent.cli.local_agent import local_agent
from agent.findings.alerts import Alert, alerts
from agent.findings.finding import Finding
from agent.findings.of_figures import LAST_S, Signals, of_figures
from agent.findings.of_mesh.checks import findings
from agent.findings.of_mesh.facts import Facts
from registry.census import around, take, trust_domain
from registry.etcd.members import members

if TYPE_CHECKING:
    from agent.cli.options import Options
    from registry.store import Store

MOST: Final = 1000
"""Findings of agents."""
WITHIN_S: Final = 4
"""In which they answer, or are said not to."""


def looked(options: Options) -> tuple[Facts, list[Alert]]:
    """All there is to know, and what is wrong, the worst first. Raises Failure when etcd cannot be asked."""
    facts = facts_of(options)
    told, missing, failing = said_by_agents(options, facts.local)
    return facts, alerts([*findings(facts), *failing], told, missing)


def facts_of(options: Options) -> Facts:
    """All there are. Raises Failure when etcd cannot be asked."""
    return ask(options, lambda store: _facts(store, options))


async def _facts(store: Store, options: Options) -> Facts:
    here = local_agent(options)
    census = await take(store, options.mesh)
    census.trust_domain = await trust_domain(store, options.mesh)
    strangers, meshes, not_seen = await around(store, options.mesh)
    return Facts(
        census=census,
        mesh=options.mesh,
        now=time.time(),
        members=await members(settings_of(options), more=True),
        authenticated=getattr(store, "authenticated", None),
        strangers=strangers,
        meshes=meshes,
        not_seen=not_seen,
        local=here.state,
        local_error=here.why,
        suspects=frozenset((each["service"], each["id"]) for each in (here.state or {}).get("suspects", [])),
        place=options.admin.place,
        guard=_guard_stands(),
    )


def said_by_agents(options: Options, local: dict[str, Any] | None) -> Said:
    """The agent on this host asks them all."""
    if local is None or local["mesh"] != options.mesh:
        return Said({}, {}, [])
    wide = [("scope", "mesh"), ("limit", str(MOST)), ("deadline_s", str(WITHIN_S))]
    try:
        page = options.admin.get(f"{API}/findings", wide)
        rows = msgspec.convert(page["items"], list[_Said])
        missing = {host: str(each["reason"]) for host, each in page.get("missing", {}).items()}
        figures = options.admin.get(f"{API}/figures", [*wide, ("sort", "errors"), ("last_s", str(LAST_S))])
        signals = [Signals(row["service"], row["requests"], row["errors"]) for row in figures["items"]]
    except (Failure, msgspec.ValidationError, LookupError) as error:
        return Said({}, {str(local["host"]): f"others could not be asked by it: {error}"}, [])
    told: dict[str, list[Finding]] = {}
    for row in rows:
        told.setdefault(row.host, []).append(Finding(row.id, row.severity, row.where, row.what, row.next))
    return Said(told, missing, list(of_figures(signals)))


class Said(NamedTuple):
    """What all agents say."""

    told: dict[str, list[Finding]]
    """By host: what it finds wrong with itself."""
    missing: dict[str, str]
    """Who says nothing, and why."""
    failing: list[Finding]
    """Services whose requests fail."""


class _Said(Finding, frozen=True):
    host: str = ""


def _guard_stands() -> bool | None:
    """Whether the rules of `shoal guard` are there; None: we may not look, or cannot."""
    program = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None or os.geteuid() != 0:
        return None
    words = [program, "list", "table", "inet", TABLE]
    try:
        done = subprocess.run(words, capture_output=True, timeout=5, check=False)  # noqa: S603 - words of ours
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and b"No such file" not in done.stderr:
        return None
    return not done.returncode
