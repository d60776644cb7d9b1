"""The agent on this host, for commands that can do without what it says, and have to know when it should be there."""

from __future__ import annotations

import http
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from agent.cli.agent_client import API, Refused
from agent.cli.failure import Exit, Failure

if TYPE_CHECKING:
    from agent.cli.options import Options

NO_SERVICE: Final = re.compile(r"there is no service [^;]*")
MOST: Final = 1000
"""Suspects that are asked for."""


class Local(NamedTuple):
    """What was heard of it."""

    state: dict[str, Any] | None
    """What it says of itself; None: nothing."""
    why: str = ""
    """Why it says nothing; empty: it does, or none is meant to be here."""


def local_agent(options: Options) -> Local:
    """One is meant to be here where it was named, or has left its socket: a laptop has none, and nothing is wrong with
    that; a host whose agent was killed has. Raises Failure for a place that can be none."""
    try:
        told = options.admin.state()
        return Local(told if told.get("mesh") == options.mesh else told | {"lost": [], "suspects": []})
    except Failure as failure:
        if failure.code == Exit.USAGE:
            raise
        return Local(None, failure.message if options.expects_agent else "")


def refuse_unknown(options: Options, service: str) -> None:
    """For answers with nothing in them: of a service that is mistyped nothing would read as if all was quiet. Raises
    Failure that says what may be meant; a pattern, and no service at all, is asked about as it is."""
    if not service or "*" in service:
        return
    try:
        options.admin.get(f"{API}/services/{quote(service, safe='')}")
    except Refused as refused:
        found = NO_SERVICE.search(refused.message)
        if refused.status == http.HTTPStatus.NOT_FOUND and found:
            raise Failure(f"{found[0]}; `shoal services` lists those that there are") from None
    except Failure:
        return  # it has answered before: of this it says nothing


def suspects(options: Options, service: str = "") -> list[dict[str, Any]]:
    """Instances that the agent on this host keeps though their records vanished, as `GET /api/v1/instances` has them;
    none where it says nothing."""
    try:
        mesh = options.admin.get(f"{API}/mesh")
        if mesh["name"] != options.mesh or not mesh["suspects"]:
            return []
        query = [("state", "suspect"), ("limit", str(MOST)), *([("service", service)] if service else [])]
        return list(options.admin.get(f"{API}/instances", query)["items"])
    except (LookupError, TypeError):
        return []
    except Failure as failure:
        if failure.code == Exit.USAGE:
            raise
        return []
