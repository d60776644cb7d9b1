"""Documents that somebody has not put yet, and what would be in force with them.

Laws
- What would have others asked, an evaluator of Rego or an OPA, only who operates may suppose: they are asked for it.
- Documents are read in a thread, one question's after another's: what they say is work of who asks, and control's loop
  goes on meanwhile. After one that would be refused none is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec
import trio

from agent.control.admin.v1 import types
from agent.control.admin.v1.operation import Trouble
from agent.control.mesh.documents.reading import Put, Read, read
from agent.control.mesh.supposing import Mesh, Proposed
from agent.control.mesh.table import Table
from agent.questions import Supposed
from agent.rego.together import AUTHZ, REGO
from policies.catalogue import BY_NAME, parse
from policies.kinds.authz.document import Authz
from policies.language.document import Invalid, meant
from policies.language.names import parse_pattern, parse_service
from policies.language.plain import Flaw


async def supposed(
    table: Table, body: types.Explain, *, operates: bool, reading: trio.CapacityLimiter
) -> list[Supposed]:
    """Of what is asked to be explained. `reading`: of one, in whose turn documents are read. Raises Trouble for what
    would be refused, with its place."""
    if not body.documents:
        return []
    try:
        proposed = [_proposed(f"$.documents[{number}]", each) for number, each in enumerate(body.documents)]
        known = await trio.to_thread.run_sync(_known, proposed, operates, limiter=reading)
        return Mesh(table, proposed, known).supposed(_service(body.url))
    except Flaw as flaw:
        raise Trouble(409, flaw.reason, flaw.path) from None


def _known(proposed: Sequence[Proposed], operates: bool) -> dict[Put, Read]:
    """What they say, in a thread. Raises Trouble for what only who operates may suppose."""
    found: dict[Put, Read] = {}
    for number, each in enumerate(proposed):
        if each.text is None or each.kind == REGO:
            continue
        if not operates and each.kind == AUTHZ and _asks_others(each.pattern, each.text):
            reason = "it has Rego or an OPA asked, which only who operates this agent may suppose"
            raise Trouble(403, reason, f"$.documents[{number}]")
        put = each.kind, each.pattern, each.text
        if put not in found:
            found[put] = read(*put)
        if isinstance(found[put].document, Invalid):
            break
    return found


def _asks_others(pattern: str, text: bytes) -> bool:
    found = parse(AUTHZ, pattern, text)
    return isinstance(found, Authz) and (found.rego is not None or found.opa is not None)


def _service(url: str) -> str:
    """Which a request is for; empty: the walk will say that it is none."""
    try:
        return parse_service(urlsplit(url if "//" in url else f"//{url}").hostname or "")
    except ValueError:
        return ""


def _proposed(place: str, each: types.ProposedDocument) -> Proposed:
    try:
        pattern = parse_pattern(each.pattern)
    except ValueError as error:
        raise Flaw(f"{place}.pattern", str(error)) from None
    if each.kind not in BY_NAME:
        raise Flaw(f"{place}.kind", f"no kind of policy{meant(each.kind, BY_NAME)}; there are: {', '.join(BY_NAME)}")
    if each.text and each.document is not None:
        raise Flaw(place, "its text, or what it says as JSON, and not both")
    text = each.text.encode() if each.text else None
    if each.document is not None:
        text = msgspec.json.encode(each.document)
    return Proposed(each.kind, pattern, each.mode == "audit", text)
