"""An explanation to its end: what a worker of this agent says, and then the agent beside the instance.

Where that agent would let no more in, the explanation goes on with that, as the request would.
"""

from __future__ import annotations

from typing import Any, Final

import httpx
import msgspec

from agent.control.mesh.table import Table
from agent.control.workers.fleet import Fleet

HOST: Final = "agent.shoal"
PATH: Final = "/explain"
ASK_S: Final = 2.0
MOST_HOPS: Final = 5
"""Agents that are asked: each that lets no more in leads to another."""


async def explain(fleet: Fleet, table: Table, args: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments and answer of `agent.proxy.request.explain`; decisions of another agent have `host`. None: no worker
    can be asked."""
    shed: dict[str, str] = {}
    async with httpx.AsyncClient(timeout=ASK_S, trust_env=False) as client:
        for _ in range(MOST_HOPS):
            answers = await fleet.ask("explain", {**args, "shed": shed}, one=True)
            if not answers:
                return None
            told: dict[str, Any] = answers[0]
            hop = told.pop("hop", None)
            if hop is None:
                return told
            host = told["endpoint"]["via"]
            there = await _ask(client, table, host, hop)
            told["decisions"] += [{**decision, "host": host} for decision in there["decisions"]]
            enforced = [decision for decision in there["decisions"] if decision["mode"] != "audit"]
            refused = next((decision for decision in enforced if decision["decision"] == "not let in"), None)
            if there["status"] is None:
                return told
            if refused is None:
                return {**told, "status": there["status"], "endpoint": None}
            shed[hop["inbound"]] = f"{hop['inbound']} is overloaded: {refused['reason']}"
    return told


async def _ask(client: httpx.AsyncClient, table: Table, host: str, hop: dict[str, Any]) -> dict[str, Any]:
    """What another agent says; where it says nothing, that."""
    record = table.agents.get(host)
    reason = "no such agent lives in this mesh"
    if record is not None:
        address = f"[{record.address}]" if ":" in record.address else record.address
        try:
            answer = await client.post(
                f"http://{address}:{record.inbound_port}{PATH}",
                content=msgspec.msgpack.encode(hop),
                headers={"host": HOST},
            )
            if answer.status_code == 200:
                return msgspec.msgpack.decode(answer.content, type=dict[str, Any])
            reason = f"it answers {answer.status_code}"
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            reason = str(error) or type(error).__name__
    unknown = {"phase": "deliver", "policy": "", "revision": 0, "mode": "enforce", "decision": "not known"}
    return {"decisions": [{**unknown, "reason": f"the agent on {host} was not heard: {reason}"}], "status": None}
