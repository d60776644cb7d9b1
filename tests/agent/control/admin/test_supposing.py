"""Documents that are proposed: what an explanation tells with them is what it tells when they have been put.

A whole agent: control in this process, a real worker, a real etcd.
"""

from __future__ import annotations

import json
import random
import re
import shlex
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.control.admin.v1 import proposing, types
from agent.control.admin.v1.operation import Trouble
from agent.control.admin.v1.problem import ROOT as API
from agent.control.admin.v1.proposing import supposed
from agent.control.mesh import supposing
from agent.control.mesh.documents import reading
from agent.control.mesh.documents.reading import Read
from agent.control.mesh.table import Table
from registry.etcd.server import EtcdProcess
from registry.keys import Keys
from tests.agent.control.admin.test_api import Running, ask, running
from tests.policies.test_pages import KEY, PUTS
from tests.support.proxy import listening

PETS, FILMS, SHOP = "pets.production", "films.production", "shop.production"
DRAWN = re.compile(r"percent|split|weight|share|rego|opa|hash|sample|traces")
"""What is drawn for each request anew, or asked of processes of their own."""
LATER = ("health", "rego", "scale", "webhook")
"""Kinds that say nothing of a request by themselves: what comes of them comes later."""
PATTERNS = (PETS, PETS, FILMS, SHOP, "*.production", "*")
OTHERS = {
    ("route", '{"rules": [{"match": [{"path": {"prefix": "/a"}}], "service": "films.production"}]}'),
    ("route", '{"rules": [{"match": [{"headers": {"x-tier": "free"}}], "respond": {"status": 418}}]}'),
    ("breaker", '{"trip": {"consecutive": 3}, "fallback": {"service": "films.production"}}'),
    ("isolation", '{"allow": ["shop.production"]}'),
    ("isolation", '{"allow": []}'),
    ("authz", '{"rules": [{"allow": ["shop.production"], "match": {"path": {"prefix": "/a"}}}]}'),
    ("authz", '{"rules": [{"allow": "anybody"}], "outbound": true}'),
    ("authz", '{"rules": []}'),
    ("timeout", '{"request": "none"}'),
    ("timeout", '{"request": 7'),
    ("retry", '{"attempts": 7, "mode": "audit"}'),
    ("retry", "attempts: 4\nmode: audit\n"),
    ("route", '{"rules": [{"service": "nobody.production"}]}'),
    ("balance", '{"algorithm": "no-such"}'),
}


def pool() -> list[tuple[str, str]]:
    """Kinds and texts: those of the pages that say the same each time, and some of this test's."""
    found = set(OTHERS)
    for _, command in PUTS:
        _, _, key, text = shlex.split(command)
        match = KEY.match(key)
        assert match is not None
        fetched = match[1] == "authn" and '"jwks"' not in text
        if match[1] not in LATER and not fetched and not DRAWN.search(text):
            found.add((match[1], text))
    return sorted(found)


