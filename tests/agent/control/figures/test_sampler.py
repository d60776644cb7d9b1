"""What an agent counts in windows: of workers that come and go, aligned to the clock, never below nothing."""

from __future__ import annotations

import os
from typing import Any

import trio
import trio.testing

from agent.control.figures.counted import Loads, edges
from agent.control.figures.cpu import Cpu, used_s
from agent.control.figures.sampler import Sampler
from agent.figures.tally import CPU, IN_FLIGHT, PENDING, Key
from agent.settings.address import Address
from tests.support.figures import Workers, edge, told

NOW = 1_700_000_000


def instance(active: int, good: int, bad: int = 0) -> list[Any]:
    return [active, good, bad, 0.02 * (good + bad), "v1"]


def test_requests_are_counted_where_the_mesh_meets_them_first() -> None:
    """Not once more by the agent beside the instance; over workers and peers they are added up."""
    found = edges([told(edge(5), edge(3, peer="h3"), edge(9, first=False)), told(edge(2), edge(1, caller=""))])
    key = Key("pets", "shop", "rules[0]", "v1")
    assert found[key].requests == {2: 10} and found[key].buckets == {10: 10} and found[key].duration_us == 100_000
    assert found[key._replace(caller="")].requests == {2: 1}


def test_refusals_and_what_was_shed_are_told_by_kind() -> None:
    """Refusals where the mesh meets requests first; a worker of the version before, without edges, has them."""
    counted = told(refused={"ratelimit": 3, "authz": 0}, refused_second={"ratelimit": 3}, shed={"refused": 2})
    found = edges([counted, {"services": {"old": {}}}, {}])
    assert found == {Key("pets"): found[Key("pets")]}
    assert found[Key("pets")].counts == {"refused/ratelimit": 3, "shed/refused": 2}


def test_instances_are_counted_between_two_looks() -> None:
    """By worker: one that was replaced begins from nothing, one that does not answer is gone on with."""
    loads = Loads()
    first = loads.look({1: {"pets": {"pending": 2, "instances": {"p-1": instance(3, 10, 1)}}}}, [1, 2])
    assert first[Key("pets", version="v1", instance="p-1")].requests == {2: 10, 5: 1}
    assert first[Key("pets")].counts == {PENDING: 2000, IN_FLIGHT: 3000}
    assert loads.look({}, [1, 2]) == {}
    again = loads.look({1: {"pets": {"pending": 0, "instances": {"p-1": instance(0, 15, 1)}}}}, [1, 2])
    assert again == {Key("pets", version="v1", instance="p-1"): again[Key("pets", version="v1", instance="p-1")]}
    assert again[Key("pets", version="v1", instance="p-1")].requests == {2: 5}
    assert 99_999 <= again[Key("pets", version="v1", instance="p-1")].duration_us <= 100_000
    anew = loads.look({7: {"pets": {"pending": 0, "instances": {"p-1": instance(0, 4, 0)}}}}, [7, 2])
    assert anew[Key("pets", version="v1", instance="p-1")].requests == {2: 4}
    made_anew = loads.look({7: {"pets": {"pending": 0, "instances": {"p-1": instance(1, 1, 0)}}}}, [7, 2])
    assert made_anew[Key("pets", version="v1", instance="p-1")].requests == {}


async def test_windows_end_with_the_clock_and_have_what_came_in_them(autojump_clock: trio.testing.MockClock) -> None:
    """What was counted before the agent looked first is no news; what is under way is as it was when a window ended."""
    workers = Workers()
    workers.figures = [told(edge(100))]
    offset = NOW + 3.3 - trio.current_time()
    sampler = Sampler(workers, clock=lambda: trio.current_time() + offset)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sampler.run)
        await trio.testing.wait_all_tasks_blocked()
        workers.figures = [told(edge(107, failed=2))]
        workers.load = {1: {"pets": {"pending": 0, "instances": {"p-1": instance(6, 5)}}}}
        await trio.sleep(7)
        workers.load = {}
        found = sampler.windows.sum(NOW + 10, 10)
        assert found.rows[Key("pets", "shop", "rules[0]", "v1")].requests == {2: 7, 5: 2}
        assert found.rows[Key("pets")].counts == {IN_FLIGHT: 6000}
        assert found.rows[Key("pets", version="v1", instance="p-1")].requests == {2: 5}
        workers.figures = [told(edge(110, failed=2))]
        await trio.sleep(10)
        assert sampler.windows.sum(NOW + 20, 10).rows[Key("pets", "shop", "rules[0]", "v1")].requests == {2: 3}
        workers.figures = [told(edge(4))]  # all that there was is gone: whoever counts now has begun from nothing
        await trio.sleep(10)
        assert sampler.windows.sum(NOW + 30, 10).rows[Key("pets", "shop", "rules[0]", "v1")].requests == {2: 4}
        assert sampler.windows.sum(NOW + 30, 60).covered_s == 30 and sampler.late == 0
        nursery.cancel_scope.cancel()


