"""The control process: one nursery that owns everything an agent does besides proxying.

Order of start: the table from disk, the workers, then etcd. Readiness comes with the first table. Order of stop:
instances drain, the word spreads, workers finish what is in flight, and the lease goes last. (Law 9.) Before a restart
with systemd's sockets (SIGUSR2) the lease stays: whoever finds nobody else waits in the socket for the successor.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio

import agent
from agent import build
from agent.control.admin.api import application, before_login, metrics_application
from agent.control.admin.door import Door
from agent.control.admin.live.looks import Looks
from agent.control.admin.live.socket import Live
from agent.control.admin.login import Login
from agent.control.admin.metrics.of_control import saved
from agent.control.admin.metrics.page import MetricsPage
from agent.control.admin.people import serve_people
from agent.control.admin.server import MAX_SCRAPERS, serve, serve_local
from agent.control.admin.tokens import TokenPeople
from agent.control.admin.v1.api import V1
from agent.control.host import disk
from agent.control.host.etcd import embedded, store_settings
from agent.control.host.here import EXTEND_S
from agent.control.host.sockets import HANDOVER, Handover, received
from agent.control.instances.host_claim import HostTaken, claim_host, keep_name
from agent.control.issuers.code_flow import CodeFlow
from agent.control.mesh.reports import acknowledge, begin_mesh, keep_layout, known_here, tell_calls, tell_version
from agent.control.parts import Parts
from agent.control.workers.previous import in_memory
from agent.process import held_signals
from agent.process.descriptors import affordable, limit, raise_limit
from agent.settings.document import Settings
from agent.settings.file import SettingsError, load
from agent.settings.people import names as names_of_people
from agent.visible import VisibleFormatter, visible_values
from policies.language.duration import seconds
from registry.etcd.store import EtcdStore
from registry.records import Agent, encode
from registry.store import StoreError

SAID_S: Final = 0.02
"""For the last words to the workers before a reload."""
log = structlog.get_logger()


class Stop(msgspec.Struct, frozen=True):
    """How the agent ended."""

    code: int = 0
    returns: bool = False
    """Whether the agent is started again at once, with the same inbound socket."""
    handover: Handover | None = None
    """To execute the agent anew with (SIGHUP)."""


class Control:
    """The life of one agent's control process."""

    def __init__(self, settings: Settings, handover: Handover, config: Path | None) -> None:
        self.parts = Parts(settings, handover)
        self._settings = settings
        self._config = config
        self._handover = handover
        self._record: Agent | None = None
        """As it stands in etcd, once the host's name is ours."""
        self._owning = trio.CancelScope()
        self._stop = Stop()

    async def run(self) -> Stop:
        """From start to end."""
        if build.kind() != build.COMPILED:
            log.warning("the request path is interpreted", cost=build.COST, reason=build.reason())
        have, wanted = affordable(limit()) * self._settings.worker_count, self._settings.limits.max_connections
        if have < wanted:
            log.warning("too few descriptors (LimitNOFILE)", descriptors=limit(), connections=have, wanted=wanted)
        here = self.parts.here
        try:
            async with here.watchdog.running():
                return await self._live()
        finally:
            with trio.CancelScope(shield=True):
                await self.parts.peers.aclose()
                await here.close(left=self._stop.handover is not None)

    async def _live(self) -> Stop:
        parts = self.parts
        await self._remember()
        async with trio.open_nursery() as nursery:
            await nursery.start(self._signals)
            self._serve_people(nursery)
            nursery.start_soon(parts.fleet.run)
            nursery.start_soon(parts.client_certificates.run, parts.fleet.reconfigure)
            nursery.start_soon(parts.issuers.run)
            parts.updates.start(nursery)
            parts.records.start(nursery)
            nursery.start_soon(parts.audit.run)
            parts.traffic.start(nursery, parts.fleet)
            nursery.start_soon(parts.answering.run)
            nursery.start_soon(parts.figures.sampler.run)
            parts.events.start(nursery, lambda: parts.updates.mirror.state.connected)
            nursery.start_soon(self._own)
            nursery.start_soon(parts.here.let_keeper_go)
            nursery.start_soon(self._relieve)
            await parts.stopping.wait()
            if self._stop.handover is None:
                await self._leave()
            nursery.cancel_scope.cancel()
        if self._stop.handover is not None:
            return Stop(handover=self._with_workers(self._stop.handover))
        return self._stop

    def _with_workers(self, handover: Handover) -> Handover:
        fleet = self.parts.fleet
        return msgspec.structs.replace(
            handover,
            workers=fleet.left_behind(),
            retired=fleet.hand_over_ledger(),
            counters=in_memory(saved(self.parts)),
            identity=in_memory(self.parts.identity.handed_over()),
            figures=in_memory(self.parts.figures.sampler.kept()),
        )

    async def _remember(self) -> None:
        """The table, and the instances, of before a restart."""
        parts = self.parts
        parts.identity.load()
        await parts.identity.first()
        if self._handover.workers:
            # After SIGHUP the table on disk is a moment old: it counts at once, so that the new workers lose no time,
            # and our instances keep their verdicts.
            if await parts.mesh.saved.read():
                parts.updates.follow_issuers()
                parts.updates.open()
            parts.registrar.load()
        else:
            parts.registrar.load()
            await parts.mesh.saved.read()
            parts.updates.follow_issuers()
            parts.registrar.published.follow()

    def _token_people(self) -> TokenPeople | None:
        oidc = self._settings.people.oidc
        return TokenPeople(oidc, self.parts.issuers.keyring, time.time) if oidc.issuer else None

    def _login(self, tokens: TokenPeople | None) -> list[Door]:
        """The doors by which browsers log in; none where they do not."""
        oidc = self._settings.people.oidc
        if tokens is None or not oidc.client_id:
            return []
        return Login(oidc, tokens, CodeFlow(oidc, self.parts.issuers.client)).doors()

    def _serve_people(self, nursery: trio.Nursery) -> None:
        listeners, page = self.parts.here.listeners, MetricsPage(self.parts)
        tokens = self._token_people()
        login = self._login(tokens)
        api = V1(self.parts)
        looks = Looks(api.operations, self.parts.watched)
        nursery.start_soon(looks.run)
        asgi = application(self.parts, page, api, Live(looks, self.parts.watched), login)
        nursery.start_soon(serve, asgi, listeners.admin)
        for sock in listeners.metrics:
            nursery.start_soon(serve, metrics_application(self.parts, page), sock, MAX_SCRAPERS)
        names = names_of_people(self._settings)
        strangers = before_login(self.parts, login) if login else None
        shown = self.parts.web_certificate
        for sock in listeners.people:
            serving = partial(serve_people, names=names, strangers=strangers, shown=shown)
            nursery.start_soon(serving, asgi, self.parts.identity, sock, tokens)
        if listeners.local is not None:
            nursery.start_soon(serve_local, asgi, listeners.local)

    # What is ours in etcd.

    async def _own(self) -> None:
        async with self.parts.here.holder.renewing():
            await self._claim_and_hold()

    async def _claim_and_hold(self) -> None:
        """Claim the host's name, then keep everything that is ours in etcd."""
        here, mesh = self.parts.here, self.parts.mesh
        if not mesh.saved.saved_at and not self._handover.boot:
            await begin_mesh(here.store, here.keys, self._settings.host, mesh.table)
        if await self.parts.updates.first_within_grace():
            self.parts.registrar.adopt_verdicts()
        self._record = here.record()
        key = here.keys.agent(self._settings.host)
        try:
            await claim_host(here.store, here.holder, key, self._record, self._settings.state_path / "boot")
            if not self._handover.boot:
                self.parts.events.detector.joined(agent.VERSION)
            with self._owning:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_name, key)
                    nursery.start_soon(self._hold)
        except HostTaken as taken:
            self._give_up(taken)

    async def _keep_name(self, key: str) -> None:
        try:
            await keep_name(self.parts.here.holder, key)
        except HostTaken as taken:
            self._give_up(taken)

    def _give_up(self, taken: HostTaken) -> None:
        log.error("this host's name belongs to another agent", reason=str(taken))
        self._end(Stop(code=1))

    async def _hold(self) -> None:
        parts, host = self.parts, self._settings.host
        holder, keys = parts.here.holder, parts.here.keys
        async with trio.open_nursery() as nursery:
            nursery.start_soon(holder.run)
            nursery.start_soon(parts.registrar.run)
            nursery.start_soon(tell_version, parts.here.store, holder, keys, host, known_here())
            nursery.start_soon(parts.here.etcd_rights.run, lambda: parts.mesh.table.forms.own)
            nursery.start_soon(keep_layout, parts.here.store, keys, parts.mesh.table)
            nursery.start_soon(tell_calls, parts.fleet, holder, keys, host, parts.exposed.look)
            nursery.start_soon(parts.events.delivery.run)
            nursery.start_soon(parts.scaler.run)
            nursery.start_soon(parts.traffic.shadow.tell, holder, keys, host)
            nursery.start_soon(acknowledge, parts.fleet, holder, keys, host, parts.updates.mirror.newest_change)

    async def _relieve(self) -> None:
        """The workers of the process before take nothing new once ours serve."""
        fleet, settings = self.parts.fleet, self._settings
        if not self._handover.workers:
            return
        while not fleet.ready:
            await fleet.changed()
        fleet.previous.relieve(seconds(settings.drain_timeout), seconds(settings.reload_timeout))
        while fleet.previous.workers:
            await fleet.changed()
        log.info("the previous workers have ended")

    # Ending.

    async def _signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, *held_signals.HELD) as signals:
            held_signals.hand_on()
            task_status.started()
            async for number in signals:
                if number == signal.SIGUSR1:
                    self.parts.records.reopen()
                elif number != signal.SIGHUP:
                    returns = number == signal.SIGUSR2 and self.parts.here.listeners.stays
                    log.info("stopping", signal=signal.Signals(number).name, keeps_registrations=returns)
                    self._end(Stop(returns=returns))
                    return
                elif await self._reload():
                    return

    def _end(self, stop: Stop) -> None:
        if not self.parts.stopping.is_set():
            self._stop = stop
            self.parts.stopping.set()

    async def _reload(self) -> bool:
        """SIGHUP: execute the agent anew, with the listening sockets open. Bad settings change nothing."""
        try:
            settings = load(self._config)
            _check_names(self._settings, settings)
            _check_etcd(settings)
        except (SettingsError, OSError, ValueError) as error:
            log.error("the settings are not reloaded", reason=str(error))
            return False
        log.info("reloading")
        if not self.parts.mesh.frames.known:
            log.error("not reloaded: there is no table yet")
            return False
        keeper = await self.parts.here.outlast()
        try:
            handover = self.parts.here.hand_over(settings, keeper)
        except (OSError, SettingsError) as error:
            if keeper is not None:
                keeper.close()
            log.error("the settings are not reloaded", reason=getattr(error, "strerror", None) or str(error))
            return False
        self.parts.fleet.announce_absence()
        await trio.sleep(SAID_S)  # what is not on its way by then goes with the rest
        self.parts.fleet.leave_behind()
        self.parts.mesh.saved.write()
        counts = self.parts.fleet.hand_over_counts()
        self._end(Stop(handover=msgspec.structs.replace(handover, counts=counts)))
        return True

    async def _leave(self) -> None:
        """Law 9: nothing is dropped on purpose."""
        parts, settings = self.parts, self._settings
        holder, registrar = parts.here.holder, parts.registrar
        registrar.leave()
        if self._record is not None and not self._stop.returns:
            leaving = msgspec.structs.replace(self._record, stopping=True)
            holder.put(parts.here.keys.agent(settings.host), encode(leaving), also=registrar.farewell())
        with trio.move_on_after(seconds(settings.spread_timeout)):
            await holder.settled()
            if registrar.local:
                await parts.others_run(holder.revision)
        await parts.fleet.drain(seconds(settings.drain_timeout))
        if parts.mesh.frames.known:
            parts.mesh.saved.write()
        await self._leave_events()
        self._owning.cancel()  # who holds our keys would put them again
        if self._stop.returns:
            await holder.extend(EXTEND_S)
            return
        with trio.move_on_after(2):
            try:
                await holder.release()
            except StoreError as error:
                log.warning("etcd did not hear that we leave; the lease will tell", error=str(error))

    async def _leave_events(self) -> None:
        """Not before a restart with the same socket: the successor is here at once."""
        if self._stop.returns:
            return
        with trio.move_on_after(2):
            try:
                await self.parts.events.delivery.own.leave()
            except StoreError as error:
                log.debug("what others have still to tell stays until this host is back", error=str(error))


