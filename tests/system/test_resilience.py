"""Guards on real parts: instances that fail in different ways, a limit for the whole mesh, a breaker as it is seen."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mesh import DIRECT, AgentProcess, Mesh, running_mesh, until

SERVICE = "pets.production"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def ask_many(agent: AgentProcess, count: int, threads: int = 4, path: str = "/") -> Counter[int]:
    """Statuses of so many requests."""
    found: Counter[int] = Counter()
    lock = threading.Lock()

    def run() -> None:
        mine: Counter[int] = Counter(agent.ask(SERVICE, path).status for _ in range(count // threads))
        with lock:
            found.update(mine)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return found


def test_five_instances_of_which_four_are_bad_in_their_own_ways(mesh: Mesh) -> None:
    """One fails, one is slow, one flaps, one lies about its health: callers hardly notice."""
    alpha = mesh.agent()
    mesh.put(
        f"policies/retry/{SERVICE}",
        {"attempts": 4, "on": ["connect-failure", "reset", "timeout", "gateway-error", "5xx"]},
    )
    mesh.put(f"policies/timeout/{SERVICE}", {"try": "1s", "request": "8s"})
    mesh.put(
        f"policies/outlier/{SERVICE}",
        {
            "consecutive_5xx": 3,
            "min_requests": 3,
            "interval": "500ms",
            "ejection": "20s",
            "latency_factor": 4,
            "max_percent": 80,
        },
    )
    ports = [mesh.instance(alpha) for _ in range(5)]
    good, failing, slow, flapping, lying = ports
    for port, what in ((failing, "failing"), (slow, "slow"), (lying, "failing")):
        DIRECT.open(f"http://127.0.0.1:{port}/set/{what}", timeout=5).read()
    stop = threading.Event()

    def flap() -> None:
        while not stop.wait(0.7):
            for what in ("failing", "well"):
                DIRECT.open(f"http://127.0.0.1:{flapping}/set/{what}", timeout=5).read()
                stop.wait(0.7)

    flapper = threading.Thread(target=flap)
    flapper.start()
    try:
        found = ask_many(alpha, 1200)
    finally:
        stop.set()
        flapper.join()
    assert found[200] / found.total() >= 0.999, found
    requests = {e["port"]: e["requests"] for e in alpha.state()["services"][SERVICE]["endpoints"]}
    assert requests[good] > max(requests[failing], requests[lying], requests[slow])
    assert "shoal_ejections_total" in alpha.text("/metrics")


def test_operators_see_a_breaker(mesh: Mesh) -> None:
    """In status, in state, in metrics, in the log and by explain; and it closes again."""
    alpha = mesh.agent()
    port = mesh.instance(alpha)
    mesh.put(f"policies/retry/{SERVICE}", {"attempts": 1})
    mesh.put(f"policies/breaker/{SERVICE}", {"trip": {"consecutive": 3}, "recovery": {"open": "1s"}})
    DIRECT.open(f"http://127.0.0.1:{port}/set/failing", timeout=5).read()
    assert ask_many(alpha, 8, 1) == {500: 3, 503: 5}
    until("told", lambda: alpha.state()["standing"])
    admin = f"http://127.0.0.1:{alpha.admin}"
    assert "open: 3 failures in a row" in mesh.shoal("--admin", admin, "status").stdout
    assert "3 failures in a row" in mesh.shoal("--admin", admin, "explain", "GET", f"http://{SERVICE}/").stdout
    assert f'shoal_breaker_state{{service="{SERVICE}"}} 2.0' in alpha.text("/metrics")
    assert alpha.state()["services"][SERVICE]["breaker"]["state"] == "open"
    DIRECT.open(f"http://127.0.0.1:{port}/set/well", timeout=5).read()
    until("closed", lambda: alpha.ask(SERVICE).status == 200 and not alpha.state()["standing"])
    assert "breaker closed" in alpha.log.read_text()


def test_a_limit_for_the_whole_mesh(mesh: Mesh) -> None:
    """Three agents, skewed load: together they let about the limit pass; also when an owner is killed, never more."""
    agents = [mesh.agent(name, f"127.0.0.{n}") for n, name in enumerate(("alpha", "beta", "gamma"), 1)]
    mesh.instance(agents[0])
    until("all know", lambda: all(SERVICE in agent.state()["services"] for agent in agents))
    mesh.put(
        f"policies/ratelimit/{SERVICE}", {"limits": [{"name": "all", "rate": "60/s", "burst": 6, "scope": "mesh"}]}
    )
    stop = threading.Event()
    passed: Counter[str] = Counter()

    def load(agent: AgentProcess, pause_s: float) -> None:
        while not stop.is_set():
            try:
                if agent.ask(SERVICE).status == 200:
                    passed[agent.host] += 1
            except OSError:
                pass
            stop.wait(pause_s)

    threads = [
        threading.Thread(target=load, args=(agent, pause_s))
        for agent, pause_s in ((agents[0], 0.001), (agents[0], 0.001), (agents[1], 0.15), (agents[2], 0.3))
    ]
    for thread in threads:
        thread.start()
    try:
        time.sleep(2)
        began, before = time.monotonic(), passed.total()
        time.sleep(4)
        rate = (passed.total() - before) / (time.monotonic() - began)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert 45 <= rate <= 69, f"{rate:.1f}/s passed of 60/s; {passed}"
    assert passed["alpha"] > 2 * passed["beta"]