async def test_a_look_that_was_missed_is_told_and_a_failure_ends_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A loop that stood still for 25 s; workers that tell nonsense; a clock that is set back."""
    workers = Workers()
    offset = [NOW + 0.0 - trio.current_time()]
    sampler = Sampler(workers, clock=lambda: trio.current_time() + offset[0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sampler.run)
        await trio.testing.wait_all_tasks_blocked()
        workers.figures = [told(edge(1))]
        await trio.sleep(11)
        offset[0] += 25
        workers.figures = [told(edge(5))]
        await trio.sleep(5)
        found = sampler.windows.sum(NOW + 40, 60)
        assert found.missed == 1 and sampler.late == 12
        assert found.rows[Key("pets", "shop", "rules[0]", "v1")].requests == {2: 5}
        workers.figures = [{"services": {"pets": {"edges": [["nonsense"]]}}}]
        await trio.sleep(11)
        workers.figures = [told(edge(9))]
        offset[0] -= 3000
        await trio.sleep(30)  # what was named after a time that is yet to come is forgotten
        found = sampler.windows.sum(int(trio.current_time() + offset[0]), 60)
        assert found.rows[Key("pets", "shop", "rules[0]", "v1")].requests == {2: 4}
        nursery.cancel_scope.cancel()


async def test_services_that_are_scaled_have_short_windows() -> None:
    """And no others; nobody is asked more often where there are none."""
    workers = Workers()
    patterns: list[str] = []
    sampler = Sampler(workers, scaled=lambda: patterns)
    await sampler.look(NOW + 2, ended=False)
    assert workers.asked == 0 and workers.looked == 0
    patterns.append("pets")
    for n in range(1, 8):
        workers.figures = [{"services": {"pets": {"edges": [edge(n)]}, "shop": {"edges": [edge(50 * n)]}}}]
        await sampler.look(NOW + 2 + 2 * n, ended=False)
    found = sampler.fine.sum(NOW + 16, 6)
    assert {key.service: tally.total for key, tally in found.rows.items()} == {"pets": 3}
    assert found.covered_s == 6 and workers.looked == 7


async def test_what_is_under_way_is_a_mean_where_something_is_scaled() -> None:
    """Of all looks of the window, also of those before the policy was there: then there were none."""
    workers = Workers()
    patterns: list[str] = []
    sampler = Sampler(workers, scaled=lambda: patterns)
    workers.load = {1: {"pets": {"pending": 0, "instances": {"p-1": instance(6, 5)}}}}
    await sampler.look(NOW + 2, ended=False)
    patterns.append("pets")
    for n in (4, 6, 8):
        await sampler.look(NOW + n, ended=False)
    workers.load = {}
    await sampler.look(NOW + 10, ended=True)
    assert sampler.windows.sum(NOW + 10, 10).rows[Key("pets")].counts == {IN_FLIGHT: 6000 * 3 // 4}


# Processors.


def test_what_programs_take_is_told_as_far_as_it_is_seen() -> None:
    """By instance, in thousandths of a core; nothing of those that cannot be seen, or have just been found."""
    used = {10: 1.0, 11: 0.0}
    one, two = Address("127.0.0.1", 8001), Address("127.0.0.1", 8002)
    looked: list[int] = []

    def find(places: Any) -> dict[Address, frozenset[int]]:
        looked.append(len(list(places)))
        return {one: frozenset((10, 11))}

    cpu = Cpu(find, used.get)
    places = {("pets", "a"): one, ("pets", "b"): two}
    assert cpu.look(places, 0.0) == {}
    used.update({10: 2.0, 11: 0.5})
    assert cpu.look(places, 10.0) == {("pets", "a"): 150}
    del used[11]
    assert cpu.look(places, 20.0) == {("pets", "a"): 0} and looked == [2]
    cpu.look(places, 70.0)
    assert looked == [2, 2]


def test_the_kernel_tells_what_a_process_has_used() -> None:
    """Ours, whatever its name is; and nothing of one that is not there."""
    before = used_s(os.getpid())
    assert before is not None and before > 0
    assert used_s(2**22 + 1) is None
    assert CPU.endswith("_m")


async def test_a_reload_keeps_the_hour(autojump_clock: trio.testing.MockClock) -> None:
    """Windows, names and all; what came since the last window stands in the one under way, once."""
    workers = Workers()
    workers.figures = [told(edge(100))]
    offset = NOW - trio.current_time()

    def clock() -> float:
        return trio.current_time() + offset

    before = Sampler(workers, clock=clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(before.run)
        await trio.sleep(1)
        for count in (110, 120, 130):
            workers.figures = [told(edge(count), edge(count, caller=f"c{count}"))]
            await trio.sleep(10)
        workers.figures = [told(edge(134), edge(130, caller="c130"))]  # 4 more are heard of, and then it reloads
        nursery.cancel_scope.cancel()
    after = Sampler(workers, clock=clock)
    after.take_over(before.kept())
    after.take_over(b"")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(after.run)
        await trio.sleep(2)
        workers.figures = [told(edge(139), edge(130, caller="c130"), edge(1, caller="new"))]
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    key = Key("pets", "shop", "rules[0]", "v1")
    found = after.windows.sum(int(clock()), 3600)
    assert found.rows[key].requests == {2: 39} and found.missed == 0 and found.covered_s == 50
    assert found.rows[key._replace(caller="c110")].requests == {2: 110}
    assert found.rows[key._replace(caller="new")].requests == {2: 1}
    after.take_over(b"\x93\x01\x02")
    assert after.windows.sum(int(clock()), 3600) == found
