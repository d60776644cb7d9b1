"""`shoal authz`: who may call whom by the rules in force, and what rules would let pass what was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agent.cli.completion import services
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options
from agent.cli.printing import Row, field

if TYPE_CHECKING:
    from policies.kinds.authz.document import Authz
    from policies.kinds.authz.suggestion import Asked
    from registry.census import Census
    from registry.store import Store

app = typer.Typer(no_args_is_help=True, help="Who may do what: the rules as a graph, and rules for what was seen.")

UNKNOWN: Final = "unknown"
SAYS: Final = (
    "seen: counted by agents since they started, all without credentials as one; nobody keeps when, or how often"
)
ServiceArgument = Annotated[
    str, typer.Argument(metavar="SERVICE", help="Who is called, such as `lamps.production`.", autocompletion=services)
]


@app.command()
def graph(
    context: typer.Context,
    service: Annotated[
        str, typer.Argument(metavar="SERVICE", help="Only who may call it.", autocompletion=services)
    ] = "",
    dot: Annotated[bool, typer.Option("--dot", help="For Graphviz.")] = False,
    unused: Annotated[bool, typer.Option("--unused", help="Only what is allowed and was never seen.")] = False,
) -> None:
    """Show who may call whom by the rules in force: all requests, or some, by which rules, and whether they were seen.

    Example:  shoal authz graph --unused
    """
    from agent.cli.etcd_client import ask

    options: Options = context.obj
    wanted = _parsed(service) if service else ""
    census = ask(options, lambda store: _looked(store, options.mesh))
    rows = [row for row in edges(census) if not wanted or row["service"] == wanted]
    if unused:
        rows = [row for row in rows if row["may"] in ("all", "some") and row["seen"] == "never"]
    if dot:
        for line in as_dot(rows):
            options.printer.text(line)
        return
    columns = {
        "caller": field("caller"),
        "service": field("service"),
        "may": field("may"),
        "by": lambda row: ", ".join(row["by"]) or "-",
        "seen": field("seen"),
    }
    options.printer.rows(rows, columns, "no edge; `shoal services` lists the services that there are")
    options.printer.note(SAYS)


@app.command()
def suggest(
    context: typer.Context,
    service: ServiceArgument,
    records: Annotated[
        list[Path] | None,
        typer.Option("--records", metavar="FILE", help="Access log of agents; - is stdin. May be repeated."),
    ] = None,
) -> None:
    """Propose the least that lets pass what was seen, as a document in audit mode to review and put.

    Without --records by who was seen to call; with access logs of its hosts by methods and paths too.

    Example:  shoal authz suggest lamps.production --records /var/log/shoal/access.log > lamps.yaml
    """
    from agent.cli.etcd_client import ask
    from policies.kinds.authz.suggestion import from_calls, from_records, requests
    from registry.census import take

    options: Options = context.obj
    wanted = _parsed(service)
    if records:
        seen = read_records(records, wanted)
        asked = seen.asked()
        passed = [f"{seen.others} lines of others, not served, or no records in JSON"] if seen.others else []
        passed += [f"{seen.lacking} without caller, method or path (see `log` documents)"] if seen.lacking else []
        over = f"passed over: {', '.join(passed)}" if passed else "nothing passed over"
        if not asked:
            named = ", ".join(map(str, records))
            raise Failure(f"no request to {wanted} that was served is in {named}; {over}", Exit.NO)
        options.printer.note(f"{requests(sum(asked.values()))} read; {over}")
        options.printer.document(from_records(wanted, asked))
        return
    census = ask(options, lambda store: take(store, options.mesh, "policies", "instances", "seen"))
    callers = [caller for caller, called in census.calls.items() if wanted in called]
    options.printer.document(from_calls(wanted, callers))


def _parsed(service: str) -> str:
    from policies.language.names import parse_service

    try:
        return parse_service(service)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None


async def _looked(store: Store, mesh: str) -> Census:
    from registry.census import take, trust_domain

    census = await take(store, mesh, "policies", "rejected", "instances", "seen")
    census.trust_domain = await trust_domain(store, mesh)
    return census


# The graph.


def edges(census: Census) -> Iterator[Row]:
    """Who may call each service, as far as documents in etcd say."""
    from policies.kinds.authz.graph import ANONYMOUS, ANYBODY, NONE, may, named

    documents = _documents(census)
    called = {name for names in census.calls.values() for name in names}
    for service in sorted({name for name, _ in census.instances} | called):
        levels, refused = _levels(documents, service)
        seen = sorted(caller for caller, names in census.calls.items() if service in names)
        if refused:
            yield _row(ANYBODY, service, UNKNOWN, [_of_refused(census, pattern) for pattern in refused])
            continue
        if not levels:
            yield _row(ANYBODY, service, "all", [], _seen(ANYBODY, seen))
            continue
        for caller in dict.fromkeys([*named(levels), ANYBODY, *(caller or ANONYMOUS for caller in seen)]):
            found = may(levels, caller)
            was = _seen(caller, seen)
            if found.what != NONE or caller in [each or ANONYMOUS for each in seen]:
                yield _row(caller, service, found.what, list(found.by), was)


def _of_refused(census: Census, pattern: str) -> str:
    """What holds instead, as far as agents have said: they alone know."""
    told = census.rejected.get(("authz", pattern))
    if told is None or told.revision != census.policies["authz", pattern].revision or told.last_good < 0:
        return f"authz/{pattern} is refused: what was good before holds, if anything was"
    if not told.last_good:
        return f"authz/{pattern} is refused: there was none before, and there is none"
    return f"authz/{pattern} is refused: that of revision {told.last_good} holds"


def _row(caller: str, service: str, may: str, by: Sequence[str], seen: str = UNKNOWN) -> Row:
    return {"caller": caller, "service": service, "may": may, "by": list(by), "seen": seen}


def _seen(caller: str, seen: Sequence[str]) -> str:
    """Whether anybody of those was seen to call."""
    from policies.kinds.authz.graph import ANONYMOUS, ANYBODY
    from policies.language.names import matches

    if caller.startswith("spiffe://"):
        return UNKNOWN  # calls are counted by services of this mesh
    if caller == ANYBODY:
        return "seen" if seen else "never"
    if caller == ANONYMOUS:
        return "seen" if "" in seen else "never"
    return "seen" if any(each and matches(caller, each) for each in seen) else "never"


def _documents(census: Census) -> dict[str, Authz | None]:
    """By pattern; None: it is refused."""
    from policies.catalogue import parse
    from policies.kinds.authz.document import Authz
    from policies.kinds.authz.graph import in_own_names

    found: dict[str, Authz | None] = {}
    for (kind, pattern), policy in census.policies.items():
        if kind == "authz":
            document = parse(kind, pattern, policy.text)
            if not isinstance(document, Authz):
                found[pattern] = None
            elif document.mode == "enforce":
                found[pattern] = in_own_names(document, census.trust_domain)
    return found


def _levels(documents: dict[str, Authz | None], service: str) -> tuple[list[tuple[str, Authz]], list[str]]:
    from policies.language.names import candidates

    found = [(pattern, documents[pattern]) for pattern in candidates(service) if pattern in documents]
    levels = [(pattern, document) for pattern, document in found if document is not None]
    return levels, [pattern for pattern, document in found if document is None]


def as_dot(rows: Sequence[Row]) -> Iterator[str]:
    """For Graphviz: dashed, what was never seen; red, what was seen and is denied."""
    yield "digraph authz {"
    yield "  rankdir=LR;"
    for row in rows:
        style = "dashed" if row["seen"] == "never" else "solid"
        color = ' color="red"' if row["may"] == "none" else ""
        yield f'  "{row["caller"]}" -> "{row["service"]}" [label="{row["may"]}" style="{style}"{color}];'
    yield "}"


# What was seen.


class Seen:
    """Requests to a service, as records have them.

    A call over two hosts has two records, of which the one beside the instance has the path that its agent judges; a
    call within one host has one, of the caller's side.
    """

    def __init__(self) -> None:
        self.others = 0
        """Lines that are about another service, or were not served; or are no records."""
        self.lacking = 0
        """Records that do not say who called, or what for: `log` documents may leave that out."""
        self._inbound: Counter[Asked] = Counter()
        self._outbound: Counter[Asked] = Counter()
        self._of_call: dict[str, Asked] = {}
        """By request_id, what the caller's side has of it."""
        self._there: set[str] = set()
        """What the instance's side has."""

    def add(self, asked: Asked, request_id: str, *, inbound: bool) -> None:
        """One that was served."""
        if inbound:
            self._inbound[asked] += 1
            self._there.add(request_id)
        elif request_id:
            self._of_call.setdefault(request_id, asked)
        else:
            self._outbound[asked] += 1

    def asked(self) -> Counter[Asked]:
        """Each call once."""
        alone = (asked for request_id, asked in self._of_call.items() if request_id not in self._there)
        return self._inbound + self._outbound + Counter(alone)


def read_records(files: Sequence[Path], service: str) -> Seen:
    """Requests to a service that were served. Raises Failure."""
    import sys

    import msgspec

    from policies.kinds.authz.suggestion import Asked

    class Record(msgspec.Struct):
        service: str
        status: int
        method: str | None = None
        target: str | None = None
        caller: str | None = None
        direction: str = ""
        request_id: str = ""

    decoder = msgspec.json.Decoder(Record)
    found = Seen()
    for path in files:
        try:
            with sys.stdin.buffer if str(path) == "-" else path.open("rb") as text:
                for line in text:
                    try:
                        record = decoder.decode(line)
                    except (msgspec.MsgspecError, RecursionError):
                        found.others += 1
                        continue
                    if record.service != service or not 100 <= record.status < 400:
                        found.others += 1
                    elif record.caller is None or record.method is None or not (record.target or "").startswith("/"):
                        found.lacking += 1
                    else:
                        asked = Asked(record.caller, record.method, record.target or "")
                        found.add(asked, record.request_id, inbound=record.direction == "inbound")
        except OSError as error:
            raise Failure(f"{path}: {error.strerror or error}", Exit.USAGE) from None
    return found
