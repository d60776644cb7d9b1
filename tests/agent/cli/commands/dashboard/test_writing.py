"""Documents by way of a dashboard: as the commands write them, with the rights of who has started it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.cli.commands.dashboard import writing
from agent.cli.options import Options
from registry.etcd.server import EtcdProcess, find_binary
from tests.support.etcd import running_etcd

from .conftest import Board

ROUTE = "/dashboard/policies/route/pets.production"
SPLIT = "kind: route\nservice: pets.production\nrules:\n- split:\n  - {subset: {version: v1}, share: 100}\n"
RETRY = "/dashboard/policies/retry/pets.production"


@pytest.fixture
def options(options: Options, etcd: EtcdProcess, request: pytest.FixtureRequest) -> Options:
    mesh = f"m{abs(hash(request.node.name)) % 10**9}"
    return Options(etcd=(etcd.url,), mesh=mesh, place=options.place)


class Desk:
    """Somebody at the page."""

    def __init__(self, board: Board, options: Options) -> None:
        self.board = board
        self.mesh = options.mesh
        self.etcd = options.etcd[0]
        board.agent.me["mesh"] = options.mesh

    async def ask(self, method: str, path: str, value: Any = None, **query: str) -> httpx.Response:
        headers = {"origin": self.board.base, "sec-fetch-site": "same-origin"}
        return await self.board.browser.request(method, path, json=value, params=query, headers=headers)

    async def put(self, path: str, text: str, replaces: int = 0, status: int = 200, **more: Any) -> Any:
        answer = await self.ask("PUT", path, {"text": text, "replaces": replaces, **more})
        assert answer.status_code == status, answer.text
        return answer.json()

    def etcdctl(self, *words: str) -> str:
        command = [find_binary("etcdctl"), "--endpoints", self.etcd, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout


@pytest.fixture
async def desk(board: Board, options: Options) -> Desk:
    await board.opened()
    return Desk(board, options)


async def test_a_document_is_put_read_changed_and_removed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who did it, and why, is this change's, each time; comments stay."""
    monkeypatch.setattr(writing, "who", lambda mesh: "ann")
    assert (await desk.ask("GET", RETRY)).status_code == 404
    first = await desk.put(RETRY, "# why\nattempts: 2\n", reason="it fails")
    stands = (await desk.ask("GET", RETRY)).json()
    assert stands["revision"] == first["revision"]
    assert stands["text"] == '# why\nattempts: 2\nby: "ann"\nreason: "it fails"\n'
    assert (stands["kind"], stands["pattern"], stands["mode"]) == ("retry", "pets.production", "enforce")

    monkeypatch.setattr(writing, "who", lambda mesh: "bob")
    edited = stands["text"].replace("2", "3")
    second = await desk.put(RETRY, edited, stands["revision"], reason='it "still" fails')
    stands = (await desk.ask("GET", RETRY)).json()
    assert stands["text"] == '# why\nattempts: 3\nby: "bob"\nreason: "it \\"still\\" fails"\n'
    third = await desk.put(RETRY, stands["text"].replace("3", "4"), second["revision"])
    stands = (await desk.ask("GET", RETRY)).json()
    assert stands["text"] == '# why\nattempts: 4\nby: "bob"\n', "no reason of before"

    gone = await desk.ask("DELETE", RETRY, {"replaces": third["revision"], "reason": "not needed"})
    assert gone.status_code == 200 and gone.json()["revision"] == third["revision"] + 2
    assert (await desk.ask("GET", RETRY)).status_code == 404
    history = desk.etcdctl(
        "get", f"/shoal/{desk.mesh}/policies/retry/pets.production", "--rev", str(third["revision"] + 1)
    )
    assert 'reason: "not needed"' in history and 'by: "bob"' in history, "the last that stood says who, and why"


