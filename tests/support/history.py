"""Hours of a mesh on a fake clock: agents, a store, and the services that hooks call, with all that goes wrong.

What happens is a list of steps, each some seconds after the one before. At the end everything is mended, time passes,
and what is open at the services is compared with what is so.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
import trio
import trio.testing

from agent.control.events.hook_http import HookClient
from agent.hooks.receivers import Receivers
from agent.hooks.steps import Failed, Request, Response
from policies.kinds.webhook.document import Hook
from policies.language.secret import Reference
from registry.records import Health, Instance, encode
from tests.support.light import KEYS, LightAgent
from tests.support.memory import MemoryStore
from tests.support.trackers import TOKEN, Double, GitHubDouble, JiraDouble, PagerDutyDouble, StatuspageDouble, answer

SERVICE: Final = "pets.production"
BASE_S: Final = 1_767_322_800.0
HOSTS: Final = ("host-0", "host-1", "host-2")
PATIENCE_S: Final = 6 * 3600.0
PROBED_S: Final = 20.0
PATIENT: Final = {"attempts": 1000, "give_up_after": "720h", "max_per_hour": 0, "secret": {"file": "token"}}
HOOKS: Final[dict[str, Any]] = {
    "issues": {**PATIENT, "format": "github-issue", "github": {"repo": "acme/ops"}},
    "tickets": {
        **PATIENT,
        "format": "jira",
        "jira": {"api": "https://acme.atlassian.net", "project": "OPS", "user": "bot@acme.example"},
    },
    "page": {
        **{name: value for name, value in PATIENT.items() if name != "secret"},
        "format": "pagerduty",
        "pagerduty": {"routing_key": {"file": "token"}},
    },
    "status": {
        **PATIENT,
        "format": "statuspage",
        "statuspage": {"page": "p", "component": "c", "incident": True},
    },
}
Step = tuple[str, int, int]
"""What happens, to which one of those that it can happen to, and how many seconds later."""


class Weather:
    """How a service is to reach: some answers are lost, and now and then it is away or has enough."""

    def __init__(self, double: Double, rng: random.Random) -> None:
        self.double = double
        self._rng = rng
        self.away_until = 0.0
        self.reliable = False
        self.deaf_until = 0.0
        """Until then requests are carried out, and no answer comes."""

    async def carry(self, request: Request, timeout_s: float, asker: object) -> Response | Failed:
        now = trio.current_time()
        if now < self.away_until:
            await trio.sleep(self._rng.choice((0.1, timeout_s)))
            return answer(503, {}) if self._rng.random() < 0.5 else Failed("no answer", again=True)
        await trio.sleep(self._rng.uniform(0.05, 2.0))
        told = self.double.told.copy()
        response = self.double.handle(request, asker)
        if now < self.deaf_until or (not self.reliable and self._rng.random() < 0.03):
            self.double.told = told
            await trio.sleep(timeout_s)
            return Failed("no whole answer in time", again=True)
        return response


class Client(HookClient):
    """An agent's, whose requests go to the doubles."""

    def __init__(self, weathers: dict[str, Weather]) -> None:
        super().__init__((), Path("/nowhere"), receivers=Receivers({"token": [*weathers]}))
        self._weathers = weathers

    def secret(self, reference: Reference) -> str | None:
        return TOKEN

    async def _ask(self, request: Request, timeout_s: float, hook: Hook) -> Response | Failed:
        host = request.url.split("/")[2]
        return await self._weathers[host].carry(request, timeout_s, self)


