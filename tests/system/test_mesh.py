"""The mesh on real parts: etcd, agents, services and etcdctl, and what goes wrong in real life."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mesh import Mesh, Traffic, running_mesh, until

ROUTE = "policies/route/pets.production"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path, new=False) as running:
        yield running


def test_a_request_finds_its_way_over_two_hosts(mesh: Mesh) -> None:
    """Registered on one host, called from another: through both agents, by name alone."""
    alpha, beta = mesh.agent("alpha"), mesh.agent("beta", "127.0.0.2")
    mesh.instance(beta)
    until("alpha knows", lambda: mesh.healthy(alpha, "pets.production", beta.state()["local"][0]["port"]))
    answer = alpha.ask(path="/cats?a=1", x_shoal_explain="1")
    assert answer.status == 200
    told = json.loads(answer.body)
    assert told["path"] == "/cats?a=1"
    assert told["headers"]["via"].count("shoal") == 2
    decisions = json.loads(answer.headers["x-shoal-explain"])["decisions"]
    assert "via agent beta" in decisions[-2]["decision"] and decisions[-1]["decision"] == "plain text"


def test_policies_with_nothing_but_etcdctl(mesh: Mesh) -> None:
    """A split, a blue-green switch and back, a direct answer, and the way `shoal explain` tells it."""
    alpha = mesh.agent()
    mesh.instance(alpha, "v1")
    mesh.instance(alpha, "v2")
    mesh.put(ROUTE, {"active": "v2", "standby": "v1"})
    assert {alpha.ask().version for _ in range(10)} == {"v2"}
    mesh.put(ROUTE, {"active": "v1", "standby": "v2"})
    assert {alpha.ask().version for _ in range(10)} == {"v1"}
    mesh.put(ROUTE, {"rules": [{"split": [{"version": "v1", "weight": 80}, {"version": "v2", "weight": 20}]}]})
    versions = Counter(alpha.ask().version for _ in range(300))
    assert 20 < versions["v2"] < 110
    mesh.put(ROUTE, "rules: [{name: teapot, respond: {status: 418, body: short}}]")
    answer = alpha.ask()
    assert (answer.status, answer.body, answer.headers["server"]) == (418, b"short", "shoal")
    told = mesh.shoal("--admin", f"http://127.0.0.1:{alpha.admin}", "explain", "GET", "http://pets.production/")
    assert "teapot" in told.stdout


def test_sticky_users_stay_on_their_side(mesh: Mesh) -> None:
    """Raising 20% to 60% moves nobody back."""
    alpha = mesh.agent()
    mesh.instance(alpha, "v1")
    mesh.instance(alpha, "v2")

    def sides(percent: int) -> dict[str, str]:
        split = [{"version": "v1", "weight": 100 - percent}, {"version": "v2", "weight": percent}]
        mesh.put(ROUTE, {"rules": [{"split": split, "sticky": {"header": "x-user"}}]})
        return {f"u{n}": alpha.ask(x_user=f"u{n}").version for n in range(60)}

    few, many = sides(20), sides(60)
    assert 0 < sum(v == "v2" for v in few.values()) < sum(v == "v2" for v in many.values())
    assert all(many[user] == "v2" for user, version in few.items() if version == "v2")


def test_a_bad_document_never_replaces_a_good_one(mesh: Mesh) -> None:
    """The good one stays in force; the reason is in etcd, in status and in a metric, until it is mended."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    mesh.put(ROUTE, {"rules": [{"respond": {"status": 299}}]})
    for bad in ["{", '{"rules": [{"splitt": []}]}', '{"rules": [{"split": [{"weight": 1e308}]}]}', "\x01\x02", "[]"]:
        mesh.etcdctl("put", f"/shoal/default/{ROUTE}", bad)
        until("refused", lambda: alpha.state()["refused"])
        assert alpha.ask().status == 299
    rejection = until("the reason in etcd", lambda: mesh.etcdctl("get", "--prefix", "/shoal/default/rejected/"))
    assert "route/pets.production" in rejection
    status = mesh.shoal("--admin", f"http://127.0.0.1:{alpha.admin}", "status", check=False)
    assert status.returncode == 1
    assert "route/pets.production" in status.stdout
    assert "shoal_policies_refused 1.0" in alpha.text("/metrics")
    mesh.put(ROUTE, {"rules": [{"respond": {"status": 298}}]})
    assert alpha.ask().status == 298
    until("cleared", lambda: not mesh.etcdctl("get", "--prefix", "/shoal/default/rejected/").strip())


