"""An agent, by its own word: whether it serves, and can do what it was asked for. Of `/state`, or `/api/v1/agent`."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from agent.findings.finding import Finding, Severity, named, unread


def of_agent(local: dict[str, Any]) -> Iterator[Finding]:
    """What is wrong with it. `local`: what it says, of this version or the one before."""
    host = str(local["host"])
    if local["not_ready"]:
        yield Finding("not-ready", "error", host, f"not ready: {local['not_ready']}", "its log says more")
    elif not local["etcd"]["connected"]:
        what = f"has lost etcd, and serves revision {local['table']['revision']}: {local['etcd']['error']}"
        yield Finding("etcd-lost", "error", host, what, "see [etcd] in its agent.toml, and its log")
    if lacking := local["etcd"].get("not_allowed"):
        what = f"etcd does not let its agent write {named(lacking)}"
        yield Finding("etcd-rights", "error", host, what, f"`shoal mesh grant {host} --apply`, or docs/keys.md")
    yield from _of_lost_agents(local)
    yield from _of_its_means(local, host)
    yield from _of_its_traffic(local)
    yield from _of_its_listeners(local, host)
    yield from _of_its_identity(local.get("identity") or {}, host)
    yield from _of_its_web_certificate(local.get("people_certificate") or {}, host)
    yield from _of_its_issuers(local.get("issuers") or [])
    yield from _of_its_opas(local.get("opas") or [], host)


def _of_lost_agents(local: dict[str, Any]) -> Iterator[Finding]:
    """Whom it misses. All agents say so of the same host, in the same words."""
    for lost in local.get("lost", []):
        say = "look at that host, and start its agent; of one that is gone for good this ends within an hour"
        yield Finding("agent-lost", "error", lost["host"], lost_words(lost), say)


def lost_words(lost: dict[str, Any]) -> str:
    """Of one that an agent misses."""
    answers = "somebody still answers there" if lost["answers"] else "nobody answers there"
    kept = f"{lost['suspects']} of its instances kept as suspects, which take requests where nothing else does"
    return f"lost since {lost['since']}: its lease ran out without a word; {answers}; {kept}"


def _of_its_means(local: dict[str, Any], host: str) -> Iterator[Finding]:
    has = local["descriptors"]
    if has["connections"] < has["connections_wanted"]:
        what = f"descriptors for {has['connections']} connections of each listener, not for {has['connections_wanted']}"
        yield Finding("descriptors", "warning", host, what, "raise LimitNOFILE, or lower limits.max_connections")
    for refused in local.get("instances_refused", []):
        where, give = f"{refused['service']}/{refused['id']}", "it comes in by itself once the other is gone"
        yield Finding("instance-refused", "error", where, f"not in the mesh: {refused['reason']}", give)
    for unable in local["checks_unable"]:
        yield Finding("check-unable", "error", f"{unable['service']}/{unable['id']}", unable["reason"], "see this host")
    for refused in local["checks_refused"]:
        where = f"{refused['service']}/{refused['id']}"
        yield Finding(
            "check-refused",
            "warning",
            where,
            refused["reason"],
            "allow it in [checks] of agent.toml, or change the check",
        )
    for service, each in local.get("client_certificates", {}).items():
        if each["reason"]:
            what = f"instances of {service} are not shown this host's client certificate: {each['reason']}"
            say = "mend the file, which is looked at every 5 s ([origins] in docs/agent-settings.md)"
            yield Finding("client-certificate", "warning", host, what, say)
    if restarts := local["worker_restarts"]:
        yield Finding("worker-died", "warning", host, f"{restarts} workers died since it started", "its log says why")
    for topic in local["topics"]:
        if said := topic["problem"] or topic["broker_refused"] or topic["warning"]:
            yield Finding("topic", "warning", topic["url"], said, f"{topic['waiting']} requests wait on this host")
    for sink in local.get("records", []):
        if sink["trouble"]:
            lost = sum(sink["lost"].values())
            what = f"records are not delivered, and {lost} are lost: {sink['trouble']}"
            yield Finding(
                "records", "warning", f"{host} {sink['name']}", what, "see [[records.sinks]] in its agent.toml"
            )
    for shadowed in local["shadowed"]:
        yield Finding("two-spellings", "warning", shadowed["key"], shadowed["reason"], "delete one of the two")


def _of_its_traffic(local: dict[str, Any]) -> Iterator[Finding]:
    """What breakers and ejectors keep requests from, as long as they do."""
    for each in local.get("standing", []):
        service, instance = each["service"], each["endpoint"]
        where = f"{service}/{instance}" if instance else service
        severity: Severity = "info" if each["audit"] else "warning"
        would = " (audit: it only would be)" if each["audit"] else ""
        see = f"`shoal top {service}` shows its requests; it is tried again by itself"
        yield Finding("standing", severity, where, f"{each['kind']} {each['after']}{would}: {each['reason']}", see)


def _of_its_listeners(local: dict[str, Any], host: str) -> Iterator[Finding]:
    """Those that are meant for its host, and can be reached from others."""
    for listener in local.get("listeners", []):
        address, port, name = listener["address"], listener["port"], listener["name"]
        if name not in ("inbound", "metrics") and not ipaddress.ip_address(address).is_loopback:
            what = f"{_door(name)} (listens on {address}:{port})"
            say = f'[{name}] listen = "127.0.0.1:{port}", or a firewall'
            yield Finding("open-port", "warning", f"{host} {name}", what, say)


def _door(name: str) -> str:
    if name == "admin":
        return "other hosts may look at its state, metrics and explanations"
    return "other hosts may send requests into the mesh here"


def _of_its_identity(identity: dict[str, Any], host: str) -> Iterator[Finding]:
    """What it cannot prove, or soon not any more; and whose clock is why."""
    held = {each["name"] for each in identity.get("held", [])}
    say = "`shoal ca status` says who can sign, and who holds what"
    if identity.get("workload_api"):
        say = f"SPIRE gives this host's certificates, at {identity['workload_api']} (docs/identity.md)"
    for problem in identity.get("problems", []):
        name = problem["name"]
        where = f"{host} {name.removeprefix('svc/')}"
        severity: Severity = "warning" if name in held or problem["reason"].startswith("no grant") else "error"
        yield Finding("identity", severity, where, problem["reason"], say)
    for issuer, ahead_s in identity.get("clocks", {}).items():
        what = f"its clock is {abs(ahead_s):.0f} s {'before' if ahead_s > 0 else 'behind'} that of {host}"
        say = "let both hosts take their time from one source (NTP); certificates depend on it"
        yield Finding("identity-clock", "warning", issuer, what, say)
    if identity.get("workload_error"):
        what = f"{identity['workload_api']} gives nothing: {identity['workload_error']}"
        yield Finding("identity-workload-api", "warning", host, what, "what is held serves until it ends")
    if identity.get("error"):
        say = "see the rights of its etcd user (docs/keys.md), and its log"
        yield Finding(
            "identity-etcd", "warning", host, f"cannot ask for certificates in etcd: {identity['error']}", say
        )


def _of_its_web_certificate(shown: dict[str, Any], host: str) -> Iterator[Finding]:
    """What browsers are shown, where it is of no use, or soon not any more."""
    if not shown:
        return
    path, left_s = shown["path"], shown["left_s"]
    say = "put another one there; it is read again by itself (people.certificate in docs/agent-settings.md)"
    if shown["reason"]:
        what = f"the certificate for browsers, {path}, is of no use: {shown['reason']}"
        yield Finding("people-certificate", "error", host, what, say)
    elif left_s <= 0:
        what = f"the certificate for browsers, {path}, has ended, at {shown['ends']}: they do not let people in"
        yield Finding("people-certificate", "error", host, what, say)
    elif shown["ending"]:
        what = f"the certificate for browsers, {path}, ends in {_span(left_s)}, at {shown['ends']}"
        yield Finding("people-certificate", "warning", host, what, say)


def _of_its_issuers(issuers: list[dict[str, Any]]) -> Iterator[Finding]:
    """Whose keys were never got, or cannot be got any more."""
    for issuer in issuers:
        if issuer["keys"] is None:
            why = issuer["reason"] or "they are being fetched"
            what = f"its keys were never got here, and its tokens are answered with 503: {why}"
            yield Finding("issuer-keys", "error", issuer["source"], what, "the URL, or [authn] in agent.toml")
        elif issuer.get("ending"):
            yield _of_keys_that_end(issuer)
        elif issuer["reason"]:
            what = f"its keys are {_span(issuer['age_s'])} old, and no others can be got: {issuer['reason']}"
            left = f"what is known goes on counting for {_span(issuer['left_s'])}" if "left_s" in issuer else ""
            yield Finding(
                "issuer-keys", "warning", issuer["source"], what, left or "what is known goes on counting meanwhile"
            )
        elif not issuer["keys"]:
            what = f"it publishes no key that verifies tokens ({issuer['passed_over']} of other kinds)"
            yield Finding("issuer-keys", "error", issuer["source"], what, "its tokens are refused until it does")


def _of_its_opas(opas: list[dict[str, Any]], host: str) -> Iterator[Finding]:
    """Whom requests to instances of this host depend on, and that does not answer."""
    for opa in opas:
        allows = opa["on_failure"] == "allow"
        then = "allowed unasked" if allows else "denied"
        then = f"{'would be ' if opa['audit'] else 'are '}{then}"
        severity: Severity = "warning" if allows or opa["audit"] else "error"
        if not opa["allowed"]:
            what = f"{host} may not ask {opa['url']}: [opa] allow in its agent.toml does not name it; requests {then}"
            say = f'add "{opa["url"]}" to [opa] allow there, and reload the agent (SIGHUP)'
        else:
            what = f"{host} asks in vain: {opa['reason']} ({opa['failures']} times in a row); requests {then}"
            say = f"start the OPA at {opa['url']} beside that agent, or name another in $.opa.url"
        yield Finding("opa", severity, opa["document"], what, say)


def _of_keys_that_end(issuer: dict[str, Any]) -> Finding:
    """Which are not believed any more, or not for long."""
    why = issuer["reason"] or "the agent has not asked since"
    left_s = issuer["left_s"]
    end = f"they count for {_span(left_s)} more" if left_s else "max_age is over, and its tokens are answered with 503"
    what = f"its keys are {_span(issuer['age_s'])} old; {end}: {why}"
    say = "mend the way to the issuer, or give max_age of the authn document more, or its keys as jwks"
    return Finding("issuer-keys", "error", issuer["source"], what, say)


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def of_documents(local: dict[str, Any]) -> Iterator[Finding]:
    """Policies that are not in force there, or are though etcd says otherwise, and keys that nobody can read."""
    for refused in local["refused"]:
        what = f"{refused['path']}: {refused['reason']}"
        say = "requests are refused until it is mended" if refused["closed"] else "mend it, or delete it"
        yield Finding("refused", "error", f"{refused['kind']}/{refused['service']}", f"refused: {what}", say)
    for refused in local["audits_refused"]:
        where = f"audits/{refused['kind']}/{refused['service']}"
        yield Finding("refused", "error", where, f"refused: {refused['path']}: {refused['reason']}", "mend it")
    for held in local["held"]:
        where = f"{held['kind']}/{held['service']}"
        say = "if etcd is right, `shoal mesh accept`; else put it again"
        yield Finding("held", "error", where, f"held against what etcd says: {held['reason']}", say)
    for key in local["malformed"]:
        yield unread(key["key"], key["reason"])