@pytest.fixture
async def agent(etcd: EtcdProcess, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    mesh = f"m{abs(hash(request.node.name)) % 10**9}"
    async with running(etcd, mesh, tmp_path) as started:
        sock, port = listening()
        with sock:
            await started.register(service=PETS)
            await started.register(service=FILMS, port=port)
            yield started


def plain(told: Any) -> Any:
    """Without what the same document has another one of each time it is put: its revision."""
    if isinstance(told, dict):
        return {name: plain(value) for name, value in told.items() if name != "revision"}
    if isinstance(told, list):
        return [plain(each) for each in told]
    return re.sub(r"(table |revision |@)\d+", r"\1N", told) if isinstance(told, str) else told


async def put(agent: Running, changes: dict[tuple[str, str, str], str | None]) -> None:
    """Returns when the worker runs them."""
    here = agent.control.parts.here
    for (kind, pattern, mode), text in changes.items():
        key = f"{here.keys.prefix}{'audits' if mode == 'audit' else 'policies'}/{kind}/{pattern}"
        await (here.store.delete(key) if text is None else here.store.put(key, text.encode()))
    last = await here.store.put(f"{here.keys.prefix}policies/retry/marks-the-revision.none", b"{}")
    with trio.fail_after(30):
        while agent.control.parts.fleet.revision < last:
            await trio.sleep(0.01)


async def healthy(agent: Running) -> None:
    with trio.fail_after(60):
        while True:
            found = (await agent.ask("GET", f"{API}/endpoints")).json["items"]
            if {each["service"] for each in found if each["healthy"]} >= {PETS, FILMS}:
                return
            await trio.sleep(0.02)


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_told_is_what_will_be(agent: Running, seed: int) -> None:
    """Whatever stands there already: documents that are new, others, taken away, watched, for patterns, of several
    kinds at once; what would be refused is refused, and is."""
    await healthy(agent)
    drawn, documents = random.Random(seed), pool()
    stands: dict[tuple[str, str, str], str] = {}
    kinds: set[str] = set()
    for _ in range(30):
        changes: dict[tuple[str, str, str], str | None] = {}
        for _ in range(drawn.randrange(1, 4)):
            kind, text = drawn.choice(documents)
            place = kind, drawn.choice(PATTERNS), drawn.choice(["enforce", "enforce", "audit"])
            changes[place] = text
        for place in drawn.sample(sorted(stands), min(len(stands), drawn.randrange(0, 4))):
            changes[place] = None
        request = {
            "url": f"http://{drawn.choice((PETS, PETS, FILMS))}{drawn.choice(('/a', '/b?c=d'))}",
            "caller": drawn.choice(("", SHOP, FILMS)),
            "method": drawn.choice(("GET", "POST")),
            "headers": [{"name": "x-tier", "value": "free"}] if drawn.random() < 0.5 else [],
            "address": drawn.choice(("", "10.8.0.1")),
        }
        proposed = [
            {"kind": kind, "pattern": pattern, "mode": mode, **({} if text is None else {"text": text})}
            for (kind, pattern, mode), text in changes.items()
        ]
        before = (await agent.ask("POST", f"{API}/explain", request)).json
        answer = await agent.ask("POST", f"{API}/explain", {**request, "documents": proposed})
        again = plain((await agent.ask("POST", f"{API}/explain", request)).json)
        assert again == plain(before), f"nothing was put: {again} {plain(before)}"
        await put(agent, changes)
        not_in_force = (await agent.ask("GET", f"{API}/policies/refused?limit=1000")).json["items"]
        if answer.status != 200:
            assert answer.status == 409 and answer.json["path"].startswith("$.documents["), answer.json
            assert any((each["kind"], each["pattern"]) == place[:2] for each in not_in_force for place in changes), (
                answer.json,
                changes,
            )
            changes = {place: None for place, text in changes.items() if text is not None}
            await put(agent, changes)
        else:
            then = (await agent.ask("POST", f"{API}/explain", request)).json
            assert plain(answer.json) == plain(then), (
                f"{request} {changes} {stands}\n{plain(answer.json)}\n{plain(then)}"
            )
            kinds |= {kind for kind, _, _ in changes}
        for place, text in changes.items():
            stands.pop(place, None)
            if text is not None:
                stands[place] = text
    assert len(kinds) >= 10, kinds


NO_BUNDLE = '{"rego": {"bundles": ["none"], "allow": "a.b"}}'


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"kind": "rout", "pattern": PETS, "text": "{}"}, "$.documents[0].kind"),
        ({"kind": "route", "pattern": "pets..x", "text": "{}"}, "$.documents[0].pattern"),
        ({"kind": "retry", "pattern": PETS, "text": '{"attempts": 0}'}, "$.documents[0].text.attempts"),
        ({"kind": "retry", "pattern": PETS, "document": {"attempts": 0}}, "$.documents[0].text.attempts"),
        ({"kind": "retry", "pattern": PETS, "text": "{", "document": {}}, "$.documents[0]"),
        ({"kind": "retry", "pattern": PETS, "mode": "both"}, "$.documents[0].mode"),
        ({"kind": "retry", "pattern": PETS, "more": 1}, "$.documents[0]"),
        (
            {"kind": "authz", "pattern": PETS, "text": '{"rego": {"bundles": ["none"], "allow": "a.b"}}'},
            "$.documents[0]",
        ),
    ],
)
async def test_what_would_be_refused_says_where(agent: Running, document: dict[str, Any], path: str) -> None:
    """By the place in what was asked; nothing is explained with half of it."""
    told = await agent.ask("POST", f"{API}/explain", {"url": f"http://{PETS}/", "documents": [document]})
    assert told.status in (400, 409) and told.json["path"].startswith(path), told.json


