"""The memory in which the workers count together (`policies/together.py`): made here, or had from the process before;
a region is given out to each worker, and cleared when its process is gone."""

from __future__ import annotations

import mmap
import os
from typing import Final

from policies.together import CHANGES, MAGIC, OWNERS, REGION, REGIONS, WORDS, region_at

_STARTING: Final = 1
"""In place of the process of a worker that is about to start."""
NONE: Final = -1


class SharedCounts:
    """Of one agent."""

    def __init__(self, inherited: int = NONE) -> None:
        """`inherited`: the descriptor that the process before left. Raises OSError."""
        size = WORDS * 8
        if inherited != NONE:
            os.set_inheritable(inherited, False)
            if os.fstat(inherited).st_size != size:  # another version's
                os.close(inherited)
                inherited = NONE
        self.fd = inherited if inherited != NONE else os.memfd_create("shoal-counts")
        os.ftruncate(self.fd, size)
        self._words = memoryview(mmap.mmap(self.fd, size)).cast("q")
        if self._words[0] != MAGIC:
            self._words[:] = memoryview(bytes(size)).cast("q")
            self._words[0] = MAGIC
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
        first = region_at(region)
        self._words[first : first + REGION] = memoryview(bytes(REGION * 8)).cast("q")
        self._own(region, 0)

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
