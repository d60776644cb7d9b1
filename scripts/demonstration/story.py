"""The demo: tells what Shoal does while it does it, with real processes, and counts every request.

Each scene makes a promise before it happens and keeps the score afterwards; the exit code is 1 if any was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import datacenters
import growth
import identity
import people
import protection
import watching
from stage import Broken, Stage
from traffic import Traffic, shares

SERVICE = "pets.production"
ROUTE_KEY = f"/shoal/default/policies/route/{SERVICE}"
COLOURED = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def paint(code: str, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOURED else text


class Narrator:
    """Tells the story with the seconds since its start, and keeps the score of promises."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.broken: list[str] = []

    def scene(self, title: str) -> None:
        print(f"\n{paint('1;36', title)}", flush=True)

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._start:6.1f} s  {text}", flush=True)

    def command(self, words: str) -> None:
        self.say(paint("2", f"$ {words}"))

    def promise(self, kept: bool, text: str) -> None:
        self.say(f"{paint('32', 'kept  ') if kept else paint('1;31', 'BROKEN')}  {text}")
        if not kept:
            self.broken.append(text)


class Story:
    """The scenes, in order. Each one leaves the stage as the next expects it."""

    def __init__(self, stage: Stage, tell: Narrator) -> None:
        self.stage = stage
        self.tell = tell
        alpha = stage.hosts[0]
        self.traffic = Traffic(alpha.address, alpha.outbound, SERVICE)

    def play(self) -> None:
        self.curtain()
        self.discovery()
        self.canary()
        self.blue_green()
        self.stage.etcdctl("del", ROUTE_KEY)
        protection.ejection(self, SERVICE)
        protection.hedging(self, SERVICE)
        protection.fault(self, SERVICE)
        protection.breaker(self, SERVICE)
        protection.limit(self)
        people.lamp(self)
        watching.shedding(self)
        watching.storing(self)
        watching.comparison(self, SERVICE)
        watching.status_page(self, SERVICE)
        growth.grows_and_shrinks(self)
        identity.encryption(self, SERVICE)
        identity.rotation(self)
        datacenters.far_away(self, SERVICE)
        self.murder()
        self.without_etcd()
        self.traffic.stop()
        identity.stolen(self)
        self.reckoning()

    def curtain(self) -> None:
        tell, stage = self.tell, self.stage
        tell.scene("The stage: one etcd, two agents, five services. No central server.")
        stage.start_etcd()
        tell.say(f"etcd at {stage.etcd_url}")
        for host in stage.hosts:
            stage.start_agent(host)
        for host in stage.hosts:
            stage.await_ready(host)
            tell.say(
                f"agent {host.name} plays the host {host.address}: outbound :{host.outbound}, inbound :{host.inbound}"
            )
        tell.command(
            f"shoal run --service {SERVICE} --version v1 --health /health -- python service.py --port {{port}}"
        )
        for host, version, name in stage.cast:
            stage.start_service(SERVICE, host, version, name)
        stage.await_instances(SERVICE, len(stage.cast))
        tell.command("shoal instances")
        for instance in stage.shoal_json("instances", SERVICE):
            print(f"{'':10}{instance['id']:<12} {instance['address']}:{instance['port']:<6} {instance['version']}")

    def discovery(self) -> None:
        tell, alpha = self.tell, self.stage.hosts[0]
        tell.scene("Discovery by name: the caller knows one address, that of the agent on its own host.")
        tell.command(f"curl -H 'Host: {SERVICE}' http://{alpha.address}:{alpha.outbound}/cats")
        start = time.monotonic()
        self.traffic.start()
        time.sleep(2.5)
        counted = Counter(answer.instance for answer in self.traffic.since(start))
        tell.say("spread over instances: " + ", ".join(f"{name} {count}" for name, count in sorted(counted.items())))
        names = {name for _, _, name in self.stage.cast}
        mean = counted.total() / len(names)
        even = all(mean / 2 <= counted[name] <= mean * 2 for name in names)
        tell.promise(even, f"all {len(names)} instances on both hosts share {counted.total()} requests evenly")

    def canary(self) -> None:
        self.tell.scene("A canary: one document in etcd sends 10% to v2, in every agent at once.")
        split = [{"version": "v1", "weight": 90}, {"version": "v2", "weight": 10}]
        self.put(ROUTE_KEY, {"rules": [{"split": split}]})
        start = time.monotonic()
        time.sleep(4)
        answers = self.traffic.since(start)
        share = shares(answers).get("v2", 0.0)
        # Four standard deviations of a fair 10% on so many requests: a false alarm once in 16,000 runs.
        margin = 4 * (0.1 * 0.9 / max(1, len(answers))) ** 0.5
        self.tell.promise(abs(share - 0.1) <= margin, f"v2 gets {share:.1%} of {len(answers)} requests")

    def blue_green(self) -> None:
        self.tell.scene("Blue-green: one put switches everything, one put switches it back.")
        self.switch("v2", "v1")
        time.sleep(1.5)
        self.switch("v1", "v2")
        time.sleep(1)

    def switch(self, active: str, standby: str) -> None:
        document = {"active": active, "standby": standby}
        put_at = self.put(ROUTE_KEY, document)
        start = time.monotonic()
        time.sleep(1)
        answers = self.traffic.since(start)
        last_other = max((a.at for a in self.traffic.since(put_at) if a.version == standby), default=put_at)
        only = bool(answers) and shares(answers) == {active: 1.0}
        self.tell.promise(
            only,
            f"only {active} answers; the last of {standby} came {(last_other - put_at) * 1000:.0f} ms after the put",
        )

    def murder(self) -> None:
        tell = self.tell
        tell.scene("An instance is killed with -9 in the middle of the load.")
        failed = len(self.traffic.failures())
        victim = next(a for a in reversed(self.traffic.since(0)) if a.version == "v1" and a.pid)
        tell.command(f"kill -9 {victim.pid}      # {victim.instance}")
        start = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        time.sleep(2.5)
        answers = self.traffic.since(start)
        tell.promise(len(self.traffic.failures()) == failed, f"no request failed, of {len(answers)} since")
        left = {answer.instance for answer in self.traffic.since(start + 1)}
        tell.promise(victim.instance not in left, f"the other {len(left)} do its work")

    def without_etcd(self) -> None:
        tell, stage = self.tell, self.stage
        tell.scene("etcd stops. The mesh does not.")
        failed = len(self.traffic.failures())
        start = time.monotonic()
        stage.stop_etcd()
        tell.say("etcd is stopped; the agents serve the table that they have")
        time.sleep(4)
        tell.promise(len(self.traffic.failures()) == failed, f"no request failed, of {len(self.traffic.since(start))}")
        stage.start_etcd()
        tell.say("etcd is back; a policy put now has to arrive as ever")
        failed = len(self.traffic.failures())
        self.switch("v2", "v1")
        tell.promise(len(self.traffic.failures()) == failed, "no request failed while the agents found it again")

    def reckoning(self) -> None:
        failures = self.traffic.failures()
        self.tell.scene("The reckoning")
        self.tell.promise(not failures, f"{self.traffic.total} requests, {len(failures)} failed")
        for problem, count in Counter(answer.problem for answer in failures).most_common(5):
            self.tell.say(f"        {count} x {problem}")

    def put(self, key: str, document: dict[str, Any]) -> float:
        """Puts a policy with etcdctl, waits until both agents run it, and returns when it was put."""
        text = json.dumps(document)
        self.tell.command(f"etcdctl put {key} '{text}'")
        put_at = time.monotonic()
        self.stage.etcdctl("put", key, text)
        self.stage.shoal("wait", "--timeout", "15")
        return put_at


