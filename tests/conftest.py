"""Makes `tests.support` importable, gives Hypothesis its time, and processes that test side by side their own ports."""

import itertools
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent))

from hypothesis import settings

import registry.etcd.server

# A shell starts background jobs with SIGINT and SIGQUIT ignored, nohup with SIGHUP, and what tests start would inherit
# that, and never end by it. What is handled here is at its default in a new program.
for number, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

# An example of more than 200 ms would fail otherwise: an assertion about wall time, on a machine that others use too.
settings.register_profile("shoal", deadline=None)
settings.load_profile("shoal")

# A port that is free now is bound later, by another process: two of pytest-xdist must not hand out the same ones.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if _WORKER:
    registry.etcd.server._next_port = itertools.count(int(_WORKER.removeprefix("gw")) * 4000 + os.getpid() % 2000)


@pytest.fixture(autouse=True)
def runtime_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where an agent has its socket that is told nothing else: a place for each test, with a short path."""
    place = Path(tempfile.mkdtemp(prefix="shoal-"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(place))
    yield place
    shutil.rmtree(place, ignore_errors=True)
