"""The memory that workers count in: who has which part of it, over deaths and re-executions."""

from __future__ import annotations

import mmap
import os

from agent.control.workers.shared_counts import NONE, SharedCounts
from policies.together import MAGIC, REGION, REGIONS, REQUESTS, WORDS, Gauge, Together, region_at


def view(counts: SharedCounts, region: int) -> Gauge:
    return Gauge(Together(memoryview(mmap.mmap(counts.fd, 8 * WORDS)).cast("q"), region), "pets")


def test_each_worker_has_a_region_and_loses_it_with_its_life() -> None:
    """What it held is nobody's then."""
    counts = SharedCounts()
    one, other = counts.allot(), counts.allot()
    counts.began(one, 4711)
    counts.began(other, 4712)
    assert one != other
    view(counts, one).set(REQUESTS, 3)
    seen = view(counts, other)
    assert seen.elsewhere(REQUESTS) == 3
    counts.ended(4711)
    assert seen.elsewhere(REQUESTS) == 0
    assert counts.allot() == one and view(counts, one).elsewhere(REQUESTS) == 0
    counts.free(one)
    counts.close()


def test_there_are_so_many() -> None:
    """Whoever comes later counts by himself; and where one ends the next begins."""
    counts = SharedCounts()
    assert [counts.allot() for _ in range(REGIONS + 1)] == [*range(REGIONS), NONE]
    counts.began(NONE, 1)
    counts.free(NONE)
    counts.free(5)
    assert counts.allot() == 5
    counts.close()


def test_it_is_handed_over() -> None:
    """Workers of the process before count on, and with those of the next; one that was just starting is nobody's."""
    before = SharedCounts()
    old = before.allot()
    before.began(old, 4711)
    starting = before.allot()
    view(before, old).set(REQUESTS, 2)
    fd = before.hand_over()
    assert os.get_inheritable(fd)
    before.close()
    after = SharedCounts(fd)
    assert not os.get_inheritable(fd)
    new = after.allot()
    assert new == starting and view(after, new).elsewhere(REQUESTS) == 2
    after.ended(4711)
    assert view(after, new).elsewhere(REQUESTS) == 0
    after.close()


def test_memory_of_another_version_is_not_used() -> None:
    """Of another size, or with another first word."""
    for size, word in ((4096, b"\0" * 8), (8 * WORDS, b"SHOALxxx")):
        fd = os.memfd_create("other")
        os.ftruncate(fd, size)
        os.pwrite(fd, word * 100, 0)
        counts = SharedCounts(fd)
        words = memoryview(mmap.mmap(counts.fd, 8 * WORDS)).cast("q")
        assert words[0] == MAGIC and counts.allot() == 0
        counts.close()


def test_it_takes_what_is_counted_in() -> None:
    """Seventeen megabytes of places are no memory before somebody has them, nor when he is gone; others keep theirs."""
    counts = SharedCounts()

    def pages() -> int:
        return os.fstat(counts.fd).st_blocks * 512 // mmap.PAGESIZE

    new = pages()
    assert new <= 2
    words = memoryview(mmap.mmap(counts.fd, 8 * WORDS)).cast("q")
    for region in range(3):
        counts.began(counts.allot(), 4711 + region)
        first = region_at(region)
        words[first : first + REGION] = memoryview(b"\1" * (8 * REGION)).cast("q")
    assert pages() > 180
    counts.ended(4712)
    assert pages() < 140
    counts.ended(4713)
    assert pages() < 80
    first = region_at(1)
    assert all(words[region_at(0) : first]) and not any(words[first : first + 2 * REGION])
    counts.close()