def keep(stage: Stage, tell: Narrator) -> None:
    """Leaves everything running until Ctrl-C, and says what to try."""
    alpha = stage.hosts[0]
    tell.scene("It goes on running. Ctrl-C ends it. In another terminal:")
    shoal = Path(sys.executable).with_name("shoal")
    print(
        f"""
  export SHOAL_ETCD={stage.etcd_url} SHOAL_ADMIN={alpha.socket} ETCDCTL_API=3
  alias shoal={shoal} etcdctl='{stage.etcdctl_path} --endpoints {stage.etcd_url}'

  curl -H 'Host: {SERVICE}' http://{alpha.address}:{alpha.outbound}/cats
  shoal status
  shoal instances
  shoal explain GET http://{SERVICE}/cats
  etcdctl put {ROUTE_KEY} '{{"rules": [{{"respond": {{"status": 418, "body": "short and stout"}}}}]}}'
  etcdctl get --prefix /shoal/default/policies/
  shoal policy rm route {SERVICE}

  logs: {stage.directory}
""",
        flush=True,
    )
    threading.Event().wait()


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description="Shoal on this machine, in some minutes.")
    parser.add_argument("--keep", action="store_true", help="leave it running, and say what to try")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupted)
    tell = Narrator()
    directory = Path(tempfile.mkdtemp(prefix="shoal-demo-"))
    stage = Stage(directory)
    story = Story(stage, tell)
    try:
        story.play()
        if options.keep:
            keep(stage, tell)
    except Broken as broken:
        tell.promise(False, str(broken))
    except KeyboardInterrupt:
        print()
        if not options.keep:
            tell.broken.append("it was interrupted")
    finally:
        story.traffic.stop()
        stage.strike()
    return farewell(tell, directory)


def farewell(tell: Narrator, directory: Path) -> int:
    """Cleans up what a good run leaves, and keeps the logs of one that was not. Returns the exit code."""
    if tell.broken:
        tell.say(f"broken promises: {'; '.join(tell.broken)}. The logs are in {directory}")
        return 1
    shutil.rmtree(directory)
    tell.say("every promise was kept, and everything is cleaned up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
