"""`shoal watch`: changes of the mesh as they happen, and how they come into force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from agent.cli.completion import kinds, patterns
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options
from agent.cli.watching.selection import SORTS, Selection


def watch(
    context: typer.Context,
    pattern: Annotated[
        str,
        typer.Argument(
            help="Only what is of a service, or of those of a pattern: '*.production'.", autocompletion=patterns
        ),
    ] = "",
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="KIND", help="Only policies of a kind; may be repeated.", autocompletion=kinds),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="SORT", help=f"Only {', '.join(SORTS)}; may be repeated."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when the first change that comes is in force everywhere.")
    ] = False,
    lasting: Annotated[str, typer.Option("--for", metavar="TIME", help="End after so long: 30s.")] = "",
) -> None:
    """Show changes as they happen, and how they come into force: what was put or removed, by whom and why, which
    instances came and went, which agents run it already, which refuse it, and who lags.

    Ctrl-C ends it. With `--once` the exit code is 1 when the change is refused, or not in force everywhere in time.

    Example:  shoal watch pets.production --kind route
    """
    options: Options = context.obj
    selection = _selection(pattern, kind or (), only or ())
    for_s = _seconds(lasting)
    outcome = _watched(options, selection, once, for_s)
    if once and not outcome:
        said = "nothing came into force everywhere in time" if outcome is None else "it is not in force everywhere"
        raise Failure(said)


def _watched(options: Options, selection: Selection, once: bool, for_s: float) -> bool | None:
    import logging

    import structlog

    from agent.cli.etcd_client import ask
    from agent.cli.watching.reading import Watching

    # What follows etcd logs for agents; here it is told as lines.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return ask(
        options,
        lambda store: Watching(store, options.mesh, selection, options.printer).run(once=once, for_s=for_s),
    )


def _selection(pattern: str, kinds: Sequence[str], only: Sequence[str]) -> Selection:
    from policies.catalogue import BY_NAME
    from policies.language.document import meant
    from policies.language.names import parse_pattern

    try:
        wanted = parse_pattern(pattern) if pattern else ""
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
    for kind in kinds:
        if kind not in BY_NAME:
            raise Failure(
                f"--kind {kind!r}: no kind of policies{meant(kind, BY_NAME)}; there are: {', '.join(BY_NAME)}",
                Exit.USAGE,
            )
    sorts = frozenset(sort for sort in SORTS if sort in only)
    for each in only:
        if each not in SORTS:
            raise Failure(f"--only {each!r}: one of {', '.join(SORTS)}", Exit.USAGE)
    if kinds and sorts and "policies" not in sorts:
        raise Failure(f"--kind is of policies, and --only {only[0]} leaves them out", Exit.USAGE)
    return Selection(wanted, frozenset(kinds), sorts)


def _seconds(text: str) -> float:
    """0: without an end."""
    from policies.language.duration import seconds

    try:
        found = seconds(text) if text else 0.0
    except ValueError as error:
        raise Failure(f"--for: {error}", Exit.USAGE) from None
    if text and not found:
        raise Failure("--for: more than 0 s", Exit.USAGE)
    return found
