"""What people may ask of shadow comparisons through the agent's socket: this host's tallies, and to count anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from agent.control.admin.door import Answer, Door, refusal
from agent.control.host.rights import Right
from agent.control.traffic.shadow import ShadowTallies
from policies.language.names import parse_service


class ShadowApi:
    """The handlers."""

    def __init__(self, tallies: ShadowTallies) -> None:
        self._tallies = tallies

    def doors(self) -> list[Door]:
        """For the agent's socket: examples show what services answered."""
        return [
            Door("GET", "/diff/{service}", self._diff, Right.OPERATE),
            Door("POST", "/diff/{service}/reset", self._reset, Right.OPERATE),
        ]

    async def _diff(self, request: Request) -> Response:
        """What this host counted."""
        return _answered(request, self._tallies.report)

    async def _reset(self, request: Request) -> Response:
        """Count anew on this host."""
        return _answered(request, self._begun_anew)

    def _begun_anew(self, service: str) -> dict[str, Any] | None:
        return self._tallies.report(service) if self._tallies.reset(service) else None


def _answered(request: Request, ask: Callable[[str], dict[str, Any] | None]) -> Response:
    try:
        service = parse_service(request.path_params["service"])
    except ValueError as error:
        return refusal(400, str(error))
    found = ask(service)
    if found is None:
        return refusal(404, f"no shadow policy compares answers of {service}; see docs/policies/shadow.md")
    return Answer(found)