async def test_there_are_bounds(agent: Running) -> None:
    """Of how many, and of how much."""
    many = [{"kind": "retry", "pattern": PETS, "text": "{}"}] * 21
    told = await agent.ask("POST", f"{API}/explain", {"url": f"http://{PETS}/", "documents": many})
    assert told.status == 400 and told.json["path"] == "$.documents", told.json
    long = {"kind": "retry", "pattern": PETS, "text": "{}" + " " * 150_000}
    told = await agent.ask("POST", f"{API}/explain", {"url": f"http://{PETS}/", "documents": [long, long]})
    assert told.status == 413


@pytest.mark.parametrize(
    "asks",
    [
        {"rego": {"modules": {"a.rego": "package shoal\nallow := true\n"}}},
        {"opa": {"url": "http://127.0.0.1:9", "path": "a/b"}},
    ],
)
async def test_who_only_looks_has_nobody_asked(agent: Running, asks: dict[str, Any]) -> None:
    """An evaluator, or an OPA: by the admin port, where nobody knows who asks, such a document is not supposed."""
    document = {"kind": "authz", "pattern": PETS, "document": asks}
    body = json.dumps({"url": f"http://{PETS}/", "documents": [document]}).encode()
    told = await ask(agent.admin_port, "POST", f"{API}/explain", body)
    assert told.status == 403 and told.json["path"] == "$.documents[0]", told.json
    assert (await ask(agent.socket, "POST", f"{API}/explain", body)).status in (200, 409)


async def test_reading_documents_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read aside of control's loop, each once, and none after one that would be refused."""
    read: list[tuple[str, bool]] = []

    def noted(kind: str, pattern: str, text: bytes) -> Read:
        read.append((pattern, threading.current_thread() is threading.main_thread()))
        return reading.read(kind, pattern, text)

    for module in (proposing, supposing):
        monkeypatch.setattr(module, "read", noted)
    texts = {"a.b": "{}", "c.d": f"a: [{'{},' * 9000}]", "e.f": "{}"}
    documents = [types.ProposedDocument(kind="retry", pattern=name, text=text) for name, text in texts.items()]
    asked = types.Explain(url="http://a.b/", documents=documents)
    with pytest.raises(Trouble) as refused:
        await supposed(Table(Keys("m"), "h"), asked, operates=False, reading=trio.CapacityLimiter(1))
    assert (refused.value.status, refused.value.path) == (409, "$.documents[1].text")
    assert read == [("a.b", False), ("c.d", False)]


SPLIT = {"rules": [{"split": [{"version": "v1", "weight": 90}, {"version": "v2", "weight": 10}]}]}


async def test_one_seed_draws_the_same_for_both(agent: Running) -> None:
    """An unrelated document, and one that is the same, change nothing; a split is told with its shares; what nobody has
    put has no revision."""
    sock, port = listening()
    with sock:
        for identity, version in (("v1-a", "v1"), ("v1-b", "v1"), ("v2-a", "v2")):
            await agent.register(service=PETS, id=identity, version=version, port=port)
        await healthy(agent)
        text = json.dumps(SPLIT)
        await put(agent, {("route", PETS, "enforce"): text, ("balance", PETS, "enforce"): '{"algorithm": "random"}'})

        async def asked(seed: int, **proposed: Any) -> Any:
            documents = [{"kind": kind, "pattern": PETS, "text": said} for kind, said in proposed.items()]
            body = {"url": f"http://{PETS}/", "seed": seed, "documents": documents}
            answer = await agent.ask("POST", f"{API}/explain", body)
            assert answer.status == 200, answer.json
            return answer.json

        drawn = set()
        for seed in range(50):
            before = await asked(seed)
            drawn.add(before["endpoint"]["id"])
            assert plain(await asked(seed, route=text)) == plain(before)
            after = await asked(seed, timeout='{"request": "3s"}')
            assert after["endpoint"] == before["endpoint"]
            told, now = (
                [each for each in found["decisions"] if each["phase"] != "timeout"] for found in (before, after)
            )
            assert plain(told) == plain(now)
        assert len(drawn) > 1
        other = await asked(1, route=text.replace("90", "50").replace("10", "50"), timeout='{"request": "3s"}')
        kept = {each["phase"]: each for each in other["decisions"]}
        assert kept["route"]["revision"] == kept["timeout"]["revision"] == 0 < kept["balance"]["revision"]
        assert [each["percent"] for each in kept["route"]["shares"]] == [50, 50]
    answer = await agent.ask("POST", f"{API}/explain", {"url": f"http://{PETS}/", "seed": -1})
    assert answer.status == 400 and answer.json["path"] == "$.seed", answer.json
