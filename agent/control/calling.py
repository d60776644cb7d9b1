"""A hook's delivery, carried out: HTTP to judged addresses only, or a program where the agent's settings allow it.

Laws
- Every address that a name resolves to is judged, and the one that was connected to again (agent.hooks.targets).
- One delivery takes no longer than the hook's timeout for each request; answers are read up to a bound.
- Redirects are not followed, proxies of the environment are not used.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import httpcore
import trio

from agent.hooks.bodies import steps
from agent.hooks.steps import Answer, Done, Exited, Failed, Request, Response, Run
from agent.hooks.targets import Targets
from policies.duration import seconds
from policies.event import Event
from policies.secret import Reference
from policies.webhook import Hook

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
MAX_PLAIN_BYTES: Final = 64 * 1024
"""Of an answer that is only looked at for its status."""
MAX_SECRET_BYTES: Final = 64 * 1024
MAX_STEPS: Final = 20
RENDER_S: Final = 5.0


class Refused(Exception):
    """An address that must not be called."""


class _Guarded(httpcore.AsyncNetworkBackend):
    """Connects to what may be connected to."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
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
            return stream
        raise problem

    def _judge(self, host: str, address: str) -> None:
        reason = self._targets.refused(host, address)
        if reason is not None:
            raise Refused(reason)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise Refused("a socket in the file system")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class Caller:
    """What this agent's settings let hooks do."""

    def __init__(self, allow: Iterable[str], secrets_dir: Path, *, programs: bool) -> None:
        """Raises ValueError for what is neither a range nor a host."""
        self._targets = Targets(allow)
        self._secrets_dir = secrets_dir
        self._programs = programs
        self._tls = ssl.create_default_context()

    async def deliver(self, event: Event, hook: Hook) -> Done | Failed:
        """One attempt, whole."""
        conversation = steps(event, hook, self._secrets(hook.references()), int(time.time()))
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
            found = await (self._run if isinstance(action, Run) else self._ask)(action, timeout_s, hook)
            if isinstance(found, Failed):
                return found
            answer = found
        return Failed(f"no end after {MAX_STEPS} requests", again=False)

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
        most = MAX_ANSWER_BYTES if hook.format in ("github-issue", "jira") else MAX_PLAIN_BYTES
        try:
            with trio.fail_after(timeout_s):
                async with (
                    httpcore.AsyncConnectionPool(
                        ssl_context=self._tls, network_backend=_Guarded(self._targets), max_connections=1
                    ) as pool,
                    pool.stream(request.method, request.url, headers=headers, content=request.body) as answer,
                ):
                    body = b""
                    async for piece in answer.aiter_stream():
                        body += piece
                        if len(body) > most:
                            body = body[:most]
                            break
                    said = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
                    return Response(answer.status, said, body)
        except trio.TooSlowError:
            return Failed(f"no whole answer within {timeout_s:g} s", again=True)
        except Refused as refused:
            return Failed(str(refused), again=False)
        except OSError as error:
            return Failed(f"{error.strerror or error}", again=True)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            return Failed(f"{type(error).__name__}: {error}"[:300], again=True)
        except httpcore.UnsupportedProtocol as error:
            return Failed(str(error)[:300], again=False)

    async def _run(self, action: Run, timeout_s: float, hook: Hook) -> Exited | Failed:
        if not self._programs:
            return Failed("this agent's settings allow no programs (hooks.exec)", again=False)
        environ = {"PATH": os.defpath, "LANG": "C.UTF-8", **action.environ}
        try:
            with trio.fail_after(timeout_s):
                done = await trio.run_process(
                    list(action.argv),
                    stdin=action.stdin,
                    capture_stdout=True,
                    stderr=subprocess.STDOUT,
                    check=False,
                    env=environ,
                    start_new_session=True,
                )
        except trio.TooSlowError:
            return Failed(f"the program did not end within {timeout_s:g} s", again=True)
        except OSError as error:
            return Failed(f"{action.argv[0]}: {error.strerror}", again=True)
        return Exited(done.returncode, done.stdout[:MAX_PLAIN_BYTES])