def _check_names(running: Settings, wanted: Settings) -> None:
    """Raises SettingsError for an agent of another name, whose lease would hold the keys of this one too."""
    for name in ("mesh", "host"):
        known, asked = getattr(running, name), getattr(wanted, name)
        if asked != known:
            what = f"{asked!r}, and this agent is {known!r}, and has keys in etcd by that name"
            raise SettingsError(f"{name}: {what}: another name takes effect at a restart, not at a reload")


def _check_etcd(settings: Settings) -> None:
    """Raises SettingsError, OSError or ValueError for what a store could not be made of."""
    EtcdStore(store_settings(settings))


# The process.


def configure_logging(level: str) -> None:
    """key=value lines on standard error."""
    numbers = {"debug": 10, "info": 20, "warning": 30, "error": 40}
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            visible_values,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numbers[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(VisibleFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)  # what libraries say


async def run_agent(settings: Settings, *, config: Path | None = None, dev: bool = False) -> Stop:
    """Run an agent until it is told to stop. Raises SettingsError and OSError for what cannot work at all."""
    handover = received(os.environ)
    os.environ.pop(HANDOVER, None)
    if not dev:
        return await Control(settings, handover, config).run()
    lock = disk.lock(settings.state_path, handover.lock)  # before an etcd writes there
    handover = msgspec.structs.replace(handover, lock=-1 if lock is None else lock)
    async with embedded(settings) as with_etcd:
        return await Control(with_etcd, handover, config).run()


def main(settings: Settings, *, config: Path | None = None, dev: bool = False) -> int:
    """The process of `shoal agent`; its exit code. On SIGHUP it is executed anew, and this does not return."""
    configure_logging(settings.log_level)
    raise_limit()
    held_signals.hold()
    stop = trio.run(partial(run_agent, settings, config=config, dev=dev))
    if stop.handover is None:
        return stop.code
    os.environ[HANDOVER] = json.dumps(msgspec.to_builtins(stop.handover))
    sys.stdout.flush()
    sys.stderr.flush()
    held_signals.leave_to_successor()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves, as we were started
