"""What each agent says for itself, asked of this one, of another one, or of all of them and merged.

Laws
- Another agent's word is about itself: what it says of other hosts is left out, so that one that was taken over can
  make up nothing about others.
- Who was asked and did not answer stands in the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from agent.control.admin.v1 import types
from agent.control.admin.v1.operation import Asked, Operation, Trouble, read_query
from agent.control.asking.answering import Answering, Asker, Refusal
from agent.control.asking.fanout import Fanout, Told
from agent.control.mesh.table import Table
from agent.questions import API, ApiAsked, ApiTold
from policies.language.plain import Flaw

MAX_ASKING: Final = 8
"""Questions of people to other agents, at a time."""


class Part(NamedTuple):
    """A list that every agent has a part of."""

    path: str
    name: str
    """In names of operations: Calls."""
    summary: str
    query: type[types.WideQuery]
    of_host: type[types.HostQuery]
    """The same where one agent is named."""
    page: type[types.WidePage]
    rows: Callable[[Any], Awaitable[Sequence[Any]]]
    """This agent's."""
    order: Callable[[Any], Any]
    complete: Callable[[Any, Sequence[Any], Any], Awaitable[Any]] | None = None
    """Of a query of all agents, what they told, and the page of it: that page, with what is known besides."""


class Wide:
    """One agent's."""

    def __init__(self, table: Table, fanout: Fanout, answering: Answering) -> None:
        self._table = table
        self._fanout = fanout
        self._asking = 0
        self._shown: dict[str, Callable[[Mapping[str, str]], Awaitable[msgspec.Struct]]] = {}
        answering.register(API, self._answer)

    # To others.

    def show(self, path: str, tell: Callable[[Mapping[str, str]], Awaitable[msgspec.Struct]]) -> None:
        """Other agents may ask for it. `tell` is given the query, as text."""
        self._shown[path] = tell

    async def _answer(self, asked: ApiAsked, asker: Asker) -> ApiTold:
        tell = self._shown.get(asked.path)
        if tell is None:
            raise Refusal(404, f"this version shows no {asked.path[:100]}")
        try:
            return ApiTold(msgspec.json.encode(await tell(asked.query)))
        except Flaw as flaw:
            raise Refusal(400, f"{flaw.path}: {flaw.reason}") from None
        except Trouble as trouble:
            raise Refusal(trouble.status, trouble.detail) from None

    # Of others.

    async def ask(
        self, path: str, query: Mapping[str, str], deadline_s: float, hosts: Sequence[str] | None = None
    ) -> Told[ApiTold]:
        """Every agent, or some. Raises Trouble where too much is asked already: who can connect here would else have
        every host of the mesh work for him."""
        if self._asking >= MAX_ASKING:
            raise Trouble(503, f"{MAX_ASKING} questions to other agents are under way here; ask again")
        self._asking += 1
        try:
            return await self._fanout.ask_all(API, ApiAsked(path, dict(query)), deadline_s, hosts)
        finally:
            self._asking -= 1

    async def ask_one(self, host: str, path: str, query: Mapping[str, str], deadline_s: float) -> bytes:
        """One agent; its answer, as JSON. Raises Trouble."""
        told = await self.ask(path, query, deadline_s, [host])
        if host in told.answers:
            return told.answers[host].body
        missing = told.missing[host]
        status = 404 if missing.why == "no_agent" else 503
        raise Trouble(status, f"{host}: {missing.reason}")

    def operations(self, part: Part) -> list[Operation]:
        """Of a part: of this agent and all of them, and of another one."""

        async def tell(query: Mapping[str, str]) -> msgspec.Struct:
            return await self._own(part, read_query(query, part.query))

        async def wide(asked: Asked) -> msgspec.Struct:
            query = asked.query
            return await (self._all(part, query) if query.scope == "mesh" else self._own(part, query))

        async def of_host(asked: Asked) -> msgspec.Struct:
            host = asked.path["host"]
            body = await self.ask_one(host, part.path, _as_text(asked.query), asked.query.deadline_s)
            return _read(body, part.page, host)

        self.show(part.path, tell)
        said = f"{part.summary}, of one agent"
        return [
            Operation("GET", part.path, f"list{part.name}", part.summary, part.query, part.page, wide),
            Operation(
                "GET", f"/agents/{{host}}{part.path}", f"list{part.name}Of", said, part.of_host, part.page, of_host
            ),
        ]

    async def _own(self, part: Part, query: Any) -> types.WidePage:
        rows = sorted(await part.rows(query), key=part.order)
        return self._page(part, rows, len(rows), query.limit)

    async def _all(self, part: Part, query: Any) -> types.WidePage:
        told = await self.ask(part.path, _as_text(query), query.deadline_s)
        missing = {host: types.Missing(why=each.why, reason=each.reason) for host, each in told.missing.items()}
        rows: list[Any] = []
        total = 0
        for host, answer in told.answers.items():
            try:
                page: Any = _read(answer.body, part.page, host)
            except Trouble as trouble:
                missing[host] = types.Missing(why="failed", reason=trouble.detail)
            else:
                rows += page.items
                total += page.total
        asked = len(told.answers) + len(told.missing)
        whole = self._page(part, sorted(rows, key=part.order), total, query.limit, asked, dict(sorted(missing.items())))
        if part.complete is not None:
            whole = await part.complete(query, rows, whole)
        return whole

    def _page(
        self,
        part: Part,
        rows: Sequence[Any],
        total: int,
        limit: int,
        asked: int = 1,
        missing: Mapping[str, types.Missing] | None = None,
    ) -> types.WidePage:
        make: Any = part.page
        page: types.WidePage = make(
            items=list(rows[:limit]),
            total=total,
            revision=self._table.revision,
            asked=asked,
            missing=dict(missing or {}),
        )
        return page


def _as_text(query: msgspec.Struct) -> dict[str, str]:
    """For another agent: what differs from its defaults, so that one of the version before understands what it can."""
    found = {}
    for field in msgspec.structs.fields(query):
        value = getattr(query, field.name)
        if field.name not in ("scope", "deadline_s") and value != field.default:
            found[field.name] = str(value)
    return found


def _read(body: bytes, page: type[types.WidePage], host: str) -> types.WidePage:
    """What a host says of itself. Raises Trouble."""
    try:
        told: Any = msgspec.json.decode(body, type=page)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Trouble(503, f"{host}: what it answers makes no sense: {error}"[:300]) from None
    items = [item for item in told.items if item.host == host]
    found: types.WidePage = msgspec.structs.replace(told, items=items)
    return found
