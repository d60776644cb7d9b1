"""What people may ask of comparisons."""

from __future__ import annotations

import json

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from agent.control.admin.shadow_api import ShadowApi
from agent.control.mesh.table import Table
from agent.control.traffic.shadow import ShadowTallies
from policies.kinds.shadow.comparison import note
from registry.keys import Keys
from registry.store import Change

SERVICE = "pets.production"
DOCUMENT = {"compare": {"primary": "v1", "candidate": {"version": "v2"}, "thresholds": {"min_requests": 10}}}


async def test_it_tells_and_begins_anew() -> None:
    """GET and POST, and what there is not."""
    table = Table(Keys(), "here")
    table.in_force.take("shadow", SERVICE, Change("", json.dumps(DOCUMENT).encode(), 7))
    tallies = ShadowTallies(table)
    state = tallies._state(SERVICE)
    assert state is not None
    note(state.tally, "GET /pets", "id", {}, {})
    routes = [Route(door.path, door.handler, methods=[door.method]) for door in ShadowApi(tallies).doors()]
    transport = httpx.ASGITransport(app=Starlette(routes=routes))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        found = await client.get("/diff/pets.production")
        assert (found.status_code, found.json()["total"], found.json()["outcome"]) == (200, 1, "unknown")
        assert (await client.post("/diff/pets.production/reset")).json()["total"] == 0
        assert (await client.get("/diff/pets.production")).json()["total"] == 0
        assert (await client.get("/diff/-")).status_code == 400
        missing = await client.get("/diff/shop.production")
        assert missing.status_code == 404
        assert "no shadow policy compares answers of shop.production" in missing.json()["reason"]
