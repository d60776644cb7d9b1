"""Back-pressure on real sockets: three agents, A → B → C, and C is asked for three times what it can bear."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from tests.support.chain import CALLS, HANDS, WORK_S, ChainOfServices
from tests.support.mesh import Mesh, running_mesh

CAN_BEAR = HANDS / WORK_S / CALLS
"""Requests a second."""


async def work(mesh: Mesh) -> ChainOfServices:
    """10 s to find out, and 15 s that count."""
    chain = ChainOfServices(mesh.agents)
    async with trio.open_nursery() as nursery:
        await chain.start(nursery)
        await chain.load(3 * CAN_BEAR, 10)
        chain.forget()
        await chain.load(3 * CAN_BEAR, 15)
        await chain.close()
        nursery.cancel_scope.cancel()
    return chain


@pytest.mark.parametrize("backpressure", [True, False])
def test_hardly_any_work_is_for_nothing(tmp_path: Path, backpressure: bool) -> None:
    """Of the calls that C answered nearly all were of requests that succeeded, where without it many were not; what
    needs no call of C is answered; and no queue grows."""
    with running_mesh(tmp_path) as mesh:
        for host in ("one", "two", "three"):
            mesh.agent(host)
        mesh.put("policies/shed/c.production", {})
        if backpressure:
            for name in "ab":
                mesh.put(f"policies/shed/{name}.production", {"backpressure": True})
        chain = trio.run(work, mesh)
        useful = chain.good["/orders"] * CALLS / chain.worked
        figures = f"{useful:.2f} useful, {chain.good} of {chain.came}, C did {chain.worked}, queue {chain.longest}"
        if not backpressure:
            assert useful < 0.85, figures
            return
        assert useful >= 0.75, figures
        assert chain.good["/home"] >= 0.9 * chain.came["/home"], figures
        assert chain.longest <= 60, figures
        first, second, _ = mesh.agents
        for agent, name in ((first, "a"), (second, "b")):
            counted = f'shoal_shed_total{{outcome="backpressure",service="{name}.production"}}'
            assert counted in agent.text("/metrics"), figures
            assert agent.state()["services"][f"{name}.production"]["backpressure"]["window"] > 0
        told = second.ask("b.production", "/orders", x_shoal_explain="1")
        assert "backpressure" in json.dumps(told.headers) or "no room" in json.dumps(told.headers)
