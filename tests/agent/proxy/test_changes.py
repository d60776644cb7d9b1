"""Changes of services in a worker: they cost what they change, and come to the same as the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from agent import frames, portions
from agent.frames import Change, Commit, EndpointFrame, PolicyFrame, Stage
from agent.proxy.table import asked
from agent.proxy.table import table as tables
from agent.proxy.worker import Worker
from policies.decision import Subset
from policies.hashing import hash64
from policies.kinds.balance import maglev, ring
from tests.support.proxy import endpoint

NAME = "pets.production"
interpreted = pytest.mark.skipif(not str(tables.__file__).endswith(".py"), reason="replaces what Python looks up")
KEYS = [hash64(f"user-{n}") for n in range(300)]


def fleet(count: int) -> list[EndpointFrame]:
    return [endpoint(1000 + n, f"i{n:05}", zone=f"z{n % 3}", version=f"v{n % 2}") for n in range(count)]


def documents(**texts: Any) -> dict[str, PolicyFrame]:
    return {kind: PolicyFrame(NAME, 1, msgspec.json.encode(text)) for kind, text in texts.items()}


HASH = [{"header": "x-user"}]
SETTINGS: dict[str, dict[str, PolicyFrame]] = {
    "plain": {},
    "ring": documents(balance={"algorithm": "ring-hash", "hash": HASH, "ring_min": 4096}),
    "maglev": documents(balance={"algorithm": "maglev", "hash": HASH}),
    "zones": documents(balance={"algorithm": "ring-hash", "hash": HASH, "locality": {"failover": ["z2"]}}),
    "versions": documents(
        route={"rules": [{"split": [{"version": "v0", "weight": 9}, {"version": "v1", "weight": 1}]}]},
        breaker={"endpoint": {"trip": {"consecutive": 5}}},
        outlier={},
    ),
    "sessions": documents(balance={"sticky": {"header": "x-user"}}),
}


class Work:
    """Counts what is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.endpoints = self.hashes = self.compiled = 0
        self._count(monkeypatch, tables, "Endpoint", "endpoints")
        self._count(monkeypatch, ring, "hashes64", "hashes")
        self._count(monkeypatch, maglev, "hashes64", "hashes")
        self._count(monkeypatch, asked, "Routes", "compiled")
        self._count(monkeypatch, asked, "Breakers", "compiled")

    def _count(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, of: str) -> None:
        real: Callable[..., Any] = getattr(module, name)

        def counted(*given: Any, **named: Any) -> Any:
            setattr(self, of, getattr(self, of) + 1)
            return real(*given, **named)

        monkeypatch.setattr(module, name, counted)

    def done(self) -> tuple[int, int, int]:
        found = self.endpoints, self.hashes, self.compiled
        self.endpoints = self.hashes = self.compiled = 0
        return found


def worker(count: int, policies: Mapping[str, PolicyFrame]) -> Worker:
    made = Worker(7)
    made.take(frames.Configure("here", "z1"))
    made.take(Stage(NAME, 1, fleet(count), dict(policies)))
    told = made.take(Commit(1))
    assert told[0] == frames.Runs(1, [])
    pick(made)
    return made


def pick(made: Worker) -> dict[Any, str]:
    """As requests of all kinds do."""
    plan = made.table.services[NAME].plan
    found: dict[Any, str] = {}
    for subset in (None, Subset("v0"), Subset("v1")):
        for key in KEYS:
            picked = plan.group(subset).pick(key, 1.0, made.rng)
            assert picked is not None
            found[subset, key] = picked.id
    return found


