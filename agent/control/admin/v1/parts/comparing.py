"""What a host has counted of a candidate's answers (`shadow`), and to count anew. All hosts' are added up from etcd."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from agent.control.admin.v1 import types
from agent.control.admin.v1.operation import Asked, NoQuery, Operation, Trouble
from agent.control.host.rights import Right
from agent.control.traffic.shadow import ShadowTallies
from policies.kinds.shadow.comparison import Outcome, Verdict
from policies.language.names import parse_service


class Comparison(types.Base, frozen=True, kw_only=True):
    """What is to be thought of a candidate, as far as this host saw."""

    service: str
    revision: Annotated[int, Meta(description="Of the document that it is counted by; another one begins anew")]
    outcome: Outcome
    total: Annotated[int, Meta(description="Requests that were compared")]
    skipped: Annotated[dict[str, int], Meta(description="Those that were not, by why")]
    median_s: Annotated[dict[str, float | None], Meta(description="primary, secondary, candidate")]
    thresholds: Annotated[dict[str, Any], Meta(description="As docs/policies/shadow.md has them")]
    fields: Annotated[list[Verdict], Meta(description="Fields of answers that differed, the worst first")]
    omitted: Annotated[int, Meta(description="Fields for which there was no room")]


class Comparing:
    """The handlers."""

    def __init__(self, tallies: ShadowTallies) -> None:
        self._tallies = tallies

    def operations(self) -> list[Operation]:
        """For who operates: examples show what services answered."""
        seen, anew = "How a candidate's answers compared on this host", "Count anew on this host"
        path, operate = "/shadow/{service}", Right.OPERATE
        return [
            Operation("GET", path, "getComparison", seen, NoQuery, Comparison, self._report, right=operate),
            Operation(
                "POST", f"{path}/reset", "resetComparison", anew, NoQuery, Comparison, self._reset, right=operate
            ),
        ]

    async def _report(self, asked: Asked) -> Comparison:
        service = _service(asked)
        found = self._tallies.report(service)
        if found is None:
            raise Trouble(404, f"no shadow policy compares answers of {service}; see docs/policies/shadow.md")
        return msgspec.convert(found, Comparison)

    async def _reset(self, asked: Asked) -> Comparison:
        self._tallies.reset(_service(asked))
        return await self._report(asked)


def _service(asked: Asked) -> str:
    try:
        return parse_service(asked.path["service"])
    except ValueError as error:
        raise Trouble(400, str(error), "$.service") from None
