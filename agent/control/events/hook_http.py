"""A hook's delivery, carried out: HTTP to judged addresses only, or a program where the agent's settings allow it.

Laws
- Every address that a name resolves to is judged, and the one that was connected to again (agent.hooks.targets).
- One delivery takes no longer than the hook's timeout for each request; answers are read up to bounds, which hold for
  what precedes them too (interim answers) and for how small the pieces are that they come in.
- Redirects are not followed, proxies of the environment are not used.
- Secrets are sent to whom the settings name (agent.hooks.receivers), and no piece of one is in what is told of a
  delivery: that stands in etcd.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpcore
import msgspec
import structlog
import trio

from agent.control.host.programs import Failure, Programs
from agent.hooks.bodies import steps
from agent.hooks.receivers import Receivers
from agent.hooks.scrubbing import Scrub
from agent.hooks.steps import Answer, Done, Exited, Failed, Intend, Noted, Request, Response, Run
from agent.hooks.targets import Targets
from policies.kinds.webhook.document import Hook
from policies.kinds.webhook.event import Event
from policies.language.duration import seconds
from policies.language.secret import Reference
from registry.records import Opened

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
MAX_PLAIN_BYTES: Final = 64 * 1024
"""Of an answer that is only looked at for its status."""
MAX_HEAD_BYTES: Final = 32 * 1024
"""Of an answer's head with all interim answers before it."""
LEAST_PIECE_BYTES: Final = 64
"""What pieces of an answer have to have on average, beyond the first few."""
FEW: Final = 256
MAX_SECRET_BYTES: Final = 64 * 1024
MAX_STEPS: Final = 40
BETWEEN_WRITES_S: Final = 1.0
RENDER_S: Final = 5.0
log = structlog.get_logger()


class Refused(Exception):
    """An address that must not be called."""


class TooMuch(Exception):
    """An answer beyond its bounds."""


class _Allowance:
    """How much may still be read, and in how many pieces."""

    def __init__(self, size_bytes: int) -> None:
        self.grant(size_bytes)

    def grant(self, size_bytes: int) -> None:
        """From now on."""
        self._bytes = size_bytes
        self._pieces = FEW + size_bytes // LEAST_PIECE_BYTES

    def take(self, size_bytes: int) -> None:
        """Raises TooMuch."""
        self._bytes -= size_bytes
        self._pieces -= 1
        if self._bytes < 0 or self._pieces < 0:
            raise TooMuch


