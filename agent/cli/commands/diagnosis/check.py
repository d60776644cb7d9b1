"""`shoal check`: is everything as it should be, and what is to be done where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from agent.cli.failure import Exit

if TYPE_CHECKING:
    from agent.cli.options import Options
    from agent.cli.printing import Printer
    from agent.findings.alerts import Alert


def check(
    context: typer.Context,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help="Findings of this name; may be repeated.")
    ] = None,
) -> None:
    """Look for what is wrong: etcd, agents, documents that match nothing or lead nowhere, instances, keys, open ports.

    What etcd holds, and what each agent says of itself: the agent on this host asks the others.
    Each finding says what to do next. Exit code 1 when there is an error or a warning.

    Example:  shoal check --ignore etcd-release
    """
    from agent.cli.commands.diagnosis.gather import looked

    options: Options = context.obj
    facts, all_found = looked(options)
    found = [alert for alert in all_found if alert.id not in (ignore or [])]
    if options.printer.json:
        options.printer.value(msgspec.to_builtins(found))
    else:
        _show(options.printer, found)
        census = facts.census
        services = len({service for service, _ in census.instances})
        options.printer.note(
            f"looked at {_many(len(facts.members), 'member')} of etcd, {_many(len(census.agents), 'agent')}, "
            f"{_many(services, 'service')} and {_many(len(census.policies), 'document')}: {_sum(found)}"
        )
    if any(finding.severity != "info" for finding in found):
        raise typer.Exit(Exit.NO)


def _show(printer: Printer, found: list[Alert]) -> None:
    for finding in found:
        printer.text(f"{finding.severity:8} {finding.id}  {finding.where}: {finding.what}")
        printer.text(f"         → {finding.next}")


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _sum(found: list[Alert]) -> str:
    counts = {severity: sum(one.severity == severity for one in found) for severity in ("error", "warning", "info")}
    told = [_many(count, severity) for severity, count in counts.items() if count and severity != "info"]
    return " and ".join(told) or "nothing is wrong"
