"""A hook's delivery, carried out: HTTP to judged addresses only, or a program where the agent's settings allow it.

Laws
- Every request is judged and bounded as all that documents ask for (agent.control.outgoing), and takes no longer than
  the hook's timeout.
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

import msgspec
import structlog
import trio

from agent.control.host.programs import Failure as ProgramFailure
from agent.control.host.programs import Programs
from agent.control.outgoing.client import Client, Failure
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
MAX_SECRET_BYTES: Final = 64 * 1024
MAX_STEPS: Final = 40
BETWEEN_WRITES_S: Final = 1.0
RENDER_S: Final = 5.0
log = structlog.get_logger()


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
        self._client = Client(Targets(allow), ssl.create_default_context())
        self.receivers = receivers or Receivers()
        self._secrets_dir = secrets_dir
        self._programs = programs
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
        most = MAX_ANSWER_BYTES if hook.format in ("github-issue", "jira") else MAX_PLAIN_BYTES
        found = await self._client.ask(
            request.method, request.url, request.headers, request.body, within_s=timeout_s, most_bytes=most
        )
        if isinstance(found, Failure):
            return Failed(found.reason, again=found.again)
        return Response(found.status, found.headers, found.body)

    async def _run(self, action: Run, timeout_s: float, hook: Hook) -> Exited | Failed:
        if self._programs is None:
            return Failed("this agent's settings allow no programs (hooks.exec)", again=False)
        found = await self._programs.run(action.argv, action.environ, timeout_s, action.stdin)
        if isinstance(found, ProgramFailure):
            return Failed(found.reason, again=True)
        return Exited(found.status)