def test_garbage_in_every_key(mesh: Mesh) -> None:
    """Unknown rooms and kinds, bad names, lies about addresses: told in /state, and the agent goes on."""
    alpha = mesh.agent()
    port = mesh.instance(alpha)
    keys = {
        "instances/pets.production/x": "{",
        "instances/pets.production/y": '{"address": "10.0.0.1"}',
        "instances/pets.production/z": '{"address": "::1.2", "port": 1}',
        "instances/pets.production/zero": '{"address": "0.0.0.0", "port": 1}',
        "instances/pets.production/w": '{"address": "127.0.0.1", "port": 1, "weight": -1}',
        "instances/../../etc/passwd": "{}",
        "instances/Bad_Name!/a": "{}",
        "instances/a.b.c.d.e.f/a": "{}",
        "health/pets.production/x": "true",
        "agents/ghost": "[]",
        "policies/nonsense/pets.production": "{}",
        "policies/route/no!such": "{}",
        "nowhere/at/all": "x",
        "acks/": "",
    }
    for key, value in keys.items():
        mesh.etcdctl("put", f"/shoal/default/{key}", value)
    mesh.put("policies/timeout/pets.production", {"request": "7s"})
    state = alpha.state()
    told = {entry["key"].removeprefix("/shoal/default/"): entry["reason"] for entry in state["malformed"]}
    refused = {"policies/nonsense/pets.production", "policies/route/no!such"}
    expected = set(keys) - refused - {"acks/"}
    assert expected - set(told) <= {"nowhere/at/all"}, "what lies outside of the watched range is nobody's business"
    for key in refused:
        written = f"/shoal/default/{key.replace('policies/', 'rejected/')}"
        until("it is said why", lambda: mesh.etcdctl("get", "--print-value-only", written))  # noqa: B023
    assert "no IPv4 or IPv6 address" in told["instances/pets.production/z"]
    assert sorted(refused["kind"] for refused in state["refused"]) == ["nonsense", "route"]
    assert alpha.ask().status == 200
    assert [e["port"] for e in state["services"]["pets.production"]["endpoints"]] == [port]


def test_values_beyond_all_measure(tmp_path: Path) -> None:
    """An etcd that takes them may hold two million bytes in any key: refused, with the limit, and nothing else."""
    with running_mesh(tmp_path, "--max-request-bytes", "10000000", new=False) as mesh:
        alpha = mesh.agent()
        mesh.instance(alpha)
        mesh.put(ROUTE, {"rules": [{"respond": {"status": 299}}]})
        huge = json.dumps({"description": "x" * 2_000_000})
        for key in (ROUTE, "instances/pets.production/huge", "agents/huge", "health/pets.production/huge"):
            mesh.etcdctl("put", f"/shoal/default/{key}", data=huge)
        mesh.shoal("wait")
        state = alpha.state()
        assert {e["key"].rpartition("/")[2] for e in state["malformed"]} == {"huge"}
        assert ["1 MiB" in e["reason"] or "bytes" in e["reason"] for e in state["refused"]] == [True]
        assert alpha.ask().status == 299


def test_an_instance_put_by_hand(mesh: Mesh) -> None:
    """No agent needs to own it; `etcdctl put` is enough, and `etcdctl del` is believed."""
    alpha = mesh.agent()
    port, _ = mesh.service("v9")
    mesh.put("instances/cats.staging/one", {"address": "127.0.0.1", "port": port, "version": "v9"})
    assert alpha.ask("cats.staging").version == "v9"
    mesh.etcdctl("del", "/shoal/default/instances/cats.staging/one")
    until("gone", lambda: alpha.ask("cats.staging").status in (404, 503))


def test_etcd_stops_and_starts_again(mesh: Mesh) -> None:
    """No request fails; a policy put afterwards arrives."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    with Traffic(alpha) as traffic:
        traffic.more(100)
        mesh.etcd.kill()
        until("noticed", lambda: not alpha.state()["etcd"]["connected"])
        traffic.more(300)
        mesh.etcd.start()
        until("back", lambda: alpha.state()["etcd"]["connected"])
        traffic.more(100)
    assert traffic.failures == []
    mesh.put(ROUTE, {"rules": [{"respond": {"status": 299}}]})
    assert alpha.ask().status == 299


def test_an_agent_starts_while_etcd_is_away(mesh: Mesh) -> None:
    """From the table on disk, which says how old it is."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    mesh.put(ROUTE, {"rules": [{"headers": {"response": {"set": {"x-from": "disk"}}}}]})
    assert alpha.stop() == 0
    mesh.etcd.kill()
    alpha.start()
    state = alpha.state()
    assert not state["etcd"]["connected"]
    assert state["table"]["age_s"] > 0
    answer = alpha.ask()
    assert (answer.status, answer.headers.get("x-from")) == (200, "disk")


