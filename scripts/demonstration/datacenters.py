"""The demo's scene about two datacenters: each with an etcd, a trust domain and agents of its own, and one door."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

from identity import awaited, holds, works
from protection import POLICIES, calls
from stage import Stage

if TYPE_CHECKING:
    from story import Story

FAR = (("gamma", "127.0.0.3"), ("delta", "127.0.0.4"))
THERE = "pets.far"


def far_away(story: Story, service: str) -> None:
    """The other one takes what ours has no room for, is lost, and comes back. It is gone when the scene is over."""
    directory = story.stage.directory / "far"
    directory.mkdir()
    far = Stage(directory, FAR)
    try:
        _open(story, far, service)
        _overflow(story, service)
        _lose(story, far, service)
    finally:
        for kind, name in (("import", THERE), ("shed", service)):
            story.stage.etcdctl("del", f"{POLICIES}/{kind}/{name}")
        far.strike()


def _open(story: Story, far: Stage, service: str) -> None:
    tell, stage = story.tell, story.stage
    tell.scene("Another datacenter: an etcd and a trust domain of its own. Neither sees anything of the other.")
    gamma, delta = far.hosts
    far.start_etcd()
    for host in far.hosts:
        far.start_agent(host)
    for host in far.hosts:
        far.await_ready(host)
    far.start_service(service, delta, "far", "f1")
    far.await_instances(service, 1)
    root = str(far.directory / "root.key")
    far.shoal("ca", "init", "--trust-domain", "far.shoal", "--issuer", gamma.name, "--root-key", root)
    for host in far.hosts:
        far.shoal("host", "add", host.name, "--service", service)
    awaited("certificates there", lambda: all(holds(host, "agent") for host in far.hosts))
    tell.say("one door: it is exported there, imported here, and each believes the other's roots")
    for one, other, domain in ((stage, far, "far.shoal"), (far, stage, "default.shoal")):
        path = one.directory / f"{domain}.json"
        path.write_text(other.shoal("ca", "export"))
        tell.command(f"shoal trust add {domain} bundle.json")
        one.shoal("trust", "add", domain, str(path))
    export = json.dumps({"to": ["default.shoal"], "gateways": [gamma.name]})
    tell.command(f"etcdctl put {POLICIES}/export/{service} '{export}'      # there")
    far.etcdctl("put", f"{POLICIES}/export/{service}", export)
    awaited("the gateway's certificate", lambda: holds(gamma, f"svc/{service}"))
    door = {"trust_domain": "far.shoal", "remote_service": service, "gateways": [f"{gamma.address}:{gamma.inbound}"]}
    story.put(f"{POLICIES}/import/{THERE}", door)
    alpha = stage.hosts[0]
    awaited("an answer from there", lambda: works(calls(alpha.address, alpha.outbound, THERE, 1)[0]))
    tell.promise(_versions(story, THERE) == {"far"}, f"{THERE} answers: three hops, and every one is proven")
    unseen = not any(host.name in stage.shoal("services") + stage.shoal("instances") for host in far.hosts)
    tell.promise(unseen, "and nothing of there is listed here")


def _overflow(story: Story, service: str) -> None:
    tell = story.tell
    tell.scene("Ours has room for one request at a time. What is too much goes to the other datacenter.")
    failed, start = len(story.traffic.failures()), time.monotonic()
    story.put(f"{POLICIES}/shed/{service}", {"concurrency": 1, "instead": [{"service": THERE}]})
    deadline = time.monotonic() + 15
    counted: Counter[str] = Counter()
    while time.monotonic() < deadline and not counted["far"]:
        calls(story.stage.hosts[0].address, story.stage.hosts[0].outbound, service, 20)
        time.sleep(0.5)
        counted = Counter(answer.version for answer in story.traffic.since(start))
    total = len(story.traffic.since(start))
    tell.promise(counted["far"] > 0, f"{counted['far']} of {total} were answered there")
    tell.promise(len(story.traffic.failures()) == failed, f"no request failed, of {total}")
    story.stage.etcdctl("del", f"{POLICIES}/shed/{service}")
    story.stage.shoal("wait", "--timeout", "15")


def _lose(story: Story, far: Stage, service: str) -> None:
    tell, alpha = story.tell, story.stage.hosts[0]
    tell.scene("The other datacenter is lost: first its etcd, then its agents. And it comes back.")
    failed, start = len(story.traffic.failures()), time.monotonic()
    far.stop_etcd()
    time.sleep(1)
    tell.promise(_versions(story, THERE) == {"far"}, "without its etcd it serves on")
    far.stop_agents(signal.SIGKILL)
    awaited("the loss", lambda: not works(calls(alpha.address, alpha.outbound, THERE, 1)[0]))
    tell.say(f"the answer: {calls(alpha.address, alpha.outbound, THERE, 1)[0].problem[:140]}")
    far.start_etcd()
    for host in far.hosts:
        far.start_agent(host)
    awaited("its return", lambda: _versions(story, THERE) == {"far"})
    tell.say("it is back, and nobody here did anything")
    count = len(story.traffic.since(start))
    tell.promise(len(story.traffic.failures()) == failed, f"no request of ours failed meanwhile, of {count}")


def _versions(story: Story, service: str) -> set[str]:
    alpha = story.stage.hosts[0]
    return {answer.version for answer in calls(alpha.address, alpha.outbound, service, 5)}
