"""An explanation that goes on at another agent."""

from __future__ import annotations

import json
from typing import Any

from agent.control.mesh.table import Table
from agent.control.traffic.explain import explain
from agent.control.traffic.peers import Peers
from agent.questions import Explain
from registry.keys import Keys
from registry.store import Change
from tests.support.proxy import SERVICE, endpoint, running_proxy

LIMIT = {"limits": [{"name": "all", "rate": "1/h", "side": "service"}]}


class Fleet:
    """Whose worker has picked an instance behind another agent."""

    async def ask(self, what: str, args: dict[str, Any], *, one: bool) -> list[Any]:
        hop = {"url": f"http://{SERVICE}/", "inbound": f"{SERVICE}/one"}
        picked = {"id": "one", "service": SERVICE, "via": "there"}
        return [{"decisions": [], "endpoint": picked, "status": None, "hop": hop}]


async def test_another_agent_is_asked_from_where_this_one_is_registered() -> None:
    """It believes no other address of this host."""
    async with running_proxy() as there:
        there.worker.agents.learn({"here": "127.0.0.3"}, "there")
        there.worker.table.host = "there"
        there.put(endpoint(9, "one", agent="there"), ratelimit=LIMIT)
        keys = Keys()
        known = Table(keys, "here")
        records = {"here": {"address": "127.0.0.3", "inbound_port": 9}}
        records["there"] = {"address": "127.0.0.1", "inbound_port": there.inbound_port}
        known.apply([Change(keys.agent(h), json.dumps(record).encode(), 2) for h, record in records.items()], 2)
        fleet: Any = Fleet()
        peers = Peers(known)
        told = await explain(fleet, peers, Explain(f"http://{SERVICE}/"))
        await peers.aclose()
        assert told is not None
        assert [(each["phase"], each["decision"], each["host"]) for each in told["decisions"]] == [
            ("admit", "goes on", "there")
        ]
