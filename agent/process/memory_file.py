# mypyc: interpreted, because it is used when certificates change, and no request waits for that
"""Files for libraries that read nothing else, of what is to be on no disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def memory_file(data: bytes) -> Iterator[Path]:
    """A file that is in memory, and nowhere but in this process; gone at the end of the block. Raises OSError."""
    fd = os.memfd_create("shoal")
    try:
        with open(os.dup(fd), "wb") as file:
            file.write(data)
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
