"""HAProxy: Debian's package."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from scripts.benchmark import traffic
from scripts.benchmark.load import answers
from scripts.benchmark.peer import Peer, Proxy, Site
from scripts.benchmark.processes import free_ports, running, wait_until


def configuration(site: Site, port: int) -> str:
    """One thread; ACLs for the rules, rand() for the weights, leastconn, one redispatched retry, logs."""
    return f"""
global
    nbthread 1
    maxconn 8000
    log stdout format raw local0
defaults
    mode http
    log global
    option httplog
    option redispatch 1
    option forwardfor
    http-reuse always
    retries 1
    retry-on conn-failure empty-response 503
    balance leastconn
    timeout connect 1s
    timeout client 1h
    timeout server 15s
    timeout http-request 10s
    timeout http-keep-alive 1h
frontend front
    bind 127.0.0.1:{port}
    http-request set-header X-Forwarded-Proto http
    acl films req.hdr(host) -i {traffic.STREAM_HOST}
    acl admin path_beg /pets/admin
    acl guinea_pigs req.hdr(x-user-group) guinea-pigs
    use_backend films if films
    use_backend v2 if admin or guinea_pigs
    use_backend v2 if {{ rand(100) lt 10 }}
    default_backend v1
{_backend("v1", site.upstream.v1)}
{_backend("v2", site.upstream.v2)}
{_backend("films", [site.upstream.flood])}
"""


def _backend(name: str, ports: Sequence[int]) -> str:
    servers = "\n".join(f"    server {name}-{port} 127.0.0.1:{port}" for port in ports)
    return f"backend {name}\n{servers}"


@contextmanager
def start(site: Site) -> Iterator[Proxy]:
    """HAProxy, answering."""
    (port,) = free_ports(1)
    config = site.workdir / "haproxy.conf"
    config.write_text(configuration(site, port))
    with running("haproxy", ["haproxy", "-db", "-f", config], site.workdir / "haproxy.log", cpus=site.cpus) as program:
        wait_until("haproxy", lambda: answers(port), program)
        yield Proxy("haproxy", port, program)


def version() -> str:
    """Such as 2.6.12."""
    words = subprocess.run(["haproxy", "-v"], capture_output=True, text=True).stdout.split()
    return words[2].partition("-")[0]


PEER = Peer(
    "haproxy",
    version,
    "ACLs, rand() 90:10, leastconn, timeouts, one retry on another server, httplog to a file (unbuffered), counters; "
    "no retry budget, no histograms",
    start,
)
