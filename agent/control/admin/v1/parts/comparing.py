"""What was counted of a candidate's answers (`shadow`), on this host or on all of them; and to count anew."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
import trio
from msgspec import Meta

from agent.control.admin.v1 import types
from agent.control.admin.v1.operation import Asked, NoQuery, Operation, Trouble
from agent.control.host.rights import Right
from agent.control.traffic.shadow import ShadowTallies
from agent.figures.compared import NotCompared, gathered
from agent.settings.document import Settings
from policies.kinds.shadow.comparison import Outcome, Verdict
from policies.language.names import parse_service
from registry.store import Store, StoreError

WITHIN_S: Final = 10.0
"""For etcd to answer."""


class Comparison(types.Base, frozen=True, kw_only=True):
    """What is to be thought of a candidate, as far as this host saw, or all."""

    service: str
    revision: Annotated[int, Meta(description="Of the document that it is counted by; another one begins anew")]
    outcome: Outcome
    total: Annotated[int, Meta(description="Requests that were compared")]
    skipped: Annotated[dict[str, int], Meta(description="Those that were not, by why")]
    median_s: Annotated[dict[str, float | None], Meta(description="primary, secondary, candidate")]
    thresholds: Annotated[dict[str, Any], Meta(description="As docs/policies/shadow.md has them")]
    fields: Annotated[list[Verdict], Meta(description="Fields of answers that differed, the worst first")]
    omitted: Annotated[int, Meta(description="Fields for which there was no room")]
    agents: Annotated[list[str], Meta(description="Whose counts these are")] = msgspec.field(default_factory=list)
    left_out: Annotated[dict[str, str], Meta(description="By host: why its counts are not among them")] = msgspec.field(
        default_factory=dict
    )


class ComparisonQuery(types.Query, frozen=True, kw_only=True):
    """Of a comparison."""

    scope: types.Scope = "agent"


class Comparing:
    """The handlers."""

    def __init__(self, tallies: ShadowTallies, settings: Settings, store: Store) -> None:
        """`store`: where all hosts tell what they count."""
        self._tallies = tallies
        self._settings = settings
        self._store = store

    def operations(self) -> list[Operation]:
        """For who operates: examples show what services answered."""
        seen, anew = "How a candidate's answers compared, on this host or on all", "Count anew on this host"
        path, operate = "/shadow/{service}", Right.OPERATE
        return [
            Operation("GET", path, "getComparison", seen, ComparisonQuery, Comparison, self._report, right=operate),
            Operation(
                "POST", f"{path}/reset", "resetComparison", anew, NoQuery, Comparison, self._reset, right=operate
            ),
        ]

    async def _report(self, asked: Asked) -> Comparison:
        service = _service(asked)
        return await self._of_all(service) if asked.query.scope == "mesh" else self._own(service)

    def _own(self, service: str) -> Comparison:
        found = self._tallies.report(service)
        if found is None:
            raise Trouble(404, f"no shadow policy compares answers of {service}; see docs/policies/shadow.md")
        return msgspec.structs.replace(msgspec.convert(found, Comparison), agents=[self._settings.host])

    async def _of_all(self, service: str) -> Comparison:
        try:
            with trio.fail_after(WITHIN_S):
                found = await gathered(self._store, self._settings.mesh, service)
        except NotCompared as error:
            raise Trouble(404, str(error)) from None
        except (StoreError, trio.TooSlowError) as error:
            raise Trouble(503, f"what other hosts count stands in etcd, which does not answer: {error}") from None
        return msgspec.convert(found, Comparison)

    async def _reset(self, asked: Asked) -> Comparison:
        self._tallies.reset(_service(asked))
        return self._own(_service(asked))


def _service(asked: Asked) -> str:
    try:
        return parse_service(asked.path["service"])
    except ValueError as error:
        raise Trouble(400, str(error), "$.service") from None
