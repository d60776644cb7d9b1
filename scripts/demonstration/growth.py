"""The demo's scene about size: a service grows while there is much to do, and shrinks when there is not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from stage import Broken
from traffic import Traffic

if TYPE_CHECKING:
    from story import Story

AUTH = "auth.production"
SCALE_KEY = f"/shoal/default/policies/scale/{AUTH}"
CALLERS = 12
PATH = "/turn?s=0.05"
"""An instance does one thing at a time: 20 calls a second, whoever waits."""
POLICY: dict[str, Any] = {
    "max": 3,
    "up": [{"in_flight": 5, "for": "2s", "step": 2}],
    "down": [{"in_flight": 1, "for": "2s", "step": 2}],
    "stable": "10s",
    "panic": "2s",
    "cooldown": {"up": "2s", "down": "5s"},
}
"""In a hurry, since a demo is short: see docs/policies/scale.md for what is so by itself."""
PATIENCE_S = 60.0
LOOK_S = 3.0


def grows_and_shrinks(story: Story) -> None:
    """One instance; twelve callers come, and go; `shoal run --replicas auto` follows what agents advise."""
    tell, stage = story.tell, story.stage
    tell.scene("A service that does one thing at a time, and twelve callers at once. It grows, and shrinks again.")
    alpha, beta = stage.hosts
    tell.command(f"shoal run --service {AUTH} --replicas auto -- python service.py --port {{port}}")
    stage.start_as_many_as_advised(AUTH, beta, "auth")
    stage.await_instances(AUTH, 1)
    story.put(SCALE_KEY, POLICY)
    traffic = Traffic(alpha.address, alpha.outbound, AUTH, PATH, CALLERS)
    began = time.monotonic()
    traffic.start()
    try:
        time.sleep(LOOK_S)
        alone = len(traffic.since(began)) / LOOK_S
        tell.say(f"one instance answers {alone:.0f} calls a second; the others wait")
        grown_s = _await(story, 3, began)
        advice = stage.shoal_json("scale", AUTH)[0]
        bounds = f"{advice['least']} to {advice['most']}"
        tell.say(f"shoal scale says {advice['replicas']}, from {bounds}: {_last_reason(story)}")
        start = time.monotonic()
        time.sleep(LOOK_S)
        together = len(traffic.since(start)) / LOOK_S
        tell.promise(
            together > 2 * alone,
            f"three instances after {grown_s:.0f} s, nobody was asked: {together:.0f} calls a second for {alone:.0f}",
        )
    finally:
        traffic.stop()
    gone = time.monotonic()
    tell.say("the callers are gone")
    shrunk_s = _await(story, 1, gone)
    tell.promise(True, f"one instance again, {shrunk_s:.0f} s later; one is the least that the policy allows")
    failed = traffic.failures()
    tell.promise(not failed, f"of {traffic.total} calls meanwhile {len(failed)} failed")
    for answer in failed[:3]:
        tell.say(f"        {answer.problem}")
    stage.etcdctl("del", SCALE_KEY)


def _await(story: Story, count: int, since: float) -> float:
    """Until there are so many instances that are healthy, and no others; how long after `since` that was."""
    deadline = time.monotonic() + PATIENCE_S
    while (states := _states(story)) != ["healthy"] * count:
        if time.monotonic() > deadline:
            said = story.stage.shoal_any("scale", AUTH).strip()
            raise Broken(f"{AUTH}: {states} after {PATIENCE_S:g} s, and not {count} healthy ones; {said}")
        time.sleep(0.2)
    return time.monotonic() - since


def _states(story: Story) -> list[str]:
    return [each["state"] for each in story.stage.shoal_json("instances", AUTH)]


def _last_reason(story: Story) -> str:
    """Why it went up: what stands in etcd is what was advised last, with the reason of that."""
    key = f"/shoal/default/scale/{AUTH}"
    reason: str = story.stage.etcd_json(key)["reason"]
    return reason
