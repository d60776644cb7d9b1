"""One program of `shoal run`, from its first healthy answer to its last finished request.

The order is what loses no request. Starting: registered first (the agent gives no traffic to an instance before a
check has passed, and the program needs its credentials), then started. Stopping: deregistered first, then a moment in
which every agent hears of it, and only then is the program told to end.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import trio

from agent.cli.etcd_client import asked
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options
from agent.cli.running.copied import Copied, copied
from agent.cli.running.job import Job, adopt_orphans, ending, exit_code, left_behind, started, told, watched
from agent.cli.running.place import Place, elsewhere, exposed
from agent.cli.running.registering import Registered, deregistered, new_token, registered
from agent.cli.spreading import spread
from agent.process.listening import listeners
from agent.surroundings import handed_on

ENDING = (signal.SIGTERM, signal.SIGINT)
RENEW_EVERY_S = 2.0
"""How often a registration is said again: an agent that was restarted learns of its instances from this."""
LOOK_EVERY_S = 0.3
"""How often it is looked where the program listens, until it does; from then on it is every RENEW_EVERY_S."""
LOOPBACK = "127.0.0.1,localhost,::1"
LISTENING = {
    "ASPNETCORE_URLS": "http://{place}",
    "FLASK_RUN_HOST": "{host}",
    "FLASK_RUN_PORT": "{port}",
    "GUNICORN_CMD_ARGS": "--bind={place}",
    "UVICORN_HOST": "{host}",
    "UVICORN_PORT": "{port}",
}
"""Where to listen, as frameworks look for it that do not ask for HOST, or take every address where there is a PORT.
What is set already stays."""


class Instance:
    """One program, and its place in the mesh."""

    def __init__(
        self, options: Options, body: dict[str, Any], place: Place, spread_s: float, grace_s: float, *, logs: bool
    ) -> None:
        """`logs`: whether the agent is told what the program writes."""
        self._options = options
        self._body = body
        self._place = place
        self._spread_s = spread_s
        self._grace_s = grace_s
        self._logs = logs
        self._copied: Copied | None = None
        self._registered = Registered("")
        self._left = False
        self._died = ""
        """How the program has ended, where nobody had asked it to."""
        self._refused = ""
        """Why the agent does not have us, as it was told last."""

    async def live(self, command: Sequence[str]) -> int:
        """Registers, runs to the end, deregisters. Returns the exit code for the shell."""
        self._registered = await trio.to_thread.run_sync(self._register)
        self._body |= {"id": self._registered.id, "token": self._registered.token}
        identity = f"{self._body['service']}/{self._body['id']}"
        self._options.printer.note(f"shoal run: {identity} on port {self._body['port']}")
        adopt_orphans()
        with trio.open_signal_receiver(*ENDING, *watched()) as signals:
            try:
                returncode = await self._run(command, signals)
                self._ended(identity, returncode)
            finally:
                with trio.CancelScope(shield=True):
                    await self._leave()
            left = left_behind(self._copied.pid if self._copied else 0)
            if self._copied is not None:
                await self._copied.finish(signals, left=bool(left))
        if left:
            self._options.printer.note(f"shoal run: {told(left, returncode)}")
        return returncode if returncode >= 0 else 128 - returncode

    def _ended(self, identity: str, returncode: int) -> None:
        """By itself, or we would have left before; one that has done what it was to do says enough by that."""
        if self._left or not returncode:
            return
        how, orderly = ending(returncode)
        self._died = "" if orderly else f"its program {how}"
        self._options.printer.note(f"shoal run: {identity}: the program {how}; it is taken out of the mesh")

    def _register(self) -> Registered:
        """Registered with a token: one of a program before us, that was killed, is nobody's any more."""
        answer = registered(self._options.admin, self._body)
        for other in answer.replaced:
            self._options.printer.note(f"shoal run: {other} was registered with this port, and is taken out")
        if answer.token:
            return answer
        made = new_token(self._options.admin, self._body["service"], answer.id)
        return Registered(answer.id, made.token, made.proxy)

    async def _run(self, command: Sequence[str], signals: Any) -> int:
        environment = surroundings(os.environ, self._registered.proxy, self._body, self._place.host)
        words = [word.replace("{port}", str(self._place.port)).replace("{host}", self._place.host) for word in command]
        output = await self._output()
        try:
            # Its own process group: Ctrl-C reaches this process alone, which then ends the program in the right order.
            child = await started(words, environment, *((output.stdout, output.stderr) if output else ()))
        except OSError as error:
            raise Failure(f"cannot run {words[0]!r}: {error.strerror}", exit_code(error)) from None
        finally:
            if output is not None:
                output.handed_over()
        job = Job(child)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals, child, job)
                nursery.start_soon(self._renew)
                nursery.start_soon(self._look)
                returncode = await child.wait()
                nursery.cancel_scope.cancel()
        finally:
            if child.returncode is None:
                child.kill()  # whatever went wrong with us: a program without its place in the mesh is nobody's
            job.close()
        return returncode

    async def _output(self) -> Copied | None:
        """Who copies what the program writes; None: it has our own descriptors."""
        if self._logs:
            try:
                self._copied = await copied(self._options.admin.place, self._body["service"], self._body["id"])
            except OSError as error:
                self._options.printer.note(f"shoal run: its output is not kept: {error.strerror}")
        return self._copied

    async def _obey(self, signals: Any, child: trio.Process, job: Job) -> None:
        ending = False
        async with trio.open_nursery() as nursery:
            async for number in signals:
                if number not in ENDING:
                    job.take(number)
                elif ending:
                    job.end(number)
                else:
                    ending = True
                    nursery.start_soon(self._end, number, child, job)

    async def _end(self, number: int, child: trio.Process, job: Job) -> None:
        await self._leave()
        job.end(number)
        await trio.sleep(self._grace_s)
        self._options.printer.note(f"shoal run: killed, for it did not end within {self._grace_s:g} s of the signal")
        child.kill()

    async def _renew(self) -> None:
        """An agent that lost its state has forgotten us; any other takes the same registration as nothing new.

        Our token goes along, for the program has no other.
        """
        while True:
            await trio.sleep(RENEW_EVERY_S)
            if self._left:
                return
            try:
                await trio.to_thread.run_sync(self._register_again, abandon_on_cancel=True)
                refused = ""
            except Failure as failure:
                if failure.code is Exit.UNREACHABLE:
                    continue  # it is away: the mesh goes on with what it knows, and so do we
                refused = failure.message
            if refused and refused != self._refused:
                self._options.printer.note(f"shoal run: not in the mesh any more: {refused}")
            self._refused = refused

    def _register_again(self) -> None:
        try:
            registered(self._options.admin, self._body)
        except Failure as failure:
            if "renew_within" not in failure.message or self._body.pop("renew_within", None) is None:
                raise
            registered(self._options.admin, self._body)  # an agent of a version that did not know it is back

    async def _look(self) -> None:
        """Where the program listens: it is registered there, and said once what others reach of it."""
        every_s, told = LOOK_EVERY_S, ""
        while True:
            await trio.sleep(every_s)
            listening = listeners()
            if moved := elsewhere(self._place, listening):
                self._place = msgspec.structs.replace(self._place, address=moved, host=moved)
                self._body["address"] = moved  # `_renew` says it
                self._options.printer.note(f"shoal run: it listens at {moved} and not at $HOST; it is registered there")
            warning = exposed(self._place, listening)
            if warning and warning != told:
                self._options.printer.note(f"shoal run: {warning}")
            told = warning or told
            if any(one.port == self._place.port for one in listening):
                every_s = RENEW_EVERY_S

    async def _leave(self) -> None:
        """Deregisters, once, and waits until every agent knows it, for `spread_s` seconds at most."""
        if self._left:
            return
        self._left = True
        try:
            gone = await trio.to_thread.run_sync(
                deregistered, self._options.admin, self._body["service"], self._body["id"], self._died
            )
        except Failure as failure:
            self._options.printer.note(f"shoal run: not deregistered: {failure.message}")
            return
        if revision := (gone or {}).get("revision"):
            with trio.move_on_after(self._spread_s):
                try:
                    await asked(self._options, lambda store: spread(store, self._options.mesh, revision))
                except Failure as failure:
                    self._options.printer.note(f"shoal run: nobody can be heard: {failure.message}")


def surroundings(environment: Mapping[str, str], proxy: str, body: Mapping[str, Any], host: str) -> dict[str, str]:
    """The environment of the program: where to listen, who it is, and the mesh as its proxy for plain HTTP.

    Loopback is left out of the proxy, so that what the program says to its own host (a database) stays there. Our own
    secrets are not the program's.
    """
    port = str(body["port"])
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    ours = {
        name: form.format(host=host, port=port, place=place)
        for name, form in LISTENING.items()
        if name not in environment
    }
    ours |= {"HOST": host, "PORT": port, "SHOAL_SERVICE": body["service"], "SHOAL_INSTANCE": body["id"]}
    if proxy:
        kept = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
        excepted = f"{kept},{LOOPBACK}" if kept else LOOPBACK
        # Programs disagree on the case: curl reads only the lower one, Go and Python either.
        ours |= {"HTTP_PROXY": proxy, "http_proxy": proxy, "NO_PROXY": excepted, "no_proxy": excepted}
    return {**handed_on(environment), **ours}
