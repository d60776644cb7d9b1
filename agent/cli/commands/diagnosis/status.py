"""`shoal status`: the agents and what each runs, the hosts that were lost, etcd, and what is not in force."""

from __future__ import annotations

import math
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from agent.cli.failure import Exit, Failure
from agent.cli.local_agent import Local, local_agent
from agent.cli.options import Options
from agent.cli.printing import Printer, Row, age, field
from agent.findings.of_agent import lost_words
from agent.findings.of_mesh.enforcing import Text, Unable, silence, unable

if TYPE_CHECKING:
    from registry.census import Census
    from registry.records import Rejection
    from registry.store import Store

ASKED = 3
"""How often etcd is asked how quick it is, once there is a connection: the quickest is the least of it our own time."""
MAX_UNDELIVERED = 5
"""Events that `shoal status` names; `shoal events` has them all."""
MAX_JUDGED = 30
"""Pairs of verdicts that it names; `/metrics` has them all."""


def status(context: typer.Context) -> None:
    """Show the agents, the revision that each one's workers run, the state of etcd, and policies that were refused.

    Exit code 1 when no agent is alive, one was lost, lags or cannot enforce a policy, that of this host does not
    answer, is not ready or has an instance whose id another has, a policy is refused or held, or a key cannot be read.
    """
    options: Options = context.obj
    here = local_agent(options)
    local = here.state
    try:
        census, etcd = _asked(options)
    except Failure as failure:
        _show_alone(options.printer, local, failure)
        raise
    told = status_of(census, etcd, here, now=time.time())
    if options.printer.json:
        options.printer.value(told)
    else:
        _show(options.printer, told)
    wrong = told["refused"] or told["held"] or told["not_enforced"] or told["malformed"]
    agents_well = told["agents"] and all(agent["state"] == "current" for agent in told["agents"])
    if wrong or not agents_well or here.why or _not_ready(local) or (local and local.get("instances_refused")):
        raise typer.Exit(Exit.NO)


def _not_ready(local: dict[str, Any] | None) -> str:
    """Why the agent on this host is not; empty where it is, or there is none."""
    return str(local["not_ready"]) if local is not None else ""


def status_of(census: Census, etcd: dict[str, Any], here: Local, now: float) -> dict[str, Any]:
    """Everything that `shoal status` says. `now` is Unix time."""
    local = here.state
    lost = {each["host"]: each for each in (local or {}).get("lost", []) if each["host"] not in census.agents}
    alive = [_agent_row(census, host, now) for host in census.agents]
    return {
        "etcd": etcd,
        "revision": census.revision,
        "newest": census.wanted,
        "agents": sorted([*alive, *map(_lost_row, lost.values())], key=lambda row: str(row["host"])),
        "lost": list(lost.values()),
        "local": local,
        "local_error": here.why,
        "refused": [
            {
                "policy": f"{kind}/{service}",
                "revision": r.revision,
                "path": r.path,
                "reason": r.reason,
                "at": r.at,
                "last_good": r.last_good,
            }
            for (kind, service), r in sorted([*census.rejected.items(), *_audits(census)])
        ],
        "not_enforced": msgspec.to_builtins(_not_enforced(census)),
        "silent": silence(census),
        "held": [
            {"policy": f"{kind}/{service}", "revision": h.revision, "stands": h.stands, "reason": h.reason, "at": h.at}
            for (kind, service), h in sorted(census.held.items())
        ],
        "shares": _shares(census),
        "keys": _keys(census),
        "undelivered": [
            {"event": id, "type": str(record.event.get("type", "")), "hooks": record.done}
            for id, record in sorted(census.undelivered.items())
        ],
        "malformed": [{"key": key, "reason": reason} for key, reason in sorted(_malformed(census).items())],
    }


def _shares(census: Census) -> list[dict[str, str]]:
    """Where routes lead and nobody is."""
    from agent.findings.of_mesh.documents import of_shares
    from agent.findings.of_mesh.facts import Facts

    return [{"where": found.where, "what": found.what} for found in of_shares(Facts(census=census))]


def _keys(census: Census) -> list[dict[str, str]]:
    """Who writes elsewhere than the mesh says."""
    from agent.findings.of_mesh.facts import Facts
    from agent.findings.of_mesh.layout import of_layout

    return [{"where": found.where, "what": f"{found.what}; {found.next}"} for found in of_layout(Facts(census=census))]


def _audits(census: Census) -> list[tuple[tuple[str, str], Rejection]]:
    return [((f"audits/{kind}", service), found) for (kind, service), found in census.audits_rejected.items()]


