"""The demo's scenes about services that misbehave: ejection, hedging, faults, a breaker, a rate limit."""

from __future__ import annotations

import http.client
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from traffic import Answer, ask

if TYPE_CHECKING:
    from story import Story

SULKING = "toys.production"
POLICIES = "/shoal/default/policies"


def ejection(story: Story, service: str) -> None:
    """An instance fails its callers, and passes its health check."""
    tell, stage = story.tell, story.stage
    tell.scene("An instance answers nothing but 500, though its health check passes.")
    story.put(f"{POLICIES}/retry/{service}", {"on": ["5xx"]})
    story.put(f"{POLICIES}/outlier/{service}", {"consecutive_5xx": 3, "min_requests": 3})
    failed = len(story.traffic.failures())
    sick = stage.shoal_json("instances", service)[0]
    start = time.monotonic()
    mood(sick["address"], sick["port"], "failing")
    tell.say(f"{sick['id']} fails from now on")
    time.sleep(2)
    answers = story.traffic.since(start)
    tell.promise(len(story.traffic.failures()) == failed, f"no caller noticed, of {len(answers)} requests since")
    out = [line.strip() for line in stage.shoal("status").splitlines() if "ejected" in line or "endpoints out" in line]
    tell.say(out[0] if out else "shoal status says nothing of it")
    tell.promise(bool(out) and sick["id"] in out[0], f"it is out, and `shoal status` says so: {sick['id']}")
    mood(sick["address"], sick["port"], "well")
    stage.etcdctl("del", f"{POLICIES}/retry/{service}")
    stage.etcdctl("del", f"{POLICIES}/outlier/{service}")


def hedging(story: Story, service: str) -> None:
    """An instance is slow for a while; a second request is sent where the first takes long."""
    tell, stage = story.tell, story.stage
    tell.scene("An instance needs two seconds for everything. Whoever waits too long is asked for elsewhere, too.")
    story.put(f"{POLICIES}/retry/{service}", {"hedge": {"after": "50ms"}, "budget": {"ratio": 1}})
    slow = stage.shoal_json("instances", service)[1]
    mood(slow["address"], slow["port"], "slow")
    alpha = stage.hosts[0]
    start = time.monotonic()
    times_s = []
    for answer in calls(alpha.address, alpha.outbound, service, 40):
        times_s.append(answer.at - start)
        start = answer.at
    mood(slow["address"], slow["port"], "well")
    tell.promise(
        max(times_s) < 1,
        f"40 calls with {slow['id']} among the asked: the slowest took {max(times_s) * 1000:.0f} ms",
    )
    stage.etcdctl("del", f"{POLICIES}/retry/{service}")


def fault(story: Story, service: str) -> None:
    """A failure on purpose, which ends by itself."""
    tell, alpha = story.tell, story.stage.hosts[0]
    tell.scene("A failure on purpose, on one path, for six seconds: what would our callers do?")
    end = datetime.now(UTC) + timedelta(seconds=6)
    rule = {"match": {"path": {"exact": "/dogs"}}, "percent": 50, "abort": {"status": 503}}
    story.put(f"{POLICIES}/fault/{service}", {"expires": end.isoformat(timespec="milliseconds"), "rules": [rule]})
    failed = sum(bool(answer.problem) for answer in calls(alpha.address, alpha.outbound, service, 100, "/dogs"))
    time.sleep(max(0.0, (end - datetime.now(UTC)).total_seconds()) + 0.1)
    later = sum(bool(answer.problem) for answer in calls(alpha.address, alpha.outbound, service, 100, "/dogs"))
    tell.promise(25 <= failed <= 75 and later == 0, f"{failed} of 100 failed; and none of 100 once its time was over")


def breaker(story: Story, fallback: str) -> None:
    """A whole service fails: its breaker opens, and another service answers in its place."""
    tell, stage = story.tell, story.stage
    tell.scene("A whole service fails. Its breaker opens, and another one stands in for it.")
    alpha, beta = stage.hosts
    stage.start_service(SULKING, beta, "v1", "t1")
    stage.await_instances(SULKING, 1)
    story.put(f"{POLICIES}/breaker/{SULKING}", {"trip": {"consecutive": 5}, "fallback": {"service": fallback}})
    toy = stage.shoal_json("instances", SULKING)[0]
    mood(toy["address"], toy["port"], "failing")
    answers = calls(alpha.address, alpha.outbound, SULKING, 60)
    failed = sum(answer.problem.startswith("500") for answer in answers)
    instead = [answer for answer in answers if not answer.problem]
    tell.say(f"{failed} calls of {SULKING} failed, then {len(instead)} were answered by {fallback}")
    tell.promise(
        failed == 5 and len(instead) == 55 and all(answer.instance != "t1" for answer in instead),
        "five failures, and no sixth: the fallback answered all that came after them",
    )


def limit(story: Story) -> None:
    """A rate limit on one path of one service."""
    tell, stage = story.tell, story.stage
    tell.scene("A rate limit: twenty calls at once, where five a second are allowed.")
    story.put(f"{POLICIES}/ratelimit/{SULKING}", {"limits": [{"name": "all", "rate": "5/s", "burst": 5}]})
    alpha = stage.hosts[0]
    answers = calls(alpha.address, alpha.outbound, SULKING, 20)
    refused = [answer.problem for answer in answers if answer.problem.startswith("429")]
    tell.say(f"one of the refusals: {refused[0] if refused else 'there is none'}")
    tell.promise(20 - len(refused) in (5, 6), f"{20 - len(refused)} were let through, {len(refused)} got a 429")


def mood(address: str, port: int, name: str) -> None:
    """Tells an instance, past the mesh, how to answer from now on."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    connection.request("GET", f"/set/{name}")
    connection.getresponse().read()
    connection.close()


def calls(address: str, port: int, service: str, count: int, path: str = "/cats") -> list[Answer]:
    """So many requests, one after the other."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    answers = [ask(connection, service, path) for _ in range(count)]
    connection.close()
    return answers
