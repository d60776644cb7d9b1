"""`shoal services`, `instances` and `status`: what there is, and how it is."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from agent.cli.completion import services as completed
from agent.cli.enforcing import Text, Unable, silence, unable
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options
from agent.cli.printing import Printer, Row, age, field

if TYPE_CHECKING:
    from agent.cli.census import Census
    from registry.records import Rejection

MAX_UNDELIVERED = 5
"""Events that `shoal status` names; `shoal events` has them all."""
MAX_JUDGED = 30
"""Pairs of verdicts that it names; `/metrics` has them all."""


def services(context: typer.Context) -> None:
    """List the services, their instances and the policies that are in force for each."""
    options: Options = context.obj
    rows = service_rows(_census(options))
    options.printer.rows(
        rows,
        {
            "service": field("service"),
            "healthy": lambda row: f"{row['healthy']}/{row['instances']}",
            "versions": lambda row: _counted(row["versions"]),
            "policies": lambda row: " ".join(row["policies"]) or "-",
        },
        empty=f"no service in the mesh {options.mesh!r} yet; `shoal run --service hello -- CMD` makes one",
    )


def instances(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="pets.production; without it: all.", autocompletion=completed)] = "",
) -> None:
    """List instances: where they are, whose they are, and how they are."""
    options: Options = context.obj
    wanted = _parsed(service)
    rows = [row for row in instance_rows(_census(options)) if not wanted or row["service"] == wanted]
    options.printer.rows(
        rows,
        {
            "service": field("service"),
            "id": field("id"),
            "address": lambda row: join_host(row["address"], row["port"]),
            "version": field("version"),
            "zone": field("zone"),
            "weight": lambda row: f"{row['weight']:g}",
            "agent": field("agent"),
            "state": field("state"),
            "since": field("since"),
            "reason": field("reason"),
        },
        empty=f"no instance of {wanted}" if wanted else f"no instance in the mesh {options.mesh!r}",
    )
    if wanted and not rows:
        raise typer.Exit(Exit.NO)


def status(context: typer.Context) -> None:
    """Show the agents, the revision that each one's workers run, the state of etcd, and policies that were refused.

    Exit code 1 when no agent is alive, one lags or cannot enforce a policy, that of this host is not ready or has
    an instance whose id another has, a policy is refused or held, or a key cannot be read.
    """
    options: Options = context.obj
    local = _local_agent(options)
    try:
        census, etcd = _asked(options)
    except Failure as failure:
        _show_alone(options.printer, local, failure)
        raise
    told = status_of(census, etcd, local, now=time.time())
    if options.printer.json:
        options.printer.value(told)
    else:
        _show(options.printer, told)
    wrong = told["refused"] or told["held"] or told["not_enforced"] or told["malformed"]
    agents_well = told["agents"] and all(agent["state"] == "current" for agent in told["agents"])
    if wrong or not agents_well or _not_ready(local) or (local and local.get("instances_refused")):
        raise typer.Exit(Exit.NO)


def _not_ready(local: dict[str, Any] | None) -> str:
    """Why the agent on this host is not; empty where it is, or there is none."""
    return str(local["not_ready"]) if local is not None else ""


def service_rows(census: Census) -> list[Row]:
    """One row a service that has instances or a policy of its own, by name."""
    from policies.language.names import candidates

    rows: list[Row] = []
    states = {(row["service"], row["id"]): row["state"] for row in instance_rows(census)}
    own = {service for _, service in census.policies if "*" not in service}
    for service in sorted({service for service, _ in census.instances} | own):
        mine = {id: instance for (owner, id), instance in census.instances.items() if owner == service}
        patterns = candidates(service)
        kinds = sorted({kind for kind, pattern in census.policies if pattern in patterns})
        rows.append(
            {
                "service": service,
                "instances": len(mine),
                "healthy": sum(states[service, id] == "healthy" for id in mine),
                "versions": _tally(instance.version for instance in mine.values()),
                "policies": [_in_force(census, kind, patterns) for kind in kinds],
            }
        )
    return rows


def instance_rows(census: Census) -> list[Row]:
    """One row an instance, by service and id."""
    rows: list[Row] = []
    for (service, id), instance in sorted(census.instances.items()):
        health = census.health.get((service, id))
        state = "unchecked" if health is None else "healthy" if health.healthy else "unhealthy"
        if instance.state == "draining":
            state = "draining"
        rows.append(
            {
                "service": service,
                "id": id,
                "address": instance.address,
                "port": instance.port,
                "version": instance.version,
                "zone": instance.zone,
                "weight": instance.weight,
                "agent": instance.agent,
                "state": state,
                "since": health.since if health else "",
                "reason": health.reason if health else "",
                "metadata": instance.metadata,
            }
        )
    return rows


def status_of(census: Census, etcd: dict[str, Any], local: dict[str, Any] | None, now: float) -> dict[str, Any]:
    """Everything that `shoal status` says. `now` is Unix time."""
    return {
        "etcd": etcd,
        "revision": census.revision,
        "newest": census.wanted,
        "agents": [_agent_row(census, host, now) for host in sorted(census.agents)],
        "local": local,
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
    from agent.cli.findings.documents import of_shares
    from agent.cli.findings.facts import Facts

    return [{"where": found.where, "what": found.what} for found in of_shares(Facts(census=census))]


def _keys(census: Census) -> list[dict[str, str]]:
    """Who writes elsewhere than the mesh says."""
    from agent.cli.findings.facts import Facts
    from agent.cli.findings.layout import of_layout

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


def join_host(address: str, port: int) -> str:
    """`10.0.0.5:80`, `[::1]:80`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


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


