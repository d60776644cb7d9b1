"""What people ask about the audit logs of all hosts, by way of this agent: records, whether they are as they were, and
that somebody is erased.

Laws
- An answer names every host that is not in it, and every span of time that is not whole.
- Of a host that does not answer, what others hold of its log is told instead, and what they do not hold is named.
- Who looks into the records of others operates; that he did is a record itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
import trio

from agent import questions
from agent.audit.events import wrong_event
from agent.audit.heads import Kept
from agent.audit.questions import (
    CHECK,
    HEADS,
    MOST_HEADS,
    RECORDS,
    Erase,
    Erased,
    Found,
    HeadsAsked,
    Query,
    Span,
    Verified,
    Verify,
)
from agent.control.admin.door import visitor_of
from agent.control.admin.v1.operation import Asked, NoQuery, Operation, Trouble
from agent.control.admin.v1.parts import audit_types as types
from agent.control.asking.fanout import Fanout
from agent.control.audit.audit import Audit
from agent.control.host.rights import Right
from agent.control.identity.way import NoAnswer
from agent.control.parts import Parts
from agent.questions import ERASE
from registry.records import Agent

DEADLINE_S: Final = 20.0
_ONE_FOR_ALL: Final = ("policy.", "identity.")
"""Events that every agent records of the same thing."""


class AuditLogs:
    """What is asked of them."""

    def __init__(self, host: str, audit: Audit, fanout: Fanout, agents: Mapping[str, Agent], ask: Any) -> None:
        self._host = host
        self._audit = audit
        self._fanout = fanout
        self._agents = agents
        self._ask = ask

    def operations(self) -> list[Operation]:
        """For who operates."""
        ways = (
            ("/audit/query", "queryAudit", "Audit records of all hosts, or how many there are", self.query),
            (
                "/audit/verify",
                "verifyAudit",
                "Whether the audit logs of all hosts are as they were written",
                self.verify,
            ),
            ("/audit/erase", "eraseFromAudit", "Take somebody's personal values out of all audit logs", self.erase),
        )
        gives: tuple[type[msgspec.Struct], ...] = (types.AuditFound, types.AuditVerified, types.AuditErased)
        takes: tuple[type[msgspec.Struct], ...] = (types.AuditQuery, types.AuditVerify, types.AuditErase)
        return [
            Operation("POST", path, name, summary, NoQuery, given, do, takes=taken, right=Right.OPERATE)
            for (path, name, summary, do), given, taken in zip(ways, gives, takes, strict=True)
        ]

    # Records.

    async def query(self, wish: Asked) -> types.AuditFound:
        """Records or counts. An event that is none is refused: that nobody was denied is another answer."""
        wrong = wrong_event(wish.body.events)
        if wrong:
            raise Trouble(400, wrong, "$.events")
        asked = Query(**{name: getattr(wish.body, name) for name in wish.body.__struct_fields__})
        hosts = asked.of or None
        asked = msgspec.structs.replace(asked, of=())
        told = await self._fanout.ask_all(RECORDS, asked, DEADLINE_S / 2, hosts)
        found: dict[str, Found] = {log.host: log for answer in told.answers.values() for log in answer.logs}
        missing = {host: each.reason for host, each in told.missing.items()}
        logs = list(found.values())
        for log in await self._from_copies(asked, missing, hosts):
            last, reason = max(log.last, asked.since), missing.get(log.host) or "its agent does not live"
            missing.pop(log.host, None)
            if last < asked.until:
                span = Span(last, asked.until, f"{reason}; this is a copy, and what was written since is not in it")
                log.missing.append(span)
            logs.append(log)
        return _merged(asked, logs, missing)

    async def _from_copies(self, asked: Query, missing: Collection[str], hosts: Collection[str] | None) -> list[Found]:
        """What others hold of hosts that have not answered, and of those that live no more."""
        told = await self._fanout.ask_all(HEADS, HeadsAsked(), DEADLINE_S / 4)
        holders: dict[str, set[str]] = {}
        for holder, each in told.answers.items():
            for host in each.copies:
                gone = host not in self._agents and host != self._host
                if (host in missing or gone) and (hosts is None or host in hosts):
                    holders.setdefault(holder, set()).add(host)
        if not holders:
            return []
        wanted = msgspec.structs.replace(asked, of=tuple(sorted(set().union(*holders.values()))))
        answers = await self._fanout.ask_all(RECORDS, wanted, DEADLINE_S / 4, holders)
        best: dict[str, Found] = {}
        for log in (log for answer in answers.answers.values() for log in answer.logs):
            known = best.get(log.host)
            if known is None or log.last > known.last:
                best[log.host] = log
        return list(best.values())

    # Whether logs are as they were.

    async def verify(self, wish: Asked) -> types.AuditVerified:
        """Of every host, by the heads that all the others hold of it."""
        hosts = wish.body.hosts
        told = await self._fanout.ask_all(HEADS, HeadsAsked(tuple(hosts)), DEADLINE_S / 4)
        heads: dict[str, list[Kept]] = {}
        chains: dict[str, str] = {}
        copied: dict[str, list[str]] = {}
        for holder, each in told.answers.items():
            chains.update(each.chains)
            for host, kept in each.heads.items():
                heads.setdefault(host, []).extend(kept)
            for host in each.copies:
                copied.setdefault(host, []).append(holder)
        wanted = set(hosts) or {*self._agents, self._host, *heads, *copied}
        answers: dict[str, Verified] = {}
        missing: dict[str, str] = {host: each.reason for host, each in told.missing.items() if host in wanted}

        async def one(host: str) -> None:
            found = await self._check(host, heads.get(host, []), chains, copied.get(host, []))
            if isinstance(found, str):
                missing[host] = found
            else:
                answers[host] = found

        with trio.move_on_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                for host in sorted(wanted):
                    nursery.start_soon(one, host)
        for host in wanted - answers.keys() - missing.keys():
            missing[host] = f"no answer within {DEADLINE_S:g} s"
        return types.AuditVerified(
            logs={
                host: {
                    **msgspec.to_builtins(each.report),
                    "note": each.note,
                    "witnesses": sum(len(kept.witnesses) for kept in heads.get(host, [])),
                }
                for host, each in sorted(answers.items())
            },
            missing=dict(sorted(missing.items())),
        )

    async def _check(self, host: str, heads: list[Kept], chains: dict[str, str], holders: list[str]) -> Verified | str:
        """By its own agent; else by who holds a copy."""
        last = sorted(heads, key=lambda kept: kept.head.n)[-MOST_HEADS:]
        names = {name for kept in last for name in (kept.certificate, *(each.certificate for each in kept.witnesses))}
        asked = Verify("", tuple(last), {name: chains[name] for name in names if name in chains})
        reason = "its agent does not live, and nobody holds a copy"
        if host in self._agents or host == self._host:
            told = await self._fanout.ask_all(CHECK, asked, DEADLINE_S * 0.6, [host])
            if host in told.answers:
                return told.answers[host]
            reason = told.missing[host].reason
        for holder in holders:
            copy = msgspec.structs.replace(asked, of=host)
            told = await self._fanout.ask_all(CHECK, copy, DEADLINE_S * 0.3, [holder])
            if holder in told.answers:
                found = told.answers[holder]
                return msgspec.structs.replace(found, note=f"{reason}; {found.note}, at {holder}")
        return reason

    # Erasing.

    async def erase(self, wish: Asked) -> types.AuditErased:
        """Somebody, on every host."""
        field, request = wish.body.field, wish.request
        if field not in ("person", "client") and not field.startswith(("claim.", "header.")):
            raise Trouble(400, "person, client, claim.<name> or header.<name>", "$.field")
        visitor = visitor_of(request) if request is not None else None
        asked = Erase(field, wish.body.value, visitor.person if visitor is not None else "")
        done: dict[str, types.AuditErasedThere] = {}
        missing: dict[str, str] = {}

        async def one(host: str) -> None:
            found = await self._erased(host, asked)
            if isinstance(found, str):
                missing[host] = found
            else:
                done[host] = types.AuditErasedThere(
                    records=found.records, segments=found.segments, copies=found.copies, reason=found.reason
                )

        hosts = {*self._agents, self._host}
        with trio.move_on_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                for host in sorted(hosts):
                    nursery.start_soon(one, host)
        for host in hosts - done.keys() - missing.keys():
            missing[host] = f"no answer within {DEADLINE_S:g} s"
        return types.AuditErased(erased=dict(sorted(done.items())), missing=dict(sorted(missing.items())))

    async def _erased(self, host: str, asked: Erase) -> Erased | str:
        if host == self._host:
            return await self._audit.erase(asked)
        try:
            status, body = await self._ask(host, ERASE, msgspec.msgpack.encode(asked), DEADLINE_S)
        except NoAnswer as error:
            return str(error)
        return questions.read(body, Erased) if status == 200 else questions.refused(status, body)


def audit_logs(parts: Parts) -> AuditLogs:
    """By way of an agent."""
    return AuditLogs(parts.settings.host, parts.audit, parts.fanout, parts.mesh.table.agents, parts.peers.ask)


def _merged(asked: Query, logs: list[Found], missing: dict[str, str]) -> types.AuditFound:
    """One answer of many."""
    spans = [
        types.AuditSpan(host=log.host, first=span.first, last=span.last, reason=span.reason)
        for log in sorted(logs, key=_host)
        for span in log.missing
    ]
    answer = types.AuditFound(
        hosts=sorted(log.host for log in logs), missing=missing, spans=spans, total=sum(log.total for log in logs)
    )
    if asked.by:
        counts: dict[str, int] = {}
        for log in logs:
            for value, count in log.counts.items():
                counts[value] = counts.get(value, 0) + count
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: asked.most]
        counted = [types.AuditCount(value=value, count=count) for value, count in ranked]
        return msgspec.structs.replace(answer, counts=counted)
    records = _once([record for log in logs for record in log.records])
    records.sort(key=lambda record: (record["at"], record["host"], record["n"]))
    return msgspec.structs.replace(answer, records=records[-asked.most :])


def _once(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What every agent records of the same thing is told once, with the hosts that have it."""
    found: dict[object, dict[str, Any]] = {}
    for number, record in enumerate(records):
        event = str(record["event"])
        key: object = number
        if event.startswith(_ONE_FOR_ALL) and "revision" in record:
            whom = (record.get("kind"), record.get("service"), record.get("what"), record.get("whom"))
            key = (event, *whom, record["revision"])
        known = found.get(key)
        if known is None:
            found[key] = record
        else:
            hosts = known.setdefault("hosts", [known["host"]])
            if record["host"] not in hosts:  # killed before its table was on disk, it has recorded it again
                hosts.append(record["host"])
    return list(found.values())


def _host(log: Found) -> str:
    return log.host
