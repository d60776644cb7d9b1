"""Makes `tests.support` importable, and gives processes that test side by side ports of their own."""

import itertools
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

import registry.server

# A port that is free now is bound later, by another process: two of pytest-xdist must not hand out the same ones.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if _WORKER:
    registry.server._next_port = itertools.count(int(_WORKER.removeprefix("gw")) * 4000 + os.getpid() % 2000)
