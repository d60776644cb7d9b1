"""`shoal replay`: sends what is stored in a topic to its service."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from agent.cli.completion import services
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options
from agent.cli.printing import Printer

if TYPE_CHECKING:
    from agent.topics.replay import Outcome, Totals
    from policies.kinds.shed.topic import Place
    from registry.store import Store

DEFAULT_PROXY = "http://127.0.0.1:15001"


def replay(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="SERVICE|URL", help="A service, or the URL of a topic.", autocompletion=services)
    ],
    rate: Annotated[float, typer.Option(min=0.001, max=100_000, help="Requests a second.")] = 10.0,
    most: Annotated[int, typer.Option("--max", min=0, help="Stop after so many; 0: all there are.")] = 0,
    attempts: Annotated[int, typer.Option(min=1, max=1000, help="At each, before it is left in the topic.")] = 5,
    look: Annotated[bool, typer.Option("--dry-run", help="Only show what is stored.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on, with what is stored from now on.")] = False,
    proxy: Annotated[
        str, typer.Option(envvar="SHOAL_PROXY", metavar="URL", help="Where the agent of this host takes calls.")
    ] = DEFAULT_PROXY,
    user: Annotated[str, typer.Option(help="Of Redis, where the policy does not say.")] = "",
    secret: Annotated[
        Path | None, typer.Option("--secret-file", help="Holds Redis' password or Pulsar's token; or SHOAL_SECRET.")
    ] = None,
) -> None:
    """Send requests that were stored instead of served to their service, at a rate; each at least once.

    A service's topics are those that its `shed` policy names. A request leaves the topic when its service has answered,
    and not with a failure. Exit code 1 when some are left. A secret goes only with a URL that you give: a policy could
    name anybody's.

    Example:  shoal replay orders.production --rate 50
    """
    import trio

    options: Options = context.obj
    password = _secret(secret)
    named = _topics(options, what)
    if password and "://" not in what:
        raise Failure(_whose(named), Exit.USAGE)
    at = _proxy(proxy)
    done = left = 0
    for place, own_user in named:
        totals = trio.run(_replay, options.printer, place, own_user or user, password, at, rate, most,
                          attempts, look, follow)  # fmt: skip
        done += totals.done
        left += totals.left
    if options.printer.json:
        options.printer.value({"done": done, "left": left})
    elif look:
        options.printer.note(f"{left} are stored")
    else:
        options.printer.note(f"{done} sent" + (f", {left} left in the topic" if left else ""))
    if left and not look:
        raise typer.Exit(Exit.NO)


async def _replay(
    printer: Printer,
    place: Place,
    user: str,
    secret: str,
    proxy: tuple[str, int],
    rate: float,
    most: int,
    attempts: int,
    look: bool,
    follow: bool,
) -> Totals:
    import httpcore

    from agent.topics.broker import BrokerError, Credentials
    from agent.topics.brokers import broker_of
    from agent.topics.replay import Replay

    run = Replay(
        broker_of(place, Credentials(user, secret)),
        proxy,
        lambda outcome: _show(printer, outcome),
        rate=rate,
        most=most,
        attempts=attempts,
        looking=look,
        follow=follow,
    )
    try:
        return await run.run()
    except* BrokerError as group:
        raise Failure(f"{place.url}: {_reason(group)}", Exit.UNREACHABLE) from None
    except* httpcore.ConnectError as group:
        raise Failure(f"no agent takes calls at {proxy[0]}:{proxy[1]}: {_reason(group)}", Exit.UNREACHABLE) from None


def _reason(group: BaseExceptionGroup[Any]) -> str:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return str(found)


def _show(printer: Printer, outcome: Outcome) -> None:
    stored = outcome.stored
    if isinstance(stored, str):
        row: dict[str, Any] = {"id": "", "said": outcome.said, "done": False}
    else:
        row = {
            "id": stored.id,
            "at": f"{datetime.fromtimestamp(stored.at, UTC):%Y-%m-%dT%H:%M:%SZ}",
            "service": stored.service,
            "method": stored.method,
            "target": stored.target,
            "done": outcome.done,
            "said": outcome.said,
        }
    if printer.json:
        printer.value(row)
    else:
        printer.text("  ".join(str(row.get(name, "-")) for name in ("at", "id", "service", "method", "target", "said")))


def _secret(path: Path | None) -> str:
    try:
        return (path.read_text() if path is not None else os.environ.get("SHOAL_SECRET", "")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"--secret-file: {error}", Exit.USAGE) from None


def _whose(named: list[tuple[Place, str]]) -> str:
    """Why no password is sent to where a policy says."""
    place, user = named[0]
    again = f"shoal replay '{place.url}'" + (f" --user {user}" if user else "") + " --secret-file FILE"
    return f"a secret is sent only where you say yourself, and a policy says {place.url}; if that is right: {again}"


def _proxy(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname:
            return parts.hostname, parts.port or 15001
    except ValueError:
        pass
    raise Failure(f"--proxy {url!r} is no URL such as {DEFAULT_PROXY}", Exit.USAGE)


def _topics(options: Options, what: str) -> list[tuple[Place, str]]:
    """The places, and as which user. Raises Failure."""
    from policies.kinds.shed.topic import parse_topic
    from policies.language.names import parse_service

    try:
        if "://" in what:
            return [(parse_topic(what), "")]
        service = parse_service(what)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
    from agent.cli.etcd_client import ask

    found = ask(options, lambda store: _named(store, options.mesh, service))
    if not found:
        raise Failure(f"no shed policy in force for {service} names a topic; give its URL", Exit.NO)
    return found


async def _named(store: Store, mesh: str, service: str) -> list[tuple[Place, str]]:
    from policies.catalogue import parse
    from policies.kinds.shed.document import Shed
    from policies.kinds.shed.topic import parse_topic
    from policies.language.document import Invalid
    from policies.language.names import candidates
    from registry.keys import Keys

    keys = Keys(mesh)
    for pattern in candidates(service):
        item = await store.get(keys.policy("shed", pattern))
        if item is None:
            continue
        document = parse("shed", pattern, item.value)
        if isinstance(document, Invalid):
            raise Failure(f"shed/{pattern}: {document.path}: {document.reason}")
        if isinstance(document, Shed):
            return [
                (parse_topic(way.topic.url, service), way.topic.user)
                for way in document.instead
                if way.topic is not None
            ]
    return []