async def test_json_documents_say_it_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a document says for itself stays."""
    monkeypatch.setattr(writing, "who", lambda mesh: "ann")
    first = await desk.put(RETRY, '{"attempts": 2}', reason="a")
    monkeypatch.setattr(writing, "who", lambda mesh: "bob")
    text = (await desk.ask("GET", RETRY)).json()["text"]
    assert json.loads(text) == {"by": "ann", "reason": "a", "attempts": 2}
    second = await desk.put(RETRY, text.replace("2", "3"), first["revision"], reason="b")
    stood = json.loads((await desk.ask("GET", RETRY)).json()["text"])
    assert stood == {"by": "bob", "reason": "b", "attempts": 3}
    await desk.put(RETRY, '{"attempts": 3, "by": "carol"}', second["revision"], reason="c")
    assert json.loads((await desk.ask("GET", RETRY)).json()["text"]) == {"attempts": 3, "by": "carol", "reason": "c"}


async def test_who_was_overtaken_changes_nothing(desk: Desk) -> None:
    """A document of another revision, one that is gone, and one that was not there."""
    first = await desk.put(RETRY, "attempts: 2")
    key = f"/shoal/{desk.mesh}/policies/retry/pets.production"
    desk.etcdctl("put", key, '{"attempts": 5}')
    for replaces in (first["revision"], 0, 1):
        refused = await desk.put(RETRY, "attempts: 3", replaces, 409)
        assert "revision" in refused["detail"]
        assert (await desk.ask("DELETE", RETRY, {"replaces": replaces})).status_code == 409
    assert '{"attempts": 5}' in desk.etcdctl("get", key)
    desk.etcdctl("del", key)
    assert "there is none any more" in (await desk.put(RETRY, "attempts: 3", first["revision"], 409))["detail"]
    assert (await desk.ask("DELETE", RETRY, {"replaces": 0})).json()["path"] == "$.replaces"
    assert desk.etcdctl("get", key) == ""


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        ("attempts: many", "$.text.attempts", "whole number"),
        ("attemptz: 2", "$.text", "attemptz"),
        ("kind: route\nattempts: 2", "$.text.kind", "it says route, and is put for retry"),
        ("service: shop.production\nattempts: 2", "$.text.service", "put for pets.production"),
        ("attempts: 2\n---\nattempts: 3", "$.text", "2 documents"),
        ("mode: audit\nattempts: 2", "$.text.mode", "put it as such"),
        ("- 1", "$.text", "mapping"),
        ("a: [", "$.text", ""),
        ("", "$.text", ""),
        ("attempts: 2\n" + "a: &a [*a]\n" * 3, "$.text", ""),
    ],
)
async def test_what_agents_would_refuse_is_put_nowhere(desk: Desk, text: str, path: str, said: str) -> None:
    """With its place in the text."""
    refused = await desk.put(RETRY, text, 0, 400)
    assert refused["path"].startswith(path) and said in refused["detail"], refused
    assert desk.etcdctl("get", "--prefix", f"/shoal/{desk.mesh}/") == ""


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        (RETRY, {"text": "attempts: 2"}, "$"),
        (RETRY, {"text": "attempts: 2", "replaces": -1}, "$.replaces"),
        (RETRY, {"text": "attempts: 2", "replaces": 0, "mode": "watch"}, "$.mode"),
        (RETRY, {"text": "attempts: 2", "replaces": 0, "reason": "x" * 2000}, "$.reason"),
        (RETRY, {"text": "attempts: 2", "replaces": 0, "forse": True}, "$"),
        (RETRY, {"text": 2, "replaces": 0}, "$.text"),
        (RETRY, [], "$"),
        ("/dashboard/policies/retry/Pets..x", {"text": "attempts: 2", "replaces": 0}, "$"),
        ("/dashboard/policies/a%2fb/pets", {"text": "attempts: 2", "replaces": 0}, ""),
        ("/dashboard/policies/nothing/pets", {"text": "attempts: 2", "replaces": 0}, "$"),
    ],
)
async def test_what_is_asked_wrongly_is_refused(desk: Desk, path: str, body: Any, place: str) -> None:
    answer = await desk.ask("PUT", path, body)
    assert answer.status_code == (400 if place else 404) and answer.json()["path"].startswith(place or "$"), answer.text
    headers = {"origin": desk.board.base, "content-type": "text/plain"}
    plain = await desk.board.browser.put(RETRY, content=json.dumps(body), headers=headers)
    assert plain.status_code == 400 and "has to say so" in plain.json()["detail"], "no form of another page is one"
    assert (await desk.ask("GET", RETRY, mode="watch")).json()["path"] == "$.mode"
    assert desk.etcdctl("get", "--prefix", f"/shoal/{desk.mesh}/") == ""


async def test_what_is_only_watched_stands_beside(desk: Desk) -> None:
    """Under `audits/`, and takes nothing out of force."""
    await desk.put(RETRY, "attempts: 2")
    audit = await desk.put(RETRY, "attempts: 3", mode="audit")
    stands = (await desk.ask("GET", RETRY, mode="audit")).json()
    assert (stands["mode"], stands["revision"]) == ("audit", audit["revision"]) and "attempts: 3" in stands["text"]
    assert "attempts: 2" in (await desk.ask("GET", RETRY)).json()["text"]
    gone = await desk.ask("DELETE", RETRY, {"replaces": audit["revision"], "mode": "audit"})
    assert gone.status_code == 200 and (await desk.ask("GET", RETRY)).status_code == 200


async def test_what_would_fail_requests_is_put_by_who_means_it(desk: Desk) -> None:
    """As with --force; and a bundle that is named stays."""
    strict = "/dashboard/policies/tls/pets.production"
    instance = {"address": "10.0.0.1", "port": 80, "version": "v1"}
    desk.etcdctl("put", f"/shoal/{desk.mesh}/instances/pets.production/a", json.dumps(instance))
    refused = await desk.put(strict, "mtls: strict", 0, 400)
    assert refused["path"] == "$.force" and "it would fail requests" in refused["detail"]
    put = await desk.put(strict, "mtls: strict", force=True)
    assert put["revision"] and put["warnings"]


async def test_another_mesh_is_not_written_to(desk: Desk) -> None:
    """Where the page shows one, and the options say another; nor while its agent is away, or says no more of which it
    is."""
    desk.board.agent.me["mesh"] = "other"
    me = (await desk.ask("GET", "/api/v1/me")).json()
    assert not me["may"]["write"] and "--mesh other" in me["write"]
    assert "--mesh other" in (await desk.put(RETRY, "attempts: 2", 0, 400))["detail"]
    assert "--mesh other" in (await desk.ask("DELETE", RETRY, {"replaces": 1})).json()["detail"]
    del desk.board.agent.me["mesh"]
    assert "--mesh other" in (await desk.put(RETRY, "attempts: 2", 0, 409))["detail"]
    desk.board.agent.stop()
    assert "--mesh other" in (await desk.put(RETRY, "attempts: 2", 0, 409))["detail"]
    assert desk.etcdctl("get", "--prefix", f"/shoal/{desk.mesh}/") == ""


async def test_a_person_whose_agent_has_died_puts_documents(desk: Desk) -> None:
    """The agent has said of which mesh it is: that stays so."""
    await desk.ask("GET", "/api/v1/me")
    desk.board.agent.stop()
    put = await desk.put(RETRY, "attempts: 2")
    assert (await desk.ask("DELETE", RETRY, {"replaces": put["revision"]})).status_code == 200


async def test_of_an_agent_that_was_never_heard_etcd_says_the_mesh(desk: Desk) -> None:
    """It knows where agents have written in this one and live in no other; else nothing is written, and the command
    that takes a mesh by its name is told."""
    desk.board.agent.stop()

    async def refused(why: str) -> None:
        told = await desk.put(RETRY, "attempts: 2", 0, 503)
        assert "no agent answers at" in told["detail"] and why in told["detail"], told
        assert f"shoal --mesh {desk.mesh} policy put" in told["detail"]
        assert (await desk.ask("DELETE", RETRY, {"replaces": 1})).status_code == 503

    await refused(f"no agent was ever in {desk.mesh}")
    desk.etcdctl("put", f"/shoal/{desk.mesh}/confirmed/hosts", '{"state": "own_only"}')
    desk.etcdctl("put", "/shoal/elsewhere/agents/a", "{}")
    await refused("agents live in elsewhere, too")
    desk.etcdctl("del", "/shoal/elsewhere/agents/a")
    await desk.put(RETRY, "attempts: 2")


async def test_what_the_page_hears_of_its_rights(desk: Desk) -> None:
    """The agent's word of who it is, and etcd's of what may be written; nothing is written for that."""
    before = json.loads(desk.etcdctl("get", "x", "-w", "json"))["header"]["revision"]
    me = (await desk.ask("GET", "/api/v1/me")).json()
    assert me["who"] == "user ann (uid 1000)" and me["may"] == {"read": True, "write": True}
    assert "your own rights at etcd" in me["write"]
    assert json.loads(desk.etcdctl("get", "x", "-w", "json"))["header"]["revision"] == before


class TestWithoutEtcd:
    """It is away."""

    @pytest.fixture
    def options(self, options: Options) -> Options:
        return Options(etcd=("http://127.0.0.1:1",), place=options.place, timeout_s=0.5)

    async def test_that_is_said(self, desk: Desk) -> None:
        me = (await desk.ask("GET", "/api/v1/me")).json()
        assert not me["may"]["write"] and "etcd cannot be asked at http://127.0.0.1:1" in me["write"]
        for method, value in (
            ("GET", None),
            ("PUT", {"text": "attempts: 2", "replaces": 0}),
            ("DELETE", {"replaces": 1}),
        ):
            assert (await desk.ask(method, RETRY, value)).status_code == 503


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    """An etcd that asks who one is: ann writes policies, vera reads."""
    with running_etcd(tmp_path_factory.mktemp("asking"), arguments=("--bcrypt-cost", "4")) as running:
        for words in (
            "user add root:secret",
            "user grant-role root root",
            "role add view",
            "role grant-permission view read /shoal/ --prefix=true",
            "role add writer",
            "role grant-permission writer readwrite /shoal/ --prefix=true",
            "user add vera:secret",
            "user grant-role vera view",
            "user add ann:secret",
            "user grant-role ann writer",
            "auth enable",
        ):
            command = [find_binary("etcdctl"), "--endpoints", running.url, *words.split()]
            subprocess.run(command, check=True, capture_output=True, timeout=20)
        yield running


class TestOfAPersonWhoOnlyReads:
    """By etcd's own word."""

    @pytest.fixture
    def options(self, options: Options, asking: EtcdProcess) -> Options:
        return Options(etcd=(asking.url,), place=options.place, user="vera", password="secret")

    async def test_etcd_refuses_what_a_viewer_writes(self, desk: Desk, asking: EtcdProcess, tmp_path: Path) -> None:
        """However he asks; and he is told so before."""
        ann = [find_binary("etcdctl"), "--endpoints", asking.url, "--user", "ann:secret"]
        key = "/shoal/default/policies/retry/pets.production"
        subprocess.run([*ann, "put", key, '{"attempts": 2}'], check=True, capture_output=True, timeout=20)
        me = (await desk.ask("GET", "/api/v1/me")).json()
        assert not me["may"]["write"] and "does not let you write" in me["write"]
        stands = (await desk.ask("GET", RETRY)).json()
        assert stands["text"] == '{"attempts": 2}'
        refused = await desk.put(RETRY, "attempts: 3", stands["revision"], 403)
        assert "permission denied" in refused["detail"]
        await desk.put("/dashboard/policies/retry/shop.production", "attempts: 3", 0, 403, force=True)
        for more in ({}, {"reason": "x"}):
            gone = await desk.ask("DELETE", RETRY, {"replaces": stands["revision"], **more})
            assert gone.status_code == 403
        assert (await desk.ask("GET", RETRY)).json() == stands


class TestOfAPersonWithAWrongPassword:
    """He reads nothing either."""

    @pytest.fixture
    def options(self, options: Options, asking: EtcdProcess) -> Options:
        return Options(etcd=(asking.url,), place=options.place, user="ann", password="wrong")

    async def test_he_is_refused(self, desk: Desk) -> None:
        assert (await desk.ask("GET", RETRY)).status_code == 403
        assert not (await desk.ask("GET", "/api/v1/me")).json()["may"]["write"]