@interpreted
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_flap_costs_the_same_however_many_there_are(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One endpoint is made, no ring is drawn, no table filled, and no policy compiled, for n as for 2n."""
    work = Work(monkeypatch)
    for count in (60, 120):
        made = worker(count, SETTINGS[setting])
        work.done()
        down = msgspec.structs.replace(fleet(count)[4], healthy=False)
        made.take(Change(NAME, 2, [down]))
        assert made.take(Commit(2)) == [frames.Runs(2, [])]
        assert down.id not in pick(made).values()
        assert work.done() == (1, 0, 0)
        made.take(Change(NAME, 3, [fleet(count)[4]]))
        made.take(Commit(3))
        pick(made)
        assert work.done() == (1, 0, 0)


@pytest.mark.parametrize("setting", ["ring", "maglev", "zones"])
def test_a_flap_moves_only_its_own_keys_and_they_come_back(setting: str) -> None:
    """Whoever else has a key keeps it, in every subset."""
    made = worker(60, SETTINGS[setting])
    before = pick(made)
    down = msgspec.structs.replace(fleet(60)[4], healthy=False)
    made.take(Change(NAME, 2, [down]))
    made.take(Commit(2))
    during = pick(made)
    assert {before[key] for key in before if before[key] != during[key]} <= {down.id}
    made.take(Change(NAME, 3, [fleet(60)[4]]))
    made.take(Commit(3))
    assert pick(made) == before


@pytest.mark.parametrize("setting", SETTINGS)
def test_changes_come_to_the_same_as_the_whole(setting: str) -> None:
    """Ill, on its way out, gone, new and moved at once: the same requests go to the same endpoints."""
    policies = SETTINGS[setting]
    after = fleet(60)
    after[3] = msgspec.structs.replace(after[3], healthy=False)
    after[7] = msgspec.structs.replace(after[7], draining=True)
    after[9] = msgspec.structs.replace(after[9], dial_port=9)
    gone = after.pop(5)
    new = endpoint(5000, "i00005a", zone="z1", version="v1")
    one, other = worker(60, policies), worker(60, policies)
    one.take(Change(NAME, 2, [after[3], after[6], after[8], new], [gone.id]))
    other.take(Stage(NAME, 2, [*after, new], policies))
    for each in (one, other):
        each.take(Commit(2))
    plan, whole = (each.table.services[NAME].plan for each in (one, other))
    assert {(e.id, e.healthy, e.draining, e.dial) for e in plan.endpoints} == {
        (e.id, e.healthy, e.draining, e.dial) for e in whole.endpoints
    }
    assert [phase.kind for phase in plan.outbound] == [phase.kind for phase in whole.outbound]
    assert one.table.services[NAME].loads.keys() == other.table.services[NAME].loads.keys()
    assert new.id in one.table.services[NAME].loads and gone.id not in one.table.services[NAME].loads
    if setting in ("ring", "maglev", "zones"):
        assert pick(one) == pick(other)
    if setting == "versions":
        assert all(load.circuit and load.record for load in one.table.services[NAME].loads.values())


def test_policies_change_without_endpoints() -> None:
    """And the endpoints are the very same."""
    made = worker(20, {})
    before = made.table.services[NAME].plan
    made.take(Change(NAME, 2, policies=SETTINGS["versions"]))
    assert made.take(Commit(2)) == [frames.Runs(2, [])]
    after = made.table.services[NAME].plan
    assert after.endpoints == before.endpoints and after.outbound != () and before.outbound == ()
    made.take(Change(NAME, 3, policies={}))
    made.take(Commit(3))
    assert made.table.services[NAME].plan.outbound == ()


def test_what_is_learnt_survives_a_flap() -> None:
    """Of the one that flaps and of the others; and it is new to health when it is back, not when it came."""
    made = worker(20, SETTINGS["versions"])
    loads = dict(made.table.services[NAME].loads)
    loads["i00004"].requests = 7
    made.take(Change(NAME, 2, [msgspec.structs.replace(fleet(20)[4], healthy=False)]))
    made.take(Commit(2))
    assert loads["i00004"].healthy_since == float("-inf")
    made.take(Change(NAME, 3, [fleet(20)[4]]))
    made.take(Commit(3))
    assert made.table.services[NAME].loads == loads
    assert loads["i00004"].healthy_since > 0 and loads["i00003"].healthy_since == float("-inf")


def test_a_newcomer_is_new_until_it_is_healthy() -> None:
    """Also one that has been here before; who is there when the worker begins is none, and who falls ill neither."""
    made = worker(3, {})

    def told(revision: int, *frames: EndpointFrame, gone: str = "") -> set[str]:
        made.take(Change(NAME, revision, list(frames), [gone] if gone else []))
        made.take(Commit(revision))
        return {id for id, member in made.table.services[NAME].members.items() if member.load.new}

    ill = [msgspec.structs.replace(each, healthy=False) for each in fleet(9)]
    assert told(2, ill[0], *ill[3:]) == {f"i0000{n}" for n in range(3, 9)}
    assert told(3, ill[3]) == {f"i0000{n}" for n in range(3, 9)}, "a failed check is no first success"
    assert told(4, *fleet(9)[3:]) == set()
    assert told(5, *ill[3:5]) == set()
    assert told(6, gone="i00004") == set()
    assert told(7, ill[4]) == {"i00004"}


def test_a_large_service_is_taken_in_portions() -> None:
    """That come to the same, with the policies compiled once; and a small one is left as it is."""
    count = 3 * portions.SLICE
    whole = Stage(NAME, 1, fleet(count + 1), SETTINGS["versions"])
    cut = list(portions.sliced(whole))
    assert [len(part.endpoints) for part in cut] == [0, *[portions.SLICE] * 3, 1]
    made = Worker(7)
    for part in cut:
        made.take(part)
    assert made.take(Commit(1))[0] == frames.Runs(1, [])
    assert [e.id for e in made.table.services[NAME].plan.endpoints] == [e.id for e in whole.endpoints]
    small = Stage(NAME, 1, fleet(portions.SLICE), {})
    assert list(portions.sliced(small)) == [small]


@pytest.mark.parametrize("gone", [False, True])
def test_a_change_of_what_is_not_there_is_told(gone: bool, caplog: pytest.LogCaptureFixture) -> None:
    """And changes nothing: control tells of services as a whole from then on."""
    made = worker(3, {})
    name = NAME if gone else "other.production"
    if gone:
        made.take(frames.Gone(NAME))
    made.take(Change(name, 2, fleet(1), more=True))
    made.take(Change(name, 2, fleet(1)))
    (runs,) = made.take(Commit(2))
    assert isinstance(runs, frames.Runs) and [(r.key, r.kind) for r in runs.refused] == [(name, "")]
    assert set(made.table.services) == (set() if gone else {NAME})


@interpreted
def test_a_plan_that_fails_leaves_the_one_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In all of its portions; and the next one that is whole mends it."""
    made = worker(3, {})
    before = made.table.services[NAME].plan

    def fails(*given: Any, **named: Any) -> Any:
        raise RuntimeError("no plan today")

    with monkeypatch.context() as patched:
        patched.setattr(tables, "Plan", fails)
        for part in portions.sliced(Stage(NAME, 2, fleet(2 * portions.SLICE), {})):
            made.take(part)
        (runs,) = made.take(Commit(2))
    assert isinstance(runs, frames.Runs) and len(runs.refused) == 1 and "no plan today" in runs.refused[0].reason
    assert made.table.services[NAME].plan is before and runs.revision == 2
    made.take(Stage(NAME, 3, fleet(5), {}))
    made.take(Commit(3))
    assert len(made.table.services[NAME].plan.endpoints) == 5


@interpreted
def test_a_commit_that_fails_is_answered_with_what_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Control waits for that word before it tells of anything more."""
    made = worker(3, {})

    def fails(*given: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(made.table, "commit", fails)
    (runs,) = made.take(Commit(9))
    assert isinstance(runs, frames.Runs) and runs.revision == 1 and runs.refused
