"""Health checks: the I/O of `policies.kinds.health`, for the instances beside this agent.

One task an instance. Which document applies can change at any time (a policy was put); the verdict so far stays.

Laws
- Whatever an instance answers, reading it costs little: bytes, pieces and interim answers of a check have bounds, and
  time is the last of them.
- A reason stands in etcd. It has what was asked and what came of it, and nothing of what was read: neither an
  answer's text nor a program's words.
- No check asks an agent, whoever asked for it (`own_ports`).
- An instance that speaks TLS itself (`origin` of a `tls` document) is asked by TLS, as requests are; another port than
  its own in plain text.
- What fails on this host (no descriptor, no memory, no way out, a mistake of ours) is no verdict: the last one stays.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

import h11
import structlog
import trio

from agent.control.host.own_ports import OwnPorts
from agent.control.host.programs import Ended, Programs
from agent.control.instances.origins import NOWHERE, Tls
from agent.identity.users import NOBODY, Users
from agent.process.descriptors import NO_WAY_OUT
from agent.process.local_peers import holder_of
from agent.tls.words import words as tls_words
from policies.kinds.health.decide import Tracker, Transition, pause_s
from policies.kinds.health.document import CommandCheck, HealthPolicy, HttpCheck, TcpCheck
from policies.language.duration import seconds
from registry.records import Instance

log = structlog.get_logger()
Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
BODY_BYTES = 64 * 1024
ANSWER_BYTES = 2 * BODY_BYTES
"""With its head, and what chunks cost."""
PIECES = 1000
"""Reads, and pieces of a body. Instances write in pieces of some size; who does not is not read to the end."""
INTERIM = 8
"""Answers before the answer (1xx)."""
STARTING_S = 0.25
STARTING_FOR_S = 120.0
"""A newcomer is asked more often, for so long, so that it serves as soon as it can."""


class Verdict(NamedTuple):
    """What one check found."""

    ok: bool
    reason: str


class Unable(NamedTuple):
    """It could not be asked, by no fault of its own."""

    reason: str


class Last(NamedTuple):
    """How the last check went."""

    at: float
    """When it ended, Unix s."""
    ok: bool
    reason: str
    took_s: float


class Subject(NamedTuple):
    """What is checked."""

    service: str
    id: str
    instance: Instance


class ByTls(Protocol):
    """Who knows which instances speak TLS themselves."""

    def of(self, service: str) -> Tls | str | None:
        """How; or why they cannot be asked; None: they do not."""
        ...


class Means(NamedTuple):
    """What checks are carried out with."""

    programs: Programs
    own: OwnPorts
    users: Users = Users((), NOBODY, {})
    """Who may be which service."""
    origins: ByTls = NOWHERE


NOTHING = Means(Programs(), OwnPorts())


class Stranger(Exception):
    """Another user's program listens there."""


class TooMuch(Exception):
    """An instance's answer goes beyond what is read of it."""


class Check:
    """One instance under one document; `adopt` another without forgetting."""

    def __init__(
        self,
        subject: Subject,
        policy: HealthPolicy,
        healthy: bool | None,
        tell: Callable[[Transition], None],
        means: Means = NOTHING,
    ) -> None:
        """`healthy` is what is known from before; None for a newcomer."""
        self.subject = subject
        self.policy = policy
        self._means = means
        self._tracker = Tracker(policy)
        self._tell = tell
        self.asked = policy.ttl is not None
        """Whether there was a first result; an instance that tells by itself is not waited for."""
        self.unable = ""
        """Why the instance cannot be asked now; empty: it can."""
        self.last: Last | None = None
        """None: there was none so far, or the instance could not be asked."""
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
        self.last = Last(time.time(), ok, reason, 0.0)
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
                began = time.monotonic()
                found = await check(self.subject, policy, self._means)
                if isinstance(found, Verdict):
                    self.last = Last(time.time(), found.ok, found.reason, time.monotonic() - began)
                self._take(found)
            wait_s = pause_s(policy, rng)
            if not self._tracker.known and time.monotonic() - self._began < STARTING_FOR_S:
                wait_s = min(wait_s, STARTING_S)
            with trio.move_on_after(wait_s):
                await self._changed.wait()

    def _take(self, found: Verdict | Unable) -> None:
        reason = found.reason if isinstance(found, Unable) else ""
        if bool(reason) != bool(self.unable):
            what = "an instance cannot be checked, and stays as it was" if reason else "it can be checked again"
            log.warning(what, service=self.subject.service, instance=self.subject.id, reason=reason)
        self.unable = reason
        if isinstance(found, Verdict):
            self._observe(found)
        elif not self._tracker.known and not self._tracker.healthy:
            self._observe(Verdict(False, reason))  # a newcomer's verdict is none yet, and people see why

    def _observe(self, verdict: Verdict) -> None:
        self.asked = True
        transition = self._tracker.observe(verdict.ok, verdict.reason)
        if transition is not None:
            self._tell(transition)


