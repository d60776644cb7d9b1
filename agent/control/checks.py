"""Health checks: the I/O of `policies.health`, for the instances beside this agent.

One task an instance. Which document applies can change at any time (a policy was put); the verdict so far stays.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

import h11
import structlog
import trio

from agent.surroundings import handed_on
from policies.duration import seconds
from policies.health import CommandCheck, HealthPolicy, HttpCheck, TcpCheck, Tracker, Transition, pause_s
from registry.records import Instance

log = structlog.get_logger()
BODY_BYTES = 64 * 1024
SAID_BYTES = 200
LAST_WORDS_S = 0.2
STARTING_S = 0.25
STARTING_FOR_S = 120.0
"""A newcomer is asked more often, for so long, so that it serves as soon as it can."""


class Verdict(NamedTuple):
    """What one check found."""

    ok: bool
    reason: str


class Subject(NamedTuple):
    """What is checked."""

    service: str
    id: str
    instance: Instance


class Check:
    """One instance under one document; `adopt` another without forgetting."""

    def __init__(
        self, subject: Subject, policy: HealthPolicy, healthy: bool | None, tell: Callable[[Transition], None]
    ) -> None:
        """`healthy` is what is known from before; None for a newcomer."""
        self.subject = subject
        self.policy = policy
        self._tracker = Tracker(policy)
        self._tell = tell
        self.asked = policy.ttl is not None
        """Whether there was a first result; an instance that tells by itself is not waited for."""
        self._changed = trio.Event()
        self._word: Verdict = Verdict(False, "nothing heard from it yet")
        self._began = self._word_at = time.monotonic()
        if healthy is not None:
            self.adopt_verdict(healthy)

    @property
    def healthy(self) -> bool:
        """The verdict so far."""
        return self._tracker.healthy

    def adopt(self, policy: HealthPolicy) -> None:
        """Go on under another document."""
        if policy != self.policy:
            self.policy = policy
            self._tracker.adopt(policy)
            self._changed.set()

    def adopt_verdict(self, healthy: bool) -> bool:
        """Go on from what was known before; False when there is a verdict of our own already."""
        if self._tracker.known:
            return False
        self._tracker.healthy = healthy
        self._tracker.known = True
        return True

    def hear(self, ok: bool, reason: str) -> None:
        """The instance's own word (checks of the kind `ttl`)."""
        self._word = Verdict(ok, reason)
        self._word_at = time.monotonic()
        self._observe(self._word)

    async def run(self) -> None:
        """Check until cancelled."""
        rng = random.Random()
        while True:
            self._changed = trio.Event()
            policy = self.policy
            if policy.ttl is not None:
                age_s = time.monotonic() - self._word_at
                if age_s > seconds(policy.ttl):
                    self._observe(Verdict(False, f"nothing heard from it for {age_s:.1f} s"))
            else:
                self._observe(await check(self.subject, policy))
            wait_s = pause_s(policy, rng)
            if not self._tracker.known and time.monotonic() - self._began < STARTING_FOR_S:
                wait_s = min(wait_s, STARTING_S)
            with trio.move_on_after(wait_s):
                await self._changed.wait()

    def _observe(self, verdict: Verdict) -> None:
        self.asked = True
        transition = self._tracker.observe(verdict.ok, verdict.reason)
        if transition is not None:
            self._tell(transition)


async def check(subject: Subject, policy: HealthPolicy) -> Verdict:
    """One check, within its time. Never raises, whatever the instance does."""
    limit_s = seconds(policy.timeout)
    with trio.move_on_after(limit_s):
        try:
            return await _check(subject, policy)
        except Exception as error:  # one instance's check must not end those of the others
            log.exception("a health check failed by itself", service=subject.service, instance=subject.id)
            return Verdict(False, f"the check itself failed: {_words(error)}")
    return Verdict(False, f"no answer within {limit_s:g} s")


