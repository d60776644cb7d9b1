"""What stands behind every peer: the same programs for all of them.

Small answers: one nginx on four ports, playing two instances of v1 and two of v2, answering 100 bytes from memory.
Large bodies: flood.py on one port.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from scripts.benchmark import traffic
from scripts.benchmark.load import answers
from scripts.benchmark.processes import free_ports, running, wait_until


class Upstream(msgspec.Struct, frozen=True):
    """Ports on loopback."""

    v1: tuple[int, int]
    v2: tuple[int, int]
    flood: int


def configuration(ports: Sequence[int], workdir: Path) -> str:
    """nginx, answering from memory: no file, no log."""
    listens = "\n        ".join(f"listen 127.0.0.1:{port};" for port in ports)
    body = traffic.BODY.decode()
    return f"""
daemon off;
worker_processes 1;
pid {workdir}/upstream.pid;
error_log {workdir}/upstream-errors.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    {temp_paths(workdir, "upstream")}
    server {{
        {listens}
        default_type application/json;
        location / {{ return 200 '{body}'; }}
    }}
}}
"""


def temp_paths(workdir: Path, name: str) -> str:
    """nginx wants to own five directories, used or not."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{kind}_temp_path {workdir}/{name}-{kind};" for kind in kinds)


@contextmanager
def serving(workdir: Path, cpus: Sequence[int]) -> Iterator[Upstream]:
    """The upstreams, answering."""
    *small, flood = free_ports(5)
    config = workdir / "upstream.conf"
    config.write_text(configuration(small, workdir))
    with ExitStack() as stack:
        nginx = stack.enter_context(
            running("upstream", ["nginx", "-p", workdir, "-c", config], workdir / "upstream.log", cpus=cpus)
        )
        wait_until("the upstream", lambda: answers(small[-1], traffic.HOST), nginx)
        argv = [sys.executable, "-m", "scripts.benchmark.flood", str(flood)]
        source = stack.enter_context(running("flood", argv, workdir / "flood.log", cpus=cpus))
        wait_until("the flood", lambda: answers(flood, traffic.STREAM_HOST, "/0"), source)
        yield Upstream((small[0], small[1]), (small[2], small[3]), flood)