def _in_force(census: Census, kind: str, patterns: Sequence[str]) -> str:
    """Which of the policies of a kind wins, as `route` or `route(*.production)`; or which apply: `tls(pets,*)`."""
    from policies.catalogue import BY_NAME

    exact, *_ = patterns
    found = [pattern for pattern in patterns if (kind, pattern) in census.policies]
    if kind not in BY_NAME or not BY_NAME[kind].every_level:
        found = found[:1]
    return kind if found == [exact] else f"{kind}({','.join(found)})"


def _tally(names: Iterable[str]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for name in sorted(names):
        counted[name] = counted.get(name, 0) + 1
    return counted


def _counted(versions: dict[str, int]) -> str:
    return " ".join(f"{version or '(none)'}×{count}" for version, count in versions.items()) or "-"


def _age_of(timestamp: str, now: float) -> float | None:
    """Seconds since an RFC 3339 time; None where there is none that can be read."""
    try:
        return max(0.0, now - datetime.fromisoformat(timestamp).timestamp())
    except ValueError:
        return None


def _census(options: Options) -> Census:
    from agent.cli.census import take
    from agent.cli.etcd_client import ask

    return ask(options, lambda store: take(store, options.mesh))


def _parsed(service: str) -> str:
    from policies.language.names import parse_service

    try:
        return parse_service(service) if service else ""
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None


def _local_agent(options: Options) -> dict[str, Any] | None:
    """What the agent on this host says of itself; None when it does not answer."""
    try:
        return options.admin.state()
    except Failure:
        return None


def _asked(options: Options) -> tuple[Census, dict[str, Any]]:
    """The census, and how etcd answered."""
    from agent.cli.etcd_client import ask

    began = time.monotonic()
    census = _census(options)
    answered_in_s = round(time.monotonic() - began, 3)
    members = ask(options, lambda _: _members(options))
    return census, {"endpoints": list(options.etcd), "answered_in_s": answered_in_s, "members": members}


async def _members(options: Options) -> list[dict[str, str]]:
    """What each endpoint runs, and what is known to be wrong with that."""
    from agent.cli.members import members
    from registry.etcd.releases import warning

    return [
        {"url": member.url, "error": member.error}
        if member.error
        else {"url": member.url, "version": member.version, "warning": warning(member.version, member.url)}
        for member in await members(options)
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
        f"etcd      {', '.join(etcd['endpoints'])}: answered in {answered_ms:.0f} ms, revision {told['revision']}"
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
    else:
        printer.text("here      no agent answers on this host")
    if told["agents"]:
        names = list(told["agents"][0])
        columns = {name: field(name) for name in names}
        columns["up"] = lambda row: "-" if row["up"] is None else age(row["up"])
        printer.rows(told["agents"], columns, empty="")
    else:
        printer.note("no agent is alive in this mesh")
    for event in local["standing"] if local is not None else []:
        what = f"{event['service']}/{event['endpoint']}" if event["endpoint"] else event["service"]
        audit = " (audit)" if event["audit"] else ""
        printer.text(f"{event['kind']:9} {what} {event['after']}{audit}: {event['reason']}")
    for topic in local["topics"] if local is not None else []:
        if said := topic["problem"] or topic["broker_refused"] or topic["warning"]:
            printer.text(f"topic     {topic['url']}: {topic['waiting']} wait on this host: {said}")
    for sink in local.get("records", []) if local is not None else []:
        if sink["trouble"]:
            lost = sum(sink["lost"].values())
            printer.text(f"records   {sink['name']}: {lost} lost: {sink['trouble']}")
    for judged in local.get("judged", [])[:MAX_JUDGED] if local is not None else []:
        document = f"{judged['kind']}/{judged['document']}"
        printer.text(
            f"audit     {judged['service']}: {judged['requests']} {judged['done']}; "
            f"by {document} would have been: {judged['would']}"
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
    for lost in told["undelivered"][:MAX_UNDELIVERED]:
        hooks = "; ".join(f"{hook}: {outcome}" for hook, outcome in lost["hooks"].items())
        printer.text(f"undelivered {lost['type'].removeprefix('io.shoal.')} {lost['event']}: {hooks}")
    if len(told["undelivered"]) > MAX_UNDELIVERED:
        printer.text(f"undelivered {len(told['undelivered']) - MAX_UNDELIVERED} more; see `shoal events`")
    for malformed in told["malformed"]:
        printer.text(f"malformed {malformed['key']}: {malformed['reason']}")