async def _check(subject: Subject, policy: HealthPolicy) -> Verdict:
    if policy.http is not None:
        return await _http(subject, policy.http)
    if policy.tcp is not None:
        return await _tcp(subject, policy.tcp)
    assert policy.command is not None
    return await _command(subject, policy.command)


async def _http(subject: Subject, rule: HttpCheck) -> Verdict:
    instance = subject.instance
    host = f"[{instance.address}]" if ":" in instance.address else instance.address
    url = f"http://{host}:{rule.port or instance.port}{rule.path}"
    try:
        status, body = await _exchange(subject, rule)
    except (OSError, trio.BrokenResourceError, h11.ProtocolError) as error:
        return Verdict(False, f"{url}: {_words(error)}")
    if not (status in rule.statuses if rule.statuses else 200 <= status < 300):
        return Verdict(False, f"{url} answered {status}")
    if rule.body and rule.body.encode() not in body:
        return Verdict(False, f"{url}: the body does not contain {rule.body[:60]!r}")
    return Verdict(True, f"{url} answered {status}")


async def _exchange(subject: Subject, rule: HttpCheck) -> tuple[int, bytes]:
    """The status, and the beginning of the body when it is asked for.

    On a connection of its own: a check that reuses one does not see that no new one can be made.
    """
    fields = {"host": rule.host or subject.service, "user-agent": "shoal-health/1", "connection": "close"}
    request = h11.Request(method=rule.method, target=rule.path, headers=[*fields.items(), *rule.headers.items()])
    http = h11.Connection(h11.CLIENT)
    status, body = 0, b""
    async with await trio.open_tcp_stream(subject.instance.address, rule.port or subject.instance.port) as stream:
        await stream.send_all((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        while not status or (rule.body and len(body) < BODY_BYTES):
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive_some(BODY_BYTES))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
    return status, body


async def _tcp(subject: Subject, rule: TcpCheck) -> Verdict:
    instance = subject.instance
    address = (instance.address, rule.port or instance.port)
    try:
        async with await trio.open_tcp_stream(*address) as stream:
            if rule.send:
                await stream.send_all(rule.send.encode())
            received = b""
            while rule.expect and rule.expect.encode() not in received and len(received) < BODY_BYTES:
                data = await stream.receive_some(4096)
                if not data:
                    return Verdict(False, f"{address[0]}:{address[1]} closed before it sent {rule.expect[:60]!r}")
                received += data
    except (OSError, trio.BrokenResourceError) as error:
        return Verdict(False, f"{address[0]}:{address[1]}: {_words(error)}")
    return Verdict(True, f"{address[0]}:{address[1]} accepts connections")


async def _command(subject: Subject, rule: CommandCheck) -> Verdict:
    instance = subject.instance
    environment = {
        **handed_on(os.environ),
        "ADDRESS": instance.address,
        "PORT": str(instance.port),
        "SERVICE": subject.service,
        "INSTANCE": subject.id,
    }
    try:
        process = await trio.lowlevel.open_process(
            list(rule.argv),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return Verdict(False, f"{rule.argv[0]}: {error.strerror}")
    said = (await _outcome(process)).decode(errors="replace").strip()
    told = f"{rule.argv[0]} ended with {process.returncode}"
    return Verdict(process.returncode == 0, f"{told}: {said}" if said else told)


async def _outcome(process: trio.Process) -> bytes:
    """The beginning of what it says, once it has ended; whatever it left running is killed."""
    said = b""

    async def listen() -> None:
        nonlocal said
        assert process.stdout is not None
        async with process.stdout as stream:
            async for piece in stream:
                said = (said + piece)[:SAID_BYTES]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        try:
            await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a session of its own, so that all of it ends
            with trio.CancelScope(shield=True):
                await process.wait()
        nursery.cancel_scope.deadline = trio.current_time() + LAST_WORDS_S
    return said


def _words(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
