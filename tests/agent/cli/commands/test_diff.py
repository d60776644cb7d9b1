from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from agent.cli.commands.diff import show
from agent.cli.failure import Exit
from agent.cli.printing import Printer
from agent.figures.compared import NotCompared, added, gathered
from policies.kinds.shadow.comparison import Tally, merge, note
from policies.kinds.shadow.difference import Difference
from policies.kinds.shadow.document import Thresholds
from registry.etcd.server import EtcdProcess
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.keys import Keys
from registry.records import Compared, Rejection, encode
from registry.store import Store
from tests.support.etcd import running_etcd
from tests.support.memory import MemoryStore

KEYS = Keys()
SERVICE = "pets.production"


def tally(count: int, raw: int = 0, noise: int = 0, start: int = 0) -> Tally:
    """So many requests; the first differ."""
    made = Tally()
    price = {"$.price": Difference("$.price", "12", "12.0 EUR")}
    for n in range(count):
        note(made, f"GET /pets/{n}", str(start + n), price if n < raw else {}, price if n >= count - noise else {})
        made.time("primary", 0.003)
    return made


def record(counted: Tally, revision: int, **thresholds: float) -> Compared:
    said: dict[str, float] = msgspec.to_builtins(Thresholds()) | thresholds
    return Compared(revision=revision, thresholds=said, tally=msgspec.to_builtins(counted, str_keys=True))


async def policy(store: Store, pattern: str = SERVICE) -> int:
    return await store.put(KEYS.policy("shadow", pattern), b"{}")


async def test_the_tallies_of_all_agents_are_added_up() -> None:
    """Of those that count under the document in force; the others are named."""
    store = MemoryStore()
    before = await policy(store)
    now = await policy(store)
    await store.put(KEYS.tally(SERVICE, "a"), encode(record(tally(60, raw=30), now)))
    await store.put(KEYS.tally(SERVICE, "b"), encode(record(tally(60, raw=20, start=99), now)))
    await store.put(KEYS.tally(SERVICE, "c"), encode(record(tally(500, raw=500), before)))
    await store.put(KEYS.tally(SERVICE, "d"), b"?")
    await store.put(KEYS.tally(SERVICE, "e"), encode(Compared(revision=now, tally={"total": "many"})))
    await store.put(KEYS.tally("pets.production2", "a"), encode(record(tally(60, raw=30), now)))
    found = await gathered(store, "default", SERVICE)
    assert (found["outcome"], found["total"], found["agents"]) == ("regression", 120, ["a", "b"])
    assert sorted(found["left_out"]) == ["c", "d", "e"]
    assert found["left_out"]["c"] == f"counted under revision {before}"
    (verdict,) = found["fields"]
    assert (verdict["field"], verdict["raw"], verdict["noise"], verdict["regression"]) == ("$.price", 50, 0, True)
    assert len(verdict["examples"]) == 3
    json.dumps(found)


async def test_a_host_is_counted_once_wherever_it_tells() -> None:
    """While the mesh moves: under its own key, where it stood before, and both, where its own is what it says now."""
    store = MemoryStore()
    now = await policy(store)
    await store.put(KEYS.tally(SERVICE, "a"), encode(record(tally(1), now)))
    await store.put(KEYS.tally(SERVICE, "b", own=True), encode(record(tally(10), now)))
    await store.put(KEYS.tally(SERVICE, "c"), encode(record(tally(100), now)))
    await store.put(KEYS.tally(SERVICE, "c", own=True), encode(record(tally(1000), now)))
    await store.put(KEYS.tally("pets.staging", "d", own=True), encode(record(tally(10_000), now)))
    found = await gathered(store, "default", SERVICE)
    assert (found["agents"], found["total"]) == (["a", "b", "c"], 1011)


