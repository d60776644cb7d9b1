"""An explanation to its end: what a worker of this agent says, and then the agent beside the instance.

Where that agent would let no more in, the explanation goes on with that, as the request would.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from agent import questions
from agent.control.identity.way import NoAnswer
from agent.control.traffic.peers import Peers
from agent.control.workers.fleet import Fleet
from agent.questions import EXPLAIN, Decision, Explain, Explained

ASK_S: Final = 2.0
MOST_HOPS: Final = 5
"""Agents that are asked: each that lets no more in leads to another."""


async def explain(fleet: Fleet, peers: Peers, asked: Explain) -> dict[str, Any] | None:
    """An `Explained`, as plain data; decisions of another agent have `host`. None: no worker can be asked."""
    shed: dict[str, str] = {}
    decisions: list[dict[str, Any]] = []
    for _ in range(MOST_HOPS):
        args = msgspec.to_builtins(msgspec.structs.replace(asked, shed=shed))
        answers = await fleet.ask("explain", args, one=True)
        if not answers:
            return None
        here = msgspec.convert(answers[0], Explained)
        decisions = msgspec.to_builtins(here.decisions)
        told = {"decisions": decisions, "endpoint": here.endpoint, "status": here.status}
        if here.hop is None or here.endpoint is None:
            decisions += [msgspec.to_builtins(here.record)] if here.record is not None else []
            return told
        host = str(here.endpoint["via"])
        inbound = str(here.hop.inbound).rpartition("/")[0]
        hop = msgspec.structs.replace(here.hop, supposed=[e for e in asked.supposed if e.service == inbound])
        there = await _ask(peers, host, hop)
        decisions += [{**msgspec.to_builtins(decision), "host": host} for decision in there.decisions]
        record = [{**msgspec.to_builtins(there.record), "host": host}] if there.record is not None else []
        if there.status is None:
            decisions += record
            return told
        enforced = [decision for decision in there.decisions if decision.mode != "audit"]
        refused = next((decision for decision in enforced if decision.decision == "not let in"), None)
        if refused is None:
            decisions += record
            return {**told, "status": there.status, "endpoint": None}
        shed[str(here.hop.inbound)] = f"{here.hop.inbound} is overloaded: {refused.reason}"
    return told


async def _ask(peers: Peers, host: str, hop: Explain) -> Explained:
    """What another agent says; where it says nothing, that."""
    try:
        status, said = await peers.ask(host, EXPLAIN, msgspec.msgpack.encode(hop), ASK_S)
        found = questions.read(said, Explained) if status == 200 else questions.refused(status, said)
    except NoAnswer as error:
        found = str(error)
    if isinstance(found, Explained):
        if hop.supposed and not found.supposed:
            old = Decision("deliver", "not known", f"the agent on {host} is of a version that supposes nothing")
            return msgspec.structs.replace(found, decisions=[old, *found.decisions])
        return found
    return Explained([Decision("deliver", "not known", f"the agent on {host} was not heard: {found}")])
