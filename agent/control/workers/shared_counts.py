"""The memory in which the workers count together (`policies/together.py`): made here, or had from the process before;
a region is given out to each worker, and cleared when its process is gone."""

from __future__ import annotations

import mmap
import os
import sys
from typing import Final

from policies.together import CHANGES, MAGIC, OWNERS, REGION, REGIONS, WORDS, region_at

_STARTING: Final = 1
"""In place of the process of a worker that is about to start."""
NONE: Final = -1
SIZE: Final = WORDS * 8
"""In bytes. Of pages that nobody wrote to there are none."""


class SharedCounts:
    """Of one agent."""

    def __init__(self, inherited: int = NONE) -> None:
        """`inherited`: the descriptor that the process before left. Raises OSError."""
        if inherited != NONE:
            os.set_inheritable(inherited, False)
            if not _is_ours(inherited):
                os.close(inherited)
                inherited = NONE
        self.fd = inherited if inherited != NONE else _new()
        self._memory = mmap.mmap(self.fd, SIZE)
        self._words = memoryview(self._memory).cast("q")
        for region in range(REGIONS):
            if self._words[OWNERS + region] == _STARTING:
                self.free(region)

    def allot(self) -> int:
        """A region for a worker that is about to start; NONE where all are taken: it counts by itself."""
        for region in range(REGIONS):
            if not self._words[OWNERS + region]:
                self._own(region, _STARTING)
                return region
        return NONE

    def began(self, region: int, pid: int) -> None:
        """A worker started in a region."""
        if region != NONE:
            self._own(region, pid)

    def free(self, region: int) -> None:
        """Its worker is gone, and holds nothing any more."""
        if region == NONE:
            return
        self._clear(region_at(region) * 8, REGION * 8)
        self._own(region, 0)

    def _clear(self, start: int, length: int) -> None:
        """Zeros, and what whole pages of it took is the system's again."""
        end = start + length
        first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        self._memory.madvise(mmap.MADV_REMOVE, first, last - first)
        self._memory[start:first] = bytes(first - start)
        self._memory[last:end] = bytes(end - last)

    def ended(self, pid: int) -> None:
        """A process is gone."""
        for region in range(REGIONS):
            if self._words[OWNERS + region] == pid:
                self.free(region)

    def _own(self, region: int, owner: int) -> None:
        self._words[OWNERS + region] = owner
        self._words[CHANGES] += 1

    def hand_over(self) -> int:
        """A descriptor for the process that is executed next."""
        fd = os.dup(self.fd)
        os.set_inheritable(fd, True)
        return fd

    def close(self) -> None:
        """Workers keep theirs."""
        os.close(self.fd)


def _new() -> int:
    fd = os.memfd_create("shoal-counts")
    os.ftruncate(fd, SIZE)
    os.pwrite(fd, MAGIC.to_bytes(8, sys.byteorder), 0)
    return fd


def _is_ours(fd: int) -> bool:
    """And not another version's."""
    return os.fstat(fd).st_size == SIZE and os.pread(fd, 8, 0) == MAGIC.to_bytes(8, sys.byteorder)