def test_reload_loses_no_request(mesh: Mesh) -> None:
    """SIGHUP under load: other processes serve afterwards, registrations stand, nothing failed."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    before = {worker["pid"] for worker in alpha.state()["workers"]}
    with Traffic(alpha) as traffic:
        for _ in range(2):
            traffic.more(100)
            workers = {worker["pid"] for worker in alpha.state()["workers"]}
            alpha.tell(signal.SIGHUP)
            until(
                "new workers", lambda w=workers: alpha.ready() and not w & {x["pid"] for x in alpha.state()["workers"]}
            )
            traffic.more(100)
    assert traffic.failures == []
    assert not before & {worker["pid"] for worker in alpha.state()["workers"]}
    assert len(alpha.state()["local"]) == 1


def test_bad_settings_are_not_reloaded(mesh: Mesh) -> None:
    """The agent goes on as it was, and says why."""
    alpha = mesh.agent()
    pids = [worker["pid"] for worker in alpha.state()["workers"]]
    alpha.path.write_text(alpha.path.read_text() + "\n[limitz]\n")
    alpha.tell(signal.SIGHUP)
    until("told", lambda: "limitz" in alpha.log.read_text())
    assert [worker["pid"] for worker in alpha.state()["workers"]] == pids


def test_a_dead_worker_is_replaced(mesh: Mesh) -> None:
    """kill -9: connections that wait in its queue are served by its successor."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    (worker,) = alpha.state()["workers"]
    for _ in range(3):
        pid = alpha.state()["workers"][0]["pid"]
        os.kill(pid, signal.SIGKILL)
        assert alpha.ask().status == 200
        until("replaced", lambda p=pid: alpha.state()["workers"][0]["pid"] != p)
    assert alpha.state()["worker_restarts"] >= 3
    assert worker["pid"] != alpha.state()["workers"][0]["pid"]


def test_a_killed_agent_is_succeeded(mesh: Mesh) -> None:
    """kill -9 of control: its workers serve on until the successor is there, which adopts what was registered."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    process = alpha.process
    with Traffic(alpha) as traffic:
        traffic.more(50)
        alpha.stop(signal.SIGKILL)
        traffic.more(100)
        alpha.start()
        until("adopted", lambda: alpha.state()["local"])
        traffic.more(100)
    assert traffic.failures == []
    assert process is not None


def test_an_agent_that_stops_in_order_costs_its_callers_nothing(mesh: Mesh) -> None:
    """SIGTERM: its instances drain, the word spreads, what is in flight is finished; the others do the work."""
    alpha, beta = mesh.agent("alpha"), mesh.agent("beta", "127.0.0.2")
    mesh.instance(alpha)
    port = mesh.instance(beta)
    until("alpha knows", lambda: mesh.healthy(alpha, "pets.production", port))
    with Traffic(alpha) as traffic:
        traffic.more(100)
        assert beta.stop() == 0
        traffic.more(100)
    assert traffic.failures == []
    left = until("gone", lambda: mesh.etcdctl("get", "--prefix", "--keys-only", "/shoal/default/"))
    assert "/beta" not in left
    assert str(port) not in left


def test_a_killed_instance_costs_nothing(mesh: Mesh) -> None:
    """kill -9 under load; a health check takes it out, and until then requests are tried elsewhere."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    port, process = mesh.service()
    alpha.register("pets.production", port, health={"http": {}, "interval": "200ms", "fall": 2})
    until("healthy", lambda: mesh.healthy(alpha, "pets.production", port))
    with Traffic(alpha) as traffic:
        traffic.more(100)
        process.kill()
        traffic.more(200)
        until("taken out", lambda: not mesh.healthy(alpha, "pets.production", port))
        traffic.more(100)
    assert traffic.failures == []