def _malformed(census: Census) -> dict[str, str]:
    """What cannot be read, and keys of policies that name nothing and that no agent has refused so far."""
    untold = {place: found.reason for place, found in census.misnamed.items() if place not in census.rejected}
    return census.malformed | {f"policies/{kind}/{service}": reason for (kind, service), reason in untold.items()}


def _not_enforced(census: Census) -> list[Unable]:
    documents = [Text(policy.kind, policy.service, policy.text) for policy in census.policies.values()]
    return sorted(unable(census, documents), key=lambda found: (found.policy, found.hosts))


def _agent_row(census: Census, host: str, now: float) -> Row:
    agent, ack = census.agents[host], census.acks.get(host)
    runs = ack.revision if ack else 0
    return {
        "host": host,
        "address": agent.address,
        "zone": agent.zone,
        "version": agent.version,
        "up": _age_of(agent.started, now),
        "workers": len(ack.workers) if ack else 0,
        "runs": runs,
        "instances": sum(instance.agent == host for instance in census.instances.values()),
        "state": "current" if runs >= census.wanted else "lagging",
    }


def _lost_row(lost: dict[str, Any]) -> Row:
    """As that of an agent, of one that is not there: of it the agent on this host knows."""
    blank = {"zone": "", "version": "", "up": None, "workers": 0, "runs": 0}
    return {"host": lost["host"], "address": lost["address"], **blank, "instances": lost["suspects"], "state": "lost"}


def _age_of(timestamp: str, now: float) -> float | None:
    """Seconds since an RFC 3339 time; None where there is none that can be read."""
    try:
        return max(0.0, now - datetime.fromisoformat(timestamp).timestamp())
    except ValueError:
        return None


def _asked(options: Options) -> tuple[Census, dict[str, Any]]:
    """The census, and how etcd answered."""
    from agent.cli.etcd_client import ask
    from registry.census import take
    from registry.keys import Keys

    async def look(store: Store) -> tuple[Census, float]:
        census = await take(store, options.mesh)
        layout, took_s = Keys(options.mesh).layout, math.inf
        for _ in range(ASKED):
            began = time.monotonic()
            await store.range(layout, f"{layout}\0")
            took_s = min(took_s, time.monotonic() - began)
        return census, took_s

    census, took_s = ask(options, look)
    members = ask(options, lambda _: _members(options))
    return census, {"endpoints": list(options.etcd), "answered_in_s": round(took_s, 4), "members": members}


async def _members(options: Options) -> list[dict[str, str]]:
    """What each endpoint runs, and what is known to be wrong with that."""
    from agent.cli.etcd_client import settings_of
    from registry.etcd.members import members
    from registry.etcd.releases import warning

    return [
        {"url": member.url, "error": member.error}
        if member.error
        else {"url": member.url, "version": member.version, "warning": warning(member.version, member.url)}
        for member in await members(settings_of(options))
    ]


def _show_alone(printer: Printer, local: dict[str, Any] | None, failure: Failure) -> None:
    """etcd is away: what the agent on this host knows is better than nothing."""
    if local is None:
        return
    if printer.json:
        printer.value({"etcd": {"error": failure.message}, "local": local})
        return
    table = local["table"]
    if table["age_s"] is None:
        printer.text(f"etcd is away; the agent on {local['host']} has never heard of it, and serves nothing")
        return
    printer.text(
        f"etcd is away; the agent on {local['host']} serves revision {table['revision']}, {age(table['age_s'])} old: "
        f"{table['services']} services, {table['instances']} instances, {table['policies']} policies"
    )


def _heard(age_s: float | None) -> str:
    return "has never heard of etcd" if age_s is None else f"heard of etcd {age(age_s)} ago"


def _built(local: dict[str, Any]) -> str:
    """What the running agent is, which need not be what this command is."""
    from agent.build import COMPILED, COST

    told: str = local.get("build", "of a version before builds were told")
    return told if told == COMPILED or "build" not in local else f"{told}, {COST}: {local['build_reason']}"


def _instead(refused: dict[str, Any]) -> str:
    """What is in force in place of a refused policy."""
    from policies.catalogue import BY_NAME

    if refused["last_good"] > 0:
        return f"that of revision {refused['last_good']} stays in force"
    if refused["last_good"] == 0:
        return "there was none before, and there is none"
    kind = refused["policy"].partition("/")[0]
    guards = kind in BY_NAME and BY_NAME[kind].fails_closed
    return f"what was before it is not known, {'so requests are refused' if guards else 'and counts as none'}"