async def test_the_document_in_force_counts() -> None:
    """The most specific one; of one that was refused, the last good one before it. None is said to be none."""
    store = MemoryStore()
    with pytest.raises(NotCompared, match="no shadow policy is for"):
        await gathered(store, "default", SERVICE)
    everywhere = await policy(store, "*")
    await store.put(KEYS.tally(SERVICE, "a"), encode(record(tally(200), everywhere)))
    assert (await gathered(store, "default", SERVICE))["outcome"] == "equal"
    good = await policy(store)
    assert (await gathered(store, "default", SERVICE))["outcome"] == "unknown"
    await store.put(KEYS.tally(SERVICE, "a"), encode(record(tally(300), good)))
    bad = await policy(store)
    told = Rejection(path="$", reason="bad", revision=bad, agent="a", at="", last_good=good)
    await store.put(KEYS.rejection("shadow", SERVICE), encode(told))
    found = await gathered(store, "default", SERVICE)
    assert (found["revision"], found["total"], found["outcome"]) == (good, 300, "equal")


def test_adding_up_is_merging() -> None:
    """In whatever order; under the thresholds of the document."""
    records = {host: record(tally(n, raw=n), 1, min_requests=7) for host, n in (("a", 3), ("b", 5))}
    total, thresholds, unreadable = added(records)
    assert msgspec.structs.replace(total, max_samples=3) == merge(tally(3, raw=3), tally(5, raw=5))
    assert (thresholds.min_requests, unreadable) == (7, {})


def test_what_people_see(capsys: pytest.CaptureFixture[str]) -> None:
    """The fields with an example, what is left out, and one sentence."""
    counted = tally(1200, raw=1200)
    counted.skip("the primary failed")
    found = {
        "service": SERVICE,
        "agents": ["a", "b"],
        "left_out": {"c": "counted under revision 3"},
        **report_of(counted),
    }
    show(Printer("table"), found)
    told = capsys.readouterr()
    row = next(line for line in told.out.splitlines() if line.startswith("$.price"))
    assert row.split()[:5] == ["$.price", "1200", "0", "1200", "regression"]
    assert "12.0 EUR" in row and "GET /pets/" in row
    assert "REGRESSION: 1200 requests compared by 2 agents; median primary 2.9 ms;" in told.out
    assert "1 not compared (1 the primary failed)" in told.out
    assert "c is left out: counted under revision 3" in told.err
    show(Printer("table"), {**found, "agents": ["a"], **report_of(tally(5)), "left_out": {}})
    told = capsys.readouterr()
    assert "too few requests were compared to know: 5 requests compared by 1 agent; at least 100 are needed" in told.out


def report_of(counted: Tally) -> dict[str, Any]:
    from policies.kinds.shadow.comparison import report

    return report(counted, Thresholds())


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as member:
        yield member


@pytest.mark.parametrize(
    ("mesh", "counted", "code"),
    [
        ("good", tally(200, raw=10, noise=10), Exit.OK),
        ("bad", tally(200, raw=100), Exit.NO),
        ("early", tally(50, raw=50), Exit.UNKNOWN),
    ],
)
async def test_the_exit_code_is_the_decision(etcd: EtcdProcess, mesh: str, counted: Tally, code: Exit) -> None:
    """As a script sees it, with a real etcd."""
    keys = Keys(mesh)
    async with EtcdStore.open(EtcdSettings(endpoints=(etcd.url,))) as store:
        revision = await store.put(keys.policy("shadow", SERVICE), b"{}")
        await store.put(keys.tally(SERVICE, "a"), encode(record(counted, revision)))
    for output in ("json", "table"):
        done = shoal("diff", "pets/production", "--etcd", etcd.url, "--mesh", mesh, "--output", output)
        assert done.returncode == code, done.stderr
        if output == "json":
            assert json.loads(done.stdout)["total"] == counted.total
    assert shoal("diff", "other", "--etcd", etcd.url, "--mesh", mesh).returncode == Exit.NO


def shoal(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from agent.cli.main import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)