def test_a_lost_lease_is_made_again(mesh: Mesh) -> None:
    """Revoked by hand: a new lease, and every key put again. Keys deleted by hand come back too."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    lease = alpha.state()["etcd"]["lease"]
    mesh.etcdctl("lease", "revoke", lease)
    until("another lease", lambda: alpha.state()["etcd"]["lease"] not in ("", lease))
    until("back", lambda: "pets.production" in mesh.etcdctl("get", "--prefix", "/shoal/default/instances/"))
    mesh.etcdctl("del", "--prefix", "/shoal/default/instances/")
    until("back again", lambda: "pets.production" in mesh.etcdctl("get", "--prefix", "/shoal/default/instances/"))
    until("served", lambda: alpha.ask().status == 200)


def test_mass_deletion_is_not_believed(mesh: Mesh) -> None:
    """`etcdctl del --prefix` by mistake: what answers stays in service, what does not is dropped."""
    alpha = mesh.agent()
    ports = {name: mesh.service()[0] for name in ("cats", "dogs", "fish")}
    for name, port in ports.items():
        mesh.put(f"instances/{name}.production/one", {"address": "127.0.0.1", "port": port})
    mesh.services[0].kill()
    mesh.etcdctl("del", "--prefix", "/shoal/default/instances/")
    until("suspected", lambda: alpha.state()["suspects"])
    until("the dead one dropped", lambda: len(alpha.state()["suspects"]) == 2)
    assert alpha.ask("dogs.production").status == 200
    assert alpha.ask("fish.production").status == 200


def test_two_agents_with_one_host_name(mesh: Mesh) -> None:
    """The second one gives up, with a message; the first is not disturbed."""
    alpha = mesh.agent("alpha")
    twin = mesh.agent("alpha", "127.0.0.2", start=False, state_dir=mesh.folder / "twin")
    twin.path = mesh.folder / "twin.toml"
    twin.path.write_text((mesh.folder / "alpha.toml").read_text())
    alpha.path.write_text(alpha.path.read_text())
    twin.start(wait=False)
    assert twin.process is not None
    assert twin.process.wait(30) != 0
    assert "lives under this name" in twin.log.read_text() or "another agent" in twin.log.read_text()
    assert mesh.etcdctl("get", "/shoal/default/agents/alpha").count('"127.0.0.1"') == 1


def test_a_state_directory_that_cannot_be_written(mesh: Mesh) -> None:
    """A warning; the agent serves."""
    blocked = mesh.folder / "blocked"
    blocked.write_text("a file where a directory should be")
    alpha = mesh.agent(state_dir=blocked / "state")
    mesh.instance(alpha)
    assert alpha.ask().status == 200
    assert "cannot write" in alpha.log.read_text()


def test_a_service_with_5000_instances(mesh: Mesh) -> None:
    """One service, many instances; one of them answers."""
    alpha = mesh.agent()
    port, _ = mesh.service()
    prefix = "/shoal/default/instances/big.production/"
    record = json.dumps(json.dumps({"address": "127.0.0.1", "port": port}))
    puts = [f"put {prefix}i{n} {record}" for n in range(5000)]
    for start in range(0, len(puts), 100):
        mesh.etcdctl("txn", data="\n" + "\n".join(puts[start : start + 100]) + "\n\n\n")
    mesh.shoal("wait")
    assert len(alpha.state()["services"]["big.production"]["endpoints"]) == 5000
    assert alpha.ask("big.production").status == 200


def test_who_is_calling(mesh: Mesh) -> None:
    """The proxy credentials say it, and are checked."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    registered = alpha.register("web.production", 1)
    credentials = registered["proxy"].removeprefix("http://").rpartition("@")[0]
    import base64

    good = "Basic " + base64.b64encode(credentials.encode()).decode()
    bad = "Basic " + base64.b64encode(b"web.production:guess").decode()
    answer = alpha.ask(proxy_authorization=good)
    assert json.loads(answer.body)["headers"]["x-shoal-caller"] == "web.production"
    assert "proxy-authorization" not in json.loads(answer.body)["headers"]
    assert alpha.ask(proxy_authorization=bad).status == 407


def test_audit_mode_changes_nothing_and_counts(mesh: Mesh) -> None:
    """A route in audit mode: what it would have done is counted."""
    alpha = mesh.agent()
    mesh.instance(alpha)
    mesh.put(ROUTE, {"mode": "audit", "rules": [{"respond": {"status": 403}}]})
    assert alpha.ask().status == 200
    verdicts = 'document="pets.production",done="passed",kind="route",service="pets.production",would="rules[0]"'
    assert f"shoal_audit_total{{{verdicts}}} 1.0" in alpha.text("/metrics")
