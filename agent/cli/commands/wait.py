"""`shoal wait`: until every live agent runs a revision. "Has my policy arrived?" has an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from agent.cli.failure import Failure
from agent.cli.options import Options
from agent.cli.spreading import Laggard, laggards, spread
from agent.findings.finding import Finding
from agent.findings.of_mesh.enforcing import ROOMS, Text, Unable, silence, unable

if TYPE_CHECKING:
    from registry.census import Census
    from registry.store import Store

TIMEOUT_S = 30.0


class Refused(msgspec.Struct, frozen=True):
    """A policy that every agent has seen, and none will use."""

    policy: str
    path: str
    """In the document; `key` where it is the key that names nothing."""
    reason: str

    def __str__(self) -> str:
        return f"{self.policy}: {self.path}: {self.reason}"


class Outcome(msgspec.Struct, frozen=True):
    """How it stands when the waiting is over."""

    revision: int
    agents: int
    lagging: list[Laggard]
    refused: list[Refused]
    """Of the policies that were put at the revision that was asked for, or as the newest change."""
    not_enforced: list[Unable] = []
    """Of the same policies: by whom, and why."""
    silent: str = ""
    """Agents of which that is not known; a sentence."""
    warnings: list[Finding] = []
    """What is wrong with the same policies, though they are in force: `shoal check` finds it."""


def refusals(census: Census, revision: int) -> list[Refused]:
    """The policies of a revision that no agent takes, judged as they judge: their own word comes later."""
    from agent.cli.bundles import refused as cannot_be_put_together
    from agent.rego.proving import installed, prove
    from policies.catalogue import parse
    from policies.language.document import Document, Invalid

    def judged(kind: str, service: str, text: bytes) -> Document | Invalid:
        document = parse(kind, service, text)
        return prove(kind, service, document) if installed() else document

    found = []
    for (kind, service), policy in sorted(census.policies.items()):
        if policy.revision == revision and isinstance(bad := judged(kind, service, policy.text), Invalid):
            found.append(Refused(f"{kind}/{service}", bad.path, bad.reason))
    for (kind, service), policy in sorted(census.audits.items()):
        if policy.revision == revision and isinstance(bad := judged(kind, service, policy.text), Invalid):
            found.append(Refused(f"audits/{kind}/{service}", bad.path, bad.reason))
    if installed():
        put = {at for at, each in census.policies.items() if each.revision == revision}
        watched = {service: each.text for (_, service), each in census.audits.items() if each.revision == revision}
        for aside, bad in cannot_be_put_together({at: each.text for at, each in census.policies.items()}, put, watched):
            found.append(Refused(f"{'audits/' * aside}{bad.kind}/{bad.key}", bad.path, bad.reason))
        for (kind, service), told in sorted(census.rejected.items()):  # by who knows what was good of its bundles
            place = f"{kind}/{service}"
            if kind == "authz" and told.revision == revision and place not in {each.policy for each in found}:
                found.append(Refused(place, told.path, told.reason))
    for (kind, service), misnamed in sorted(census.misnamed.items()):
        if misnamed.revision == revision:
            found.append(Refused(f"{kind}/{service}" if service else kind, "key", misnamed.reason))
    return found


def wait(
    context: typer.Context,
    revision: Annotated[
        int, typer.Argument(min=0, help="Without it: the newest change of the mesh.", show_default=False)
    ] = 0,
    timeout_s: Annotated[float, typer.Option("--timeout", "-t", min=0, help="Seconds.")] = TIMEOUT_S,
) -> None:
    """Wait until every live agent runs a revision of etcd, in all its workers.

    Exit code 1 if they do not in time, or if a policy that was put at this revision is refused, or not known to an
    agent of another version.

    Example:  etcdctl put … && shoal wait
    """
    wait_until(context.obj, revision, timeout_s)


def wait_until(options: Options, revision: int = 0, timeout_s: float = TIMEOUT_S) -> None:
    """Returns when every live agent runs `revision`, or the newest change.

    Raises Failure that names who lags, or what is refused.
    """
    from agent.cli.etcd_client import ask

    end = ask(options, lambda store: _waited(store, options.mesh, revision, timeout_s))
    if options.printer.json:
        options.printer.value(msgspec.to_builtins(end))
    agents = "1 agent" if end.agents == 1 else f"{end.agents} agents"
    if end.lagging:
        raise Failure(
            f"after {timeout_s:g} s revision {end.revision} is not in force everywhere: "
            + "; ".join(map(str, end.lagging))
        )
    if not end.agents:
        raise Failure(f"no agent is alive in the mesh {options.mesh!r}: there is nobody to run revision {end.revision}")
    if end.refused:
        raise Failure(
            f"revision {end.revision} has reached {agents}, and is refused: {'; '.join(map(str, end.refused))}"
        )
    if end.not_enforced:
        raise Failure(f"revision {end.revision} has reached {agents}, but {'; '.join(map(str, end.not_enforced))}")
    if end.silent:
        options.printer.note(f"warning: {end.silent}")
    for warning in end.warnings:
        options.printer.note(f"warning: {warning}")
    options.printer.note(f"revision {end.revision} is in force on {agents}")


async def _waited(store: Store, mesh: str, revision: int, timeout_s: float) -> Outcome:
    import trio

    from agent.cli.before_put import about
    from registry.census import take

    now = await take(store, mesh)
    wanted, judged = revision or now.wanted, revision or now.newest
    with trio.move_on_after(timeout_s):
        await spread(store, mesh, wanted)
    census = await take(store, mesh, "policies", "audits", "instances", "rejected", *ROOMS)
    put = [Text(each.kind, each.service, each.text) for each in census.policies.values() if each.revision == judged]
    return Outcome(
        wanted,
        len(census.agents),
        laggards(census, wanted),
        refusals(census, judged),
        unable(census, put),
        silence(census) if put else "",
        about(census, put),
    )
