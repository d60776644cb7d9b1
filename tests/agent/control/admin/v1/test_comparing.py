"""What people may ask of comparisons."""

from __future__ import annotations

import json

import httpx
import msgspec
from starlette.applications import Starlette
from starlette.routing import Route

from agent.control.admin.v1.parts.comparing import Comparing
from agent.control.mesh.table import Table
from agent.control.traffic.shadow import ShadowTallies
from agent.settings.document import Settings
from policies.kinds.shadow.comparison import note
from policies.kinds.shadow.difference import Difference
from registry.keys import Keys
from registry.records import Compared, encode
from registry.store import Change
from tests.support.memory import MemoryStore

KEYS = Keys()
SERVICE = "pets.production"
DOCUMENT = {"compare": {"primary": "v1", "candidate": {"version": "v2"}, "thresholds": {"min_requests": 10}}}


async def test_it_tells_and_begins_anew() -> None:
    """GET and POST, fields with their examples, and what there is not."""
    table = Table(Keys(), "here")
    table.in_force.take("shadow", SERVICE, Change("", json.dumps(DOCUMENT).encode(), 7))
    tallies = ShadowTallies(table)
    state = tallies._state(SERVICE)
    assert state is not None
    note(state.tally, "GET /pets", "id", {"$.name": Difference("$.name", "Tom", "Kitty")}, {})
    store = MemoryStore()
    doors = [operation.door() for operation in Comparing(tallies, Settings(host="here"), store).operations()]
    transport = httpx.ASGITransport(app=Starlette(routes=[Route(d.path, d.handler, methods=[d.method]) for d in doors]))
    async with httpx.AsyncClient(transport=transport, base_url="http://here/api/v1") as client:
        found = await client.get("/shadow/pets.production")
        told = found.json()
        assert (found.status_code, told["total"], told["outcome"], told["revision"]) == (200, 1, "unknown", 7)
        assert (told["fields"][0]["field"], told["fields"][0]["examples"][0]["candidate"]) == ("$.name", "Kitty")
        assert told["agents"] == ["here"]
        assert (await client.get("/shadow/pets.production?scope=mesh")).status_code == 404
        revision = await store.put(KEYS.policy("shadow", SERVICE), json.dumps(DOCUMENT).encode())
        for host, of in (("here", revision), ("there", revision), ("old", revision - 1)):
            record = Compared(revision=of, thresholds={"min_requests": 2}, tally=msgspec.to_builtins(state.tally))
            await store.put(KEYS.tally(SERVICE, host, own=True), encode(record))
        both = (await client.get("/shadow/pets.production?scope=mesh")).json()
        assert (both["total"], both["agents"], list(both["left_out"])) == (2, ["here", "there"], ["old"])
        assert (both["fields"][0]["raw"], both["revision"]) == (2, revision)
        assert (await client.post("/shadow/pets.production/reset")).json()["total"] == 0
        assert (await client.get("/shadow/pets.production")).json()["total"] == 0
        assert (await client.get("/shadow/-")).status_code == 400
        missing = await client.get("/shadow/shop.production")
        assert missing.status_code == 404
        assert "no shadow policy compares answers of shop.production" in missing.json()["detail"]