async def check(subject: Subject, policy: HealthPolicy, means: Means = NOTHING) -> Verdict | Unable:
    """One check, within its time. Never raises, whatever the instance does."""
    try:
        return await _checked(subject, policy, means)
    except Exception as error:  # one instance's check must not end those of the others
        if ours(error):
            return Unable(f"this host cannot check it: {_words(error)}")
        log.exception("a health check failed by itself", service=subject.service, instance=subject.id)
        return Unable(f"the check itself failed, see the agent's log: {type(error).__name__}")


async def _checked(subject: Subject, policy: HealthPolicy, means: Means) -> Verdict | Unable:
    limit_s = seconds(policy.timeout)
    if policy.command is not None:
        return await _command(subject, policy.command, limit_s, means.programs)
    rule = policy.http or policy.tcp
    assert rule is not None
    address, port = subject.instance.address, rule.port or subject.instance.port
    listener = means.own.belongs(address, port)
    if listener:
        return Verdict(False, f"{address}:{port} is {listener}, which is never asked by a check")
    tls = means.origins.of(subject.service) if port == subject.instance.port else None
    if isinstance(tls, str):
        return Verdict(False, f"{address}:{port} speaks TLS, and {tls}")
    with trio.move_on_after(limit_s):
        try:
            return await (
                _http(subject, rule, tls, means) if isinstance(rule, HttpCheck) else _tcp(subject, rule, tls, means)
            )
        except Stranger as error:
            return Verdict(False, f"{address}:{port}: {error}")
    return Verdict(False, f"no answer within {limit_s:g} s")


@asynccontextmanager
async def _connected(subject: Subject, port: int, tls: Tls | None, means: Means) -> AsyncIterator[Stream]:
    """To the port of an instance; where TLS is spoken, with whom it should be. Raises OSError, and Stranger."""
    async with await trio.open_tcp_stream(subject.instance.address, port) as stream:
        stranger = means.users.stranger(holder_of(stream.socket, groups=means.users.by_group), subject.service)
        if stranger:
            raise Stranger(stranger)
        if tls is None:
            yield stream
            return
        secured = trio.SSLStream(stream, tls.context, server_hostname=tls.name, https_compatible=True)
        await secured.do_handshake()
        async with secured:
            yield secured


async def _http(subject: Subject, rule: HttpCheck, tls: Tls | None, means: Means) -> Verdict:
    instance = subject.instance
    host = f"[{instance.address}]" if ":" in instance.address else instance.address
    url = f"{'http' if tls is None else 'https'}://{host}:{rule.port or instance.port}{rule.path}"
    try:
        status, body = await _exchange(subject, rule, tls, means)
    except (OSError, trio.BrokenResourceError) as error:
        if ours(error):
            raise
        return Verdict(False, f"{url}: {_words(error)}")
    except h11.ProtocolError as error:
        log.info("an instance answers no HTTP", service=subject.service, instance=subject.id, error=str(error)[:200])
        return Verdict(False, f"{url}: what answers speaks no HTTP/1.1")
    except TooMuch as error:
        return Verdict(False, f"{url}: {error}")
    if not (status in rule.statuses if rule.statuses else 200 <= status < 300):
        return Verdict(False, f"{url} answered {status}")
    if rule.body and rule.body.encode() not in body:
        return Verdict(False, f"{url}: the body does not contain {rule.body[:60]!r}")
    return Verdict(True, f"{url} answered {status}")


