"""Shoal itself: an agent with one worker, and the etcd that it learns from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed

from registry.keys import Keys
from scripts.benchmark import mesh
from scripts.benchmark.agents import running_agent
from scripts.benchmark.etcd import serving_etcd
from scripts.benchmark.load import answers
from scripts.benchmark.peer import Peer, Proxy, Site
from scripts.benchmark.processes import wait_until


@contextmanager
def start(site: Site) -> Iterator[Proxy]:
    """An agent, answering. Its control process shares the proxy's core, and its cost is counted; etcd's is not."""
    with serving_etcd(site.workdir) as url:
        mesh.put_all(url, mesh.pets_and_films(Keys(), site.upstream))
        with running_agent(site.workdir, "bench", url, cpus=site.cpus) as agent:
            wait_until("shoal", lambda: answers(agent.outbound), agent.program)
            yield Proxy("shoal", agent.outbound, agent.program, agent.roles)


def version() -> str:
    """Such as 0.1.0."""
    return installed("shoal-mesh")


PEER = Peer(
    "shoal",
    version,
    "route with 3 rules, split 90:10 over versions, least-request, timeouts, 2 attempts with a 20% budget, access "
    "records to a file, metrics with histograms; 1 worker, compiled as in a wheel",
    start,
)