def _show(printer: Printer, told: dict[str, Any]) -> None:
    etcd, local = told["etcd"], told["local"]
    answered_ms = etcd["answered_in_s"] * 1000
    printer.text(
        f"etcd      {', '.join(etcd['endpoints'])}: answered in {answered_ms:.1f} ms, revision {told['revision']}"
    )
    for member in etcd["members"]:
        if said := member.get("warning") or member.get("error"):
            printer.text(f"etcd      {said if 'warning' in member else member['url'] + ': ' + said}")
    printer.text(f"newest    revision {told['newest']} is what agents should run")
    if local is not None:
        table, heard = local["table"], _heard(local["table"]["age_s"])
        printer.text(f"here      {local['host']}: table of revision {table['revision']}, {heard}, {_built(local)}")
        if lacking := local["etcd"].get("not_allowed"):
            printer.text(f"here      etcd does not let this agent write {' '.join(lacking)}: see `shoal check`")
        if why := _not_ready(local):
            printer.text(f"here      not ready: {why}")
        has = local.get("descriptors", {"connections": 0, "connections_wanted": 0})
        if has["connections"] < has["connections_wanted"]:
            printer.text(
                f"here      descriptors for {has['connections']} connections of each listener, not for "
                f"{has['connections_wanted']}: raise LimitNOFILE, or lower limits.max_connections"
            )
        for left_out in local.get("instances_refused", []):
            printer.text(f"instance  {left_out['service']}/{left_out['id']}: not in the mesh: {left_out['reason']}")
        for unable_one in local.get("checks_unable", []):
            printer.text(f"check     {unable_one['service']}/{unable_one['id']}: {unable_one['reason']}")
    elif told["local_error"]:
        printer.text(f"here      {told['local_error']}")
    else:
        printer.text("here      no agent is on this host; one that runs knows which hosts were lost (--admin)")
    if told["agents"]:
        names = list(told["agents"][0])
        columns = {name: field(name) for name in names}
        columns["up"] = lambda row: "-" if row["up"] is None else age(row["up"])
        printer.rows(told["agents"], columns, empty="")
    else:
        printer.note("no agent is alive in this mesh")
    for lost in told["lost"]:
        printer.text(f"lost      {lost['host']}: {lost_words(lost)}")
    for event in local["standing"] if local is not None else []:
        what = f"{event['service']}/{event['endpoint']}" if event["endpoint"] else event["service"]
        audit = " (audit)" if event["audit"] else ""
        printer.text(f"{event['kind']:9} {what} {event['after']}{audit}: {event['reason']}")
    for topic in local["topics"] if local is not None else []:
        if said := topic["problem"] or topic["broker_refused"] or topic["warning"]:
            printer.text(f"topic     {topic['url']}: {topic['waiting']} wait on this host: {said}")
    for sink in local.get("records", []) if local is not None else []:
        if sink["trouble"]:
            dropped = sum(sink["lost"].values())
            printer.text(f"records   {sink['name']}: {dropped} lost: {sink['trouble']}")
    for judged in local.get("judged", [])[:MAX_JUDGED] if local is not None else []:
        document = f"{judged['kind']}/{judged['document']}"
        printer.text(
            f"audit     {judged['service']}: {judged['requests']} {judged['done']}; "
            f"by {document} would have been: {judged['would']} (on this host; others judge theirs)"
        )
    for refused in told["refused"]:
        printer.text(f"refused   {refused['policy']}: {refused['path']}: {refused['reason']}; {_instead(refused)}")
    for share in told["shares"]:
        printer.text(f"route     {share['where'].removeprefix('route/')}: {share['what']}")
    for moving in told["keys"]:
        printer.text(f"keys      {moving['where']}: {moving['what']}")
    for unable_ones in told["not_enforced"]:
        printer.text(f"version   {Unable(**unable_ones)}")
    if told["silent"]:
        printer.text(f"version   {told['silent']}")
    for held in told["held"]:
        kept = f"that of revision {held['revision']} is in force" if held["revision"] else "none is in force"
        printer.text(f"held      {held['policy']}: {kept}, against what etcd says: {held['reason']}")
    if told["held"]:
        printer.text("held      if etcd is right, say so with `shoal mesh accept`; else put them again")
    for untold in told["undelivered"][:MAX_UNDELIVERED]:
        hooks = "; ".join(f"{hook}: {outcome}" for hook, outcome in untold["hooks"].items())
        printer.text(f"undelivered {untold['type'].removeprefix('io.shoal.')} {untold['event']}: {hooks}")
    if len(told["undelivered"]) > MAX_UNDELIVERED:
        printer.text(f"undelivered {len(told['undelivered']) - MAX_UNDELIVERED} more; see `shoal events`")
    for malformed in told["malformed"]:
        printer.text(f"malformed {malformed['key']}: {malformed['reason']}")