class _Bounded(httpcore.AsyncNetworkStream):
    """A connection that is read as far as it is allowed."""

    def __init__(self, inner: httpcore.AsyncNetworkStream, allowance: _Allowance) -> None:
        self._inner = inner
        self._allowance = allowance

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's interface
        data = await self._inner.read(max_bytes, timeout)
        self._allowance.take(len(data))
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        return _Bounded(await self._inner.start_tls(ssl_context, server_hostname, timeout), self._allowance)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Guarded(httpcore.AsyncNetworkBackend):
    """Connects to what may be connected to."""

    def __init__(self, targets: Targets, allowance: _Allowance) -> None:
        self._targets = targets
        self._allowance = allowance
        self._inner = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
        for address in addresses:
            self._judge(host, address)
        problem: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                stream = await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                problem = error
                continue
            connected = stream.get_extra_info("server_addr")
            try:
                self._judge(host, str(connected[0]) if connected else address)
            except Refused:
                await stream.aclose()
                raise
            return _Bounded(stream, self._allowance)
        raise problem

    def _judge(self, host: str, address: str) -> None:
        reason = self._targets.refused(host, address)
        if reason is not None:
            raise Refused(reason)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise Refused("a socket in the file system")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class HookClient:
    """What this agent's settings let hooks do."""

    def __init__(
        self,
        allow: Iterable[str],
        secrets_dir: Path,
        *,
        receivers: Receivers | None = None,
        programs: Programs | None = None,
    ) -> None:
        """`receivers`: who may be sent secrets. Without `programs` none are run.

        Raises ValueError for what is neither a range nor a host.
        """
        self._targets = Targets(allow)
        self.receivers = receivers or Receivers()
        self._secrets_dir = secrets_dir
        self._programs = programs
        self._tls = ssl.create_default_context()
        self._locks: dict[Reference, trio.Lock] = {}
        """By GitHub's token; as many as documents name."""
        self._wrote: dict[Reference, float] = {}

    @asynccontextmanager
    async def turn(self, hook: Hook) -> AsyncIterator[None]:
        """Its turn has come: GitHub asks for one request at a time from who has a token."""
        if hook.github is None or not isinstance(hook.secret, Reference):
            yield
            return
        lock = self._locks.setdefault(hook.secret, trio.Lock())
        async with lock:
            yield

    async def deliver(
        self,
        event: Event,
        hook: Hook,
        before: Opened | None = None,
        intend: Callable[[str], Awaitable[str]] | None = None,
    ) -> Done | Failed:
        """One attempt, whole. What comes of it has no piece of a secret in it. `before`: what is remembered of the
        condition; `intend` remembers that something is about to be opened at a place, and says what is against it."""
        secrets = self._secrets(hook.references())
        scrub = Scrub(secrets.values(), (hook.jira.user,) if hook.jira is not None else ())
        try:
            found = await self._deliver(event, hook, secrets, before, intend)
        except Exception as error:  # a mistake of ours must not end the agent, nor lose the event
            log.exception("a delivery failed by an internal error", id=event.id)
            return Failed(f"an internal error, see the agent's log: {type(error).__name__}", again=True)
        if isinstance(found, Done):
            return msgspec.structs.replace(found, what=scrub.clean(found.what))
        return msgspec.structs.replace(found, reason=scrub.clean(found.reason))

    async def _deliver(
        self,
        event: Event,
        hook: Hook,
        secrets: dict[Reference, str],
        before: Opened | None,
        intend: Callable[[str], Awaitable[str]] | None,
    ) -> Done | Failed:
        conversation = steps(event, hook, secrets, int(time.time()), self.receivers, before)
        timeout_s = seconds(hook.timeout)
        answer: Answer | None = None
        renders = hook.template is not None
        for _ in range(MAX_STEPS):
            if renders:
                action: Any = Failed("the template took too long", again=False)
                with trio.move_on_after(RENDER_S):
                    action = await trio.to_thread.run_sync(conversation.next, answer, abandon_on_cancel=True)
            else:
                action = conversation.next(answer)
            if isinstance(action, Done | Failed):
                return action
            if isinstance(action, Intend):
                against = await intend(action.place) if intend is not None else ""
                if against:
                    return Failed(against, again=True, asked=False)
                answer = Noted()
                continue
            writes = isinstance(action, Request) and action.method != "GET"
            async with self._spaced(hook if writes and hook.github is not None else None):
                found = await (self._run if isinstance(action, Run) else self._ask)(action, timeout_s, hook)
            if isinstance(found, Failed):
                return found
            answer = found
        return Failed(f"no end after {MAX_STEPS} requests", again=False)

    @asynccontextmanager
    async def _spaced(self, hook: Hook | None) -> AsyncIterator[None]:
        """GitHub asks for a second between two requests that write."""
        if hook is None or not isinstance(hook.secret, Reference):
            yield
            return
        await trio.sleep_until(self._wrote.get(hook.secret, 0.0) + BETWEEN_WRITES_S)
        try:
            yield
        finally:
            self._wrote[hook.secret] = trio.current_time()

    def _secrets(self, references: Iterable[Reference]) -> dict[Reference, str]:
        """Those that can be read; the others are missed where they are needed."""
        found = {reference: self.secret(reference) for reference in references}
        return {reference: value for reference, value in found.items() if value is not None}

    def secret(self, reference: Reference) -> str | None:
        """What it stands for; None when it cannot be read."""
        if reference.env:
            return os.environ.get(reference.env)
        return self._read(self._secrets_dir / reference.file)

    def _read(self, path: Path) -> str | None:
        try:
            with path.open("rb") as file:
                return file.read(MAX_SECRET_BYTES).decode("utf-8", "replace")
        except OSError:
            return None

    async def _ask(self, request: Request, timeout_s: float, hook: Hook) -> Response | Failed:
        headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in request.headers.items()]
        allowance = _Allowance(MAX_HEAD_BYTES)
        most = MAX_ANSWER_BYTES if hook.format in ("github-issue", "jira") else MAX_PLAIN_BYTES
        try:
            with trio.fail_after(timeout_s):
                async with (
                    httpcore.AsyncConnectionPool(
                        ssl_context=self._tls, network_backend=_Guarded(self._targets, allowance), max_connections=1
                    ) as pool,
                    pool.stream(request.method, request.url, headers=headers, content=request.body) as answer,
                ):
                    allowance.grant(2 * most)
                    body = await _body(answer, most, allowance)
                    said = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
                    return Response(answer.status, said, body)
        except trio.TooSlowError:
            return Failed(f"no whole answer within {timeout_s:g} s", again=True)
        except TooMuch:
            return Failed("an answer without end, or in pieces that are too small", again=True)
        except Refused as refused:
            return Failed(str(refused), again=False)
        except OSError as error:
            return Failed(f"{error.strerror or error}", again=True)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            return Failed(f"{type(error).__name__}: {error}"[:300], again=True)
        except httpcore.UnsupportedProtocol as error:
            return Failed(str(error)[:300], again=False)

    async def _run(self, action: Run, timeout_s: float, hook: Hook) -> Exited | Failed:
        if self._programs is None:
            return Failed("this agent's settings allow no programs (hooks.exec)", again=False)
        found = await self._programs.run(action.argv, action.environ, timeout_s, action.stdin)
        if isinstance(found, Failure):
            return Failed(found.reason, again=True)
        return Exited(found.status)


async def _body(answer: httpcore.Response, most: int, allowance: _Allowance) -> bytes:
    """The beginning of an answer's body. Raises TooMuch.

    It ends by the connection's allowance, and never by leaving the loop: httpcore's generators are within each other,
    and only an exception from the innermost closes all of them.
    """
    body = bytearray()
    pieces = FEW + 2 * most // LEAST_PIECE_BYTES
    try:
        async for piece in answer.aiter_stream():
            pieces -= 1
            if len(body) <= most:
                body += piece
            if len(body) > most or pieces < 0:
                allowance.grant(0)
    except TooMuch:
        if len(body) <= most:
            raise
    return bytes(body[:most])
