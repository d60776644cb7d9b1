"""Load on a proxy: as much as it takes (wrk), or at a constant rate (pace.py)."""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from scripts.benchmark import traffic
from scripts.benchmark.processes import Failed

CONNECTIONS = 32


class Saturation(msgspec.Struct, frozen=True):
    """What wrk saw."""

    requests: int
    duration_us: int
    failed: int
    p50_us: int
    p99_us: int

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return self.requests / self.duration_us * 1e6


class Paced(msgspec.Struct, frozen=True):
    """What the constant-rate generator saw. Latencies count from when a request was due, not from when it was sent."""

    requests: int
    failed: int
    duration_s: float
    latencies_us: dict[int, int]
    """How many requests took how many microseconds."""
    late_us: dict[int, int]
    """How many requests were sent how many microseconds after they were due: the part that is the generator's."""


def saturate(port: int, seconds: float, workdir: Path, cpus: Sequence[int]) -> Saturation:
    """wrk, one thread, 32 keep-alive connections, as fast as answers come. Raises Failed when requests fail."""
    script = workdir / "requests.lua"
    if not script.exists():
        script.write_text(traffic.wrk_script())
    output = _run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(script), f"http://127.0.0.1:{port}/"], cpus
    )
    seen = msgspec.json.decode(output.splitlines()[-1], type=Saturation)
    if seen.failed or not seen.requests:
        raise Failed(f"{seen.failed} of {seen.requests} requests failed under wrk")
    return seen


def pace(port: int, rate: float, seconds: float, cpus: Sequence[int], connections: int = 64) -> Paced:
    """So many requests a second, whatever the answers do. Raises Failed when requests fail."""
    argv = [sys.executable, "-m", "scripts.benchmark.pace", f"{port}", f"{rate}", f"{seconds}", f"{connections}"]
    seen = msgspec.json.decode(_run(argv, cpus), type=Paced)
    if seen.failed:
        raise Failed(f"{seen.failed} of {seen.requests} paced requests failed")
    return seen


def percentiles(latencies_us: Counter[int], at: Sequence[float]) -> list[int]:
    """The latencies, in microseconds, that a share of `at` (0..1, ascending) of the requests did not exceed."""
    total = latencies_us.total()
    found: list[int] = []
    below = 0
    for latency_us, count in sorted(latencies_us.items()):
        below += count
        while len(found) < len(at) and below >= at[len(found)] * total:
            found.append(latency_us)
    return found


def _run(argv: Sequence[str], cpus: Sequence[int]) -> str:
    pinned = ["taskset", "-c", ",".join(map(str, cpus))] if cpus else []
    done = subprocess.run(["setpriv", "--pdeathsig", "TERM", "--", *pinned, *argv], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{argv[0]} ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout


def answers(port: int, host: str = traffic.HOST, path: str = traffic.HEALTHY) -> bool:
    """Whether one plain request gets a 200: how a peer's readiness is seen."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