class History:
    """One mesh."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.store = MemoryStore()
        clock = trio.current_time
        self.github = GitHubDouble(now=clock, lag_s=30)
        self.jira = JiraDouble(now=clock, lag_s=180)
        self.pager = PagerDutyDouble(now=clock)
        self.status = StatuspageDouble(now=clock, lag_s=10)
        doubles = (self.github, self.jira, self.pager, self.status)
        self.weathers = {double.host: Weather(double, self.rng) for double in doubles}
        self.agents: dict[str, LightAgent] = {}
        self.healthy: dict[str, tuple[str, bool]] = {}
        """What is so: by instance, its host and whether it is healthy."""
        self.was_up = False
        self.runs = 0
        self.numbers = 0
        self.nursery: trio.Nursery | None = None

    # What happens.

    async def start(self, host: str) -> None:
        """Its agent starts, and its programs with it, whatever stood before; not while etcd is away, for an agent has a
        table of before then, which these do not keep."""
        if host in self.agents or self.nursery is None or self.store.down:
            return
        self.runs += 1
        agent = LightAgent(host, self.store, ttl_s=20, run=self.runs)
        agent.delivery.client = Client(self.weathers)
        self.agents[host] = agent
        self.nursery.start_soon(agent.run)
        self.nursery.start_soon(self._probe, agent)
        with trio.move_on_after(60):
            while not agent.table.revision:
                await trio.sleep(0.1)
        for instance in [id for id, (of, _) in self.healthy.items() if of == host]:
            self._put(agent, instance)

    def _put(self, agent: LightAgent, instance: str) -> None:
        """As a registrar does: what was known keeps its verdict, a newcomer is unhealthy until its first one."""
        known = agent.table.services.get(SERVICE)
        health = known.health.get(instance) if known is not None and instance in known.instances else None
        verdict = self.healthy[instance][1]
        record = Instance(address="127.0.0.1", port=1, agent=agent.host)
        agent.holder.put(KEYS.instance(SERVICE, instance), encode(record))
        before = health.healthy if health is not None else False
        why = "known" if health is not None else "not checked yet"
        agent.holder.put(KEYS.health(SERVICE, instance), encode(Health(healthy=before, reason=why, agent=agent.host)))
        if verdict != before or (health is None and not verdict):
            self._turn(agent, instance, "not checked" if health is None else "healthy" if before else "unhealthy")

    def _turn(self, agent: LightAgent, instance: str, before: str) -> None:
        healthy = self.healthy[instance][1]
        word = "healthy" if healthy else "unhealthy"
        data = {"before": before, "after": word, "reason": "status 503"}
        also = agent.detector.of_instance(f"instance.{word}", (SERVICE, instance), data)
        record = encode(Health(healthy=healthy, reason="status 503", agent=agent.host))
        agent.holder.put(KEYS.health(SERVICE, instance), record, also=also)

    async def _probe(self, agent: LightAgent) -> None:
        """Suspects do not answer: after a while their end is believed."""
        since: dict[tuple[str, str], float] = {}
        while self.agents.get(agent.host) is agent:
            await trio.sleep(10)
            doubted = {(each.service, each.id) for each in agent.table.suspects}
            since = {each: since.get(each, trio.current_time()) for each in doubted}
            gone = [each for each, at in since.items() if trio.current_time() - at > PROBED_S]
            for service, id in gone:
                agent.table.drop_suspect(service, id)
            for host in [each.id for each in agent.table.suspects.lost_agents()]:
                agent.table.drop_suspect("", host)
            agent.detector.suspects_gone(gone, agent.mirror.cluster_id)

    async def step(self, what: str, which: int) -> None:
        """One thing happens."""
        if what in ("fail", "recover"):
            able = [id for id, (host, ok) in self.healthy.items() if ok is (what == "fail") and host in self.agents]
            if able:
                instance = able[which % len(able)]
                host = self.healthy[instance][0]
                self.healthy[instance] = (host, what == "recover")
                self._turn(self.agents[host], instance, "healthy" if what == "fail" else "unhealthy")
        elif what == "register":
            self.register(which)
        elif what == "deregister":
            self.deregister(which)
        elif what == "kill":
            if self.agents:
                self.agents.pop(list(self.agents)[which % len(self.agents)]).kill()
        elif what == "vanish":
            await self.vanish(which)
        elif what == "start":
            await self.start(HOSTS[which % len(HOSTS)])
        elif what == "takeover":
            await self.quietly(lambda: self.store.delete(KEYS.claim(SERVICE)))
        elif what == "etcd":
            self.store.down = not self.store.down
        else:
            self.trouble(what, which)

    def register(self, which: int) -> None:
        """A newcomer, on another port than any before."""
        if self.agents:
            self.numbers += 1
            host = list(self.agents)[which % len(self.agents)]
            instance = f"i{self.numbers}"
            self.healthy[instance] = (host, True)
            self._put(self.agents[host], instance)

    def deregister(self, which: int) -> None:
        """In order."""
        able = [id for id, (host, _) in self.healthy.items() if host in self.agents]
        if able:
            instance = able[which % len(able)]
            agent = self.agents[self.healthy.pop(instance)[0]]
            data = {"orderly": True, "reason": "it was deregistered"}
            gone = agent.detector.of_instance("instance.gone", (SERVICE, instance), data)
            agent.holder.drop(KEYS.instance(SERVICE, instance), also=gone)
            agent.holder.drop(KEYS.health(SERVICE, instance))

    async def vanish(self, which: int) -> None:
        """A host dies, for good, with everything on it; another of its name comes, with nothing."""
        if self.agents:
            host = list(self.agents)[which % len(self.agents)]
            self.agents.pop(host).kill()
            self.healthy = {id: at for id, at in self.healthy.items() if at[0] != host}

    def trouble(self, what: str, which: int) -> None:
        """At one of the services."""
        weather = list(self.weathers.values())[which % len(self.weathers)]
        now = trio.current_time()
        if what == "away":
            weather.away_until = now + 300
        elif what == "deaf":
            weather.deaf_until = now + 60
        elif what == "limit":
            weather.double.name_a_limit(90)
        elif what == "labels":
            self.github.drops_labels = not self.github.drops_labels
            for issue in self.github.all():
                issue["labels"] = []
        elif what == "renamed":
            self.github.renamed = "" if self.github.renamed else "acme/operations"
        elif what == "workflow":
            done = ("31", "Resolve", "Done")
            if done in self.jira.transitions:
                self.jira.transitions.remove(done)
            else:
                self.jira.transitions.append(done)
        else:
            raise AssertionError(what)

    async def quietly(self, act: Callable[[], Any]) -> None:
        if not self.store.down:
            await act()

    # What is so.

    def wrong(self) -> dict[str, dict[str, int]]:
        """By service: what is open more or less often than it should be."""
        ill = [f"{SERVICE}: instance {id} is unhealthy" for id, (_, ok) in self.healthy.items() if not ok]
        down = [f"{SERVICE} is down"] if KEYS.condition(f"services/{SERVICE}") in self.store._keys else []
        found: dict[str, dict[str, int]] = {}
        for host, weather in self.weathers.items():
            wanted = Counter(down if host == StatuspageDouble.host else ill + down)
            opened = Counter(re.sub(r"( is (?:unhealthy|down)).*", r"\1", t) for t in weather.double.open_titles())
            opened.subtract(wanted)
            if any(opened.values()):
                found[host] = {title: n for title, n in opened.items() if n}
        if (self.status.component != "operational") != bool(down):
            found["component"] = {self.status.component: 1}
        return found

    async def end(self) -> None:
        """All is mended, and everybody lives."""
        self.store.down = False
        self.github.drops_labels = False
        if ("31", "Resolve", "Done") not in self.jira.transitions:
            self.jira.transitions.append(("31", "Resolve", "Done"))
        for weather in self.weathers.values():
            weather.away_until = weather.deaf_until = 0.0
        for host in HOSTS:
            await self.start(host)

    def busy(self) -> bool:
        """Whether something is still to be told, or in doubt."""
        events = KEYS.event("")
        waiting = any(key.startswith(events) for key in self.store._keys)
        return waiting or any(b'"opening"' in kv.value for key, kv in self.store._keys.items() if "/opened/" in key)


Story: TypeAlias = Callable[[History], Awaitable[None]]


def in_steps(steps: Sequence[Step]) -> Story:
    """One after the other."""

    async def story(history: History) -> None:
        for what, which, after_s in steps:
            await trio.sleep(after_s)
            await history.step(what, which)

    return story


async def lived(story: Story, seed: int, hooks: dict[str, Any]) -> History:
    """A history, to its end."""
    history = History(seed)
    await history.store.put(KEYS.policy("webhook", SERVICE), json.dumps({"hooks": hooks}).encode())
    async with trio.open_nursery() as nursery:
        history.nursery = nursery
        for host in HOSTS:
            await history.start(host)
        for n in range(3):
            history.register(n)
        await trio.sleep(60)
        await story(history)
        await history.end()
        with trio.move_on_after(PATIENCE_S):
            while history.wrong() or history.busy():
                await trio.sleep(30)
        await trio.sleep(600)
        nursery.cancel_scope.cancel()
    return history


def live(story: Story | Sequence[Step], seed: int = 0, hooks: dict[str, Any] | None = None) -> History:
    """The same, on a clock of its own."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    random.seed(seed)

    def now() -> float:
        return BASE_S + clock.current_time()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("time.time", now)
        told = story if callable(story) else in_steps(story)
        return trio.run(lived, told, seed, hooks or HOOKS, clock=clock)
