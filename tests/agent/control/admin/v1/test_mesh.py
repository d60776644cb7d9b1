"""What all agents are asked at once: each by its own word, and who does not answer."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

from tests.support.mesh import Mesh, until

from .conftest import DENY, PETS, ask, get, put


def test_all_agents_are_asked(mesh: Mesh) -> None:
    """Each by its own word, with what only it can say."""
    told = get(mesh.agents[0], "/agents")
    assert [each["host"] for each in told["items"]] == ["alpha", "beta", "gamma"]
    assert [each["runs"] is None for each in told["items"]] == [False, True, True]
    told = get(mesh.agents[0], "/agents", scope="mesh", deadline_s=20)
    assert told["asked"] == 3 and told["missing"] == {}
    for each in told["items"]:
        assert each["ready"] and each["etcd_connected"] and each["runs"] > 1 and each["refused"] == 1
    assert [each["instances"] for each in told["items"]] == [2, 1, 0]


def test_another_agent_is_asked(mesh: Mesh) -> None:
    """The same that it says itself; of one that does not live it is 404."""
    alpha, beta, _ = mesh.agents
    there, itself = get(alpha, "/agents/beta", deadline_s=20), get(beta, "/agent")
    assert there["host"] == itself["host"] == "beta"
    assert [each["pid"] for each in there["workers"]] == [each["pid"] for each in itself["workers"]]
    assert there.keys() == itself.keys() == beta.state().keys() - {"agents", "services"}, (
        "commands look for it in either"
    )
    assert there["address"] == "127.0.0.2"
    refused = get(alpha, "/agents/beta/policies/refused", deadline_s=20)
    assert [(each["host"], each["kind"], each["last_good"]) for each in refused["items"]] == [("beta", "ratelimit", 0)]
    for path in ("/agents/nobody", "/agents/nobody/calls"):
        told = ask(alpha, path)
        assert told.status == 404 and "no such agent lives in this mesh" in told.json["detail"]


def test_what_workers_saw_of_the_whole_mesh(mesh: Mesh) -> None:
    """Calls and endpoints of every agent, merged; each with its host."""
    alpha, beta, gamma = mesh.agents
    for agent in (alpha, gamma):
        for _ in range(3):
            assert agent.ask(PETS).status == 200
    found = get(beta, "/calls", scope="mesh", service=PETS, deadline_s=20)
    until(
        "the counts",
        lambda: (
            {
                each["host"]
                for each in get(beta, "/calls", scope="mesh", service=PETS, deadline_s=20)["items"]
                if each["service"] == PETS and each["requests"] >= 3
            }
            >= {"alpha", "gamma"}
        ),
    )
    assert found["asked"] == 3 and found["missing"] == {}
    rows = get(beta, "/endpoints", scope="mesh", service=PETS, deadline_s=20)["items"]
    assert len(rows) == 6 and {each["host"] for each in rows} == {"alpha", "beta", "gamma"}
    assert sum(each["requests"] for each in rows if each["host"] == "gamma") >= 3
    cut = get(beta, "/endpoints", scope="mesh", service=PETS, limit=2, deadline_s=20)
    assert len(cut["items"]) == 2 and cut["total"] == 6


def test_what_is_wrong_in_the_whole_mesh(mesh: Mesh) -> None:
    """The refused document, from each agent; the worst first."""
    told = get(mesh.agents[2], "/findings", scope="mesh", deadline_s=20)["items"]
    refused = [each for each in told if each["id"] == "refused"]
    assert [each["host"] for each in refused] == ["alpha", "beta", "gamma"]
    assert refused[0]["where"] == "ratelimit/shop.production" and "limitz" in refused[0]["what"]
    order = ["error", "warning", "info"]
    assert [each["severity"] for each in told] == sorted((each["severity"] for each in told), key=order.index)


def test_how_the_last_check_of_each_instance_went(mesh: Mesh) -> None:
    """By the agent beside it; of one service, and of one host."""
    told = until("each was checked", lambda: [
        each for each in [get(mesh.agents[2], "/checks", scope="mesh", service=PETS, deadline_s=20)["items"]]
        if len(each) == 2 and all(one["at"] for one in each)
    ])[0]  # fmt: skip
    assert [(each["host"], each["service"], each["ok"], each["unable"]) for each in told] == [
        ("alpha", PETS, True, ""), ("beta", PETS, True, "")]  # fmt: skip
    assert all(each["how"] in ("http", "tcp") and each["every_s"] > 0 and each["took_s"] >= 0 for each in told)
    assert get(mesh.agents[0], "/agents/beta/checks", deadline_s=20)["total"] == 1


def test_the_last_changes_and_how_far_they_are(mesh: Mesh) -> None:
    """As each agent heard of them: what was put and removed, until its workers ran it."""
    put(mesh, "policies/retry/changes.production", {"attempts": 2})
    mesh.etcdctl("del", "/shoal/default/policies/retry/changes.production")

    def both() -> Any:
        items = get(mesh.agents[1], "/changes", scope="mesh", deadline_s=20)["items"]
        mine = [each for each in items if each["what"][0].startswith("retry/changes.production")]
        done = len(mine) == 6 and all(each["took_s"] is not None for each in mine)
        return mine if done else None

    told = until("all run both", both)
    assert [each["host"] for each in told] == ["alpha", "beta", "gamma"] * 2, "the latest first"
    assert [each["what"] for each in told[2:4]] == [
        ["retry/changes.production removed"], ["retry/changes.production"]]  # fmt: skip
    assert told[0]["revision"] > told[3]["revision"]


def test_what_watched_documents_would_have_done(mesh: Mesh) -> None:
    """Counted by workers, told by their agents."""
    alpha = mesh.agents[0]
    put(mesh, "audits/authz/shop.production", DENY)
    try:
        until("watched", lambda: get(alpha, "/services/shop.production")["watched"])
        alpha.ask("shop.production", "/x")
        rows = until("counted", lambda: get(alpha, "/judged", service="shop.production")["items"])
        assert {(each["kind"], each["document"], each["host"]) for each in rows} == {
            ("authz", "shop.production", "alpha")}  # fmt: skip
        assert sum(each["requests"] for each in rows) >= 1
    finally:
        mesh.etcdctl("del", "/shoal/default/audits/authz/shop.production")


def test_one_of_two_documents_of_a_name(mesh: Mesh) -> None:
    """That which is enforced, and that which is watched."""
    put(mesh, f"audits/timeout/{PETS}", {"request": "1s"})
    try:
        path = f"/policies/timeout/{PETS}"
        until("both", lambda: ask(mesh.agents[0], f"{path}?mode=audit").status == 200)
        assert get(mesh.agents[0], path)["document"]["request"] == "5s"
        assert get(mesh.agents[0], path, mode="enforce")["document"]["request"] == "5s"
        assert get(mesh.agents[0], path, mode="audit")["document"]["request"] == "1s"
        assert ask(mesh.agents[0], "/policies/timeout/*?mode=audit").status == 404
        assert ask(mesh.agents[0], f"{path}?mode=both").status == 400
    finally:
        mesh.etcdctl("del", f"/shoal/default/audits/timeout/{PETS}")


def test_alerts_are_what_the_command_line_finds(mesh: Mesh) -> None:
    """What etcd holds, and what each agent says of itself; the same once, with all who say it."""
    mesh.put("policies/timeout/pet.production", {"request": "2s"})
    try:
        mesh.shoal("wait", check=False)
        told = get(mesh.agents[0], "/alerts", deadline_s=20)
        words = ("--admin", str(mesh.agents[0].socket), "-o", "json", "check")
        found = json.loads(mesh.shoal(*words, check=False).stdout)
        (refused,) = [each for each in told["items"] if each["id"] == "refused"]
        assert refused["hosts"] == ["alpha", "beta", "gamma"] and refused["where"] == "ratelimit/shop.production"
        (nowhere,) = [each for each in told["items"] if each["id"] == "matches-nothing"]
        assert nowhere["hosts"] == [] and "pets.production" in nowhere["what"]
        name = lambda each: (each["severity"], each["id"], each["where"], each["what"], each["hosts"])  # noqa: E731
        assert [name(each) for each in told["items"]] == [name(each) for each in found]
        assert sum(told["counts"].values()) == told["total"] == len(found)
        assert get(mesh.agents[0], "/alerts", limit=1, deadline_s=20)["total"] == len(found)
    finally:
        mesh.etcdctl("del", "/shoal/default/policies/timeout/pet.production")


def test_who_does_not_answer_is_named(mesh: Mesh) -> None:
    """An agent that was killed, while its lease still says that it lives; the others are heard."""
    agent = mesh.agent("delta", "127.0.0.4", extra="workers = 1", lease_ttl="60s")
    until("it lives", lambda: get(mesh.agents[0], "/mesh")["agents"] == 4)
    assert agent.process is not None
    os.killpg(agent.process.pid, signal.SIGKILL)
    agent.process.wait()
    told = get(mesh.agents[0], "/findings", scope="mesh", deadline_s=20)
    assert told["asked"] == 4 and list(told["missing"]) == ["delta"]
    assert told["missing"]["delta"]["why"] == "unreachable" and told["missing"]["delta"]["reason"]
    assert {each["host"] for each in told["items"]} >= {"alpha", "beta", "gamma"}
    assert ask(mesh.agents[0], "/agents/delta?deadline_s=20").status == 503
    listed = get(mesh.agents[0], "/agents", scope="mesh", deadline_s=20)
    assert [each["host"] for each in listed["items"]] == ["alpha", "beta", "delta", "gamma"]
    assert [each["runs"] is None for each in listed["items"]] == [False, False, True, False]
    text = mesh.agents[0].text("/metrics")
    assert 'shoal_questions_unanswered_total{why="unreachable"}' in text
    mesh.etcdctl("del", "/shoal/default/agents/delta")


def test_events_of_the_mesh(mesh: Mesh) -> None:
    """What breakers turned to on one host is seen from another one."""
    alpha, _, gamma, *_ = mesh.agents
    put(mesh, "policies/breaker/shop.production", {"trip": {"consecutive": 2}})

    def turned() -> Any:
        alpha.ask("shop.production", "/status/503")
        return get(gamma, "/events", scope="mesh", service="shop.production", deadline_s=20)["items"]

    found = until("an event", turned)
    assert (found[0]["host"], found[0]["state"], found[0]["type"]) == ("alpha", "turned", "breaker.open")
    assert get(gamma, "/events", service="shop.production")["items"] == []


def test_questions_to_all_agents_are_bounded(mesh: Mesh) -> None:
    """However many ask at once, each is answered, or told to ask again."""
    found: list[int] = []

    def once() -> None:
        found.append(ask(mesh.agents[0], "/findings?scope=mesh&deadline_s=20").status)

    threads = [threading.Thread(target=once) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 40 and found.count(200) >= 8 and set(found) <= {200, 503}
    assert ask(mesh.agents[0], "/findings?scope=mesh&deadline_s=20").status == 200