class _Reader:
    """A connection that is read within bounds."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._bytes = ANSWER_BYTES
        self._pieces = PIECES

    async def more(self) -> bytes:
        """What comes next; empty at the end. Raises TooMuch."""
        self.piece()
        if self._bytes <= 0:
            raise TooMuch(f"an answer of more than {ANSWER_BYTES} bytes")
        data = bytes(await self._stream.receive_some(min(BODY_BYTES, self._bytes)))
        self._bytes -= len(data)
        return data

    def piece(self) -> None:
        """Count one. Raises TooMuch."""
        self._pieces -= 1
        if self._pieces < 0:
            raise TooMuch(f"an answer in more than {PIECES} pieces")


async def _exchange(subject: Subject, rule: HttpCheck, tls: Tls | None, means: Means) -> tuple[int, bytes]:
    """The status, and the beginning of the body when it is asked for. Raises TooMuch.

    On a connection of its own: a check that reuses one does not see that no new one can be made.
    """
    fields = {"host": rule.host or subject.service, "user-agent": "shoal-health/1", "connection": "close"}
    request = h11.Request(method=rule.method, target=rule.path, headers=[*fields.items(), *rule.headers.items()])
    http = h11.Connection(h11.CLIENT)
    async with _connected(subject, rule.port or subject.instance.port, tls, means) as stream:
        await stream.send_all((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        return await _answer(http, _Reader(stream), whole=bool(rule.body))


async def _answer(http: h11.Connection, reader: _Reader, *, whole: bool) -> tuple[int, bytes]:
    status, body, interim = 0, bytearray(), 0
    while not status or (whole and len(body) < BODY_BYTES):
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.more())
        elif isinstance(event, h11.InformationalResponse):
            interim += 1
            if interim > INTERIM:
                raise TooMuch(f"more than {INTERIM} interim answers (1xx), and no answer")
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            reader.piece()
            body += event.data
        else:
            break
    if not status:
        raise h11.RemoteProtocolError("the connection ended, or went over to another protocol, without an answer")
    return status, bytes(body)


async def _tcp(subject: Subject, rule: TcpCheck, tls: Tls | None, means: Means) -> Verdict:
    instance = subject.instance
    address = (instance.address, rule.port or instance.port)
    where = f"{address[0]}:{address[1]}"
    try:
        async with _connected(subject, address[1], tls, means) as stream:
            if rule.send:
                await stream.send_all(rule.send.encode())
            if rule.expect and not await _comes(_Reader(stream), rule.expect.encode()):
                return Verdict(False, f"{where} closed before it sent {rule.expect[:60]!r}")
    except (OSError, trio.BrokenResourceError) as error:
        if ours(error):
            raise
        return Verdict(False, f"{where}: {_words(error)}")
    except TooMuch as error:
        return Verdict(False, f"{where}: {error}, without {rule.expect[:60]!r}")
    return Verdict(True, f"{where} accepts connections{'' if tls is None else f', and is {tls.name}'}")


async def _comes(reader: _Reader, expected: bytes) -> bool:
    """Whether it comes before the end. Raises TooMuch."""
    received = bytearray()
    while expected not in received:
        data = await reader.more()
        if not data:
            return False
        received += data
        if len(received) > BODY_BYTES:
            raise TooMuch(f"an answer of more than {BODY_BYTES} bytes")
    return True


async def _command(subject: Subject, rule: CommandCheck, limit_s: float, programs: Programs) -> Verdict | Unable:
    instance = subject.instance
    environ = {
        "ADDRESS": instance.address,
        "PORT": str(instance.port),
        "SERVICE": subject.service,
        "INSTANCE": subject.id,
    }
    found = await programs.run(rule.argv, environ, limit_s)
    if isinstance(found, Ended):
        return Verdict(found.status == 0, str(found))
    return Unable(f"this host cannot check it: {found.reason}") if found.ours else Verdict(False, found.reason)


def ours(error: BaseException) -> bool:
    """Whether an attempt to connect, or all of them, failed on this host."""
    causes = _causes(error)
    return bool(causes) and all(isinstance(cause, OSError) and cause.errno in NO_WAY_OUT for cause in causes)


def _causes(error: BaseException) -> list[BaseException]:
    """Trio says that all attempts failed, because of what each of them met."""
    if isinstance(error, BaseExceptionGroup):
        return [cause for each in error.exceptions for cause in _causes(each)]
    told = error.__cause__
    return _causes(told) if told is not None and not getattr(error, "errno", None) else [error]


def _words(error: BaseException) -> str:
    error = _causes(error)[0]
    if isinstance(error, ssl.SSLError):
        return tls_words(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
