"""The control process: one nursery that owns everything an agent does besides proxying.

Order of start: the table from disk, the workers, then etcd. Readiness comes with the first table. Order of stop:
instances drain, the word spreads, workers finish what is in flight, and the lease goes last. (Law 9.)
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
import structlog
import trio

import agent
from agent import build
from agent.control.admin import api
from agent.control.admin.events_api import EventsApi
from agent.control.admin.instances_api import InstancesApi
from agent.control.events.delivery import Delivery
from agent.control.events.detector import EventDetector
from agent.control.events.hook_http import HookClient
from agent.control.events.outbox import Outbox
from agent.control.host import disk, local_socket
from agent.control.host.clock import now_text
from agent.control.host.etcd import embedded, own_address, store_settings
from agent.control.host.host_claim import HostTaken, claim_host
from agent.control.host.own_ports import OwnPorts, Place, bound
from agent.control.host.programs import Programs
from agent.control.host.rights import Rights
from agent.control.host.sockets import HANDOVER, Handover, kept, listening, received
from agent.control.host.watchdog import Watchdog
from agent.control.instances.checks import Means
from agent.control.instances.registrar import Identity, Registrar
from agent.control.mesh import reports, suspect_probe
from agent.control.mesh.in_force import Place as PolicyPlace
from agent.control.mesh.last_good import History, Writer
from agent.control.mesh.reading import Put, Read, read_ahead
from agent.control.mesh.saved_table import Keeper
from agent.control.mesh.table import Table
from agent.control.traffic import shared_limits
from agent.control.traffic.access_log import AccessLog
from agent.control.traffic.request_store import RequestStore
from agent.control.traffic.shadow import ShadowTallies
from agent.control.workers.fleet import Fleet, drain_old
from agent.frames import Frame, said_once
from agent.hooks.receivers import Receivers
from agent.hooks.targets import Targets
from agent.settings.address import parse_listen
from agent.settings.document import Settings
from agent.settings.file import SettingsError, load
from agent.visible import VisibleFormatter, visible_values
from policies.language.duration import seconds
from registry.etcd.store import EtcdStore
from registry.keys import Keys
from registry.lease import Holder
from registry.mirror import Mirror, Update
from registry.records import Agent, LastGood, encode
from registry.renewal import EtcdRenewer, Renewal
from registry.store import Change, StoreError

DISK_GRACE_S: Final = 2.0
"""How long to wait for etcd before a table from disk counts as the table."""
SETTLE_S: Final = 2.0
"""How long the first table waits for this host's own instances to be in it, with a verdict."""
EXTEND_S: Final = 1.0
"""How long a reload waits for etcd to extend the lease before it goes on without."""
HAPPENED: Final = 200
log = structlog.get_logger()


class Stop(msgspec.Struct, frozen=True):
    """How the agent ended."""

    code: int = 0
    handover: Handover | None = None
    """To execute the agent anew with (SIGHUP)."""


class Control:
    """One agent's control process."""

    def __init__(self, settings: Settings, handover: Handover, config: Path | None) -> None:
        self.settings = settings
        self._config = config
        self._handover = handover
        self._elders = list(handover.workers)
        """Workers of the process before that are still there."""
        self.keys = Keys(settings.mesh)
        self._state = settings.state_path
        self._lock = disk.lock(self._state, handover.lock)
        self.boot = handover.boot or secrets.token_hex(8)
        self.started = now_text()
        self.address = settings.address or own_address(settings)
        count = settings.worker_count
        moved = bool(handover.boot)
        self._outbound = listening(parse_listen(settings.outbound.listen), handover.outbound, count, moved=moved)
        self._inbound = listening(parse_listen(settings.inbound.listen), handover.inbound, count, moved=moved)
        (self._admin,) = listening(parse_listen(settings.admin.listen), handover.admin, 1, moved=moved)
        self.local = local_socket.opened(settings, handover.local)
        self.store = EtcdStore(store_settings(settings))
        own = OwnPorts(self._listeners(), lambda address, port: self.table.places.agent_at(address, port))
        self.table = Table(self.keys, settings.host, own)
        self.keeper = Keeper(self.table, self._state / "table", self.keys, settings.mesh)
        self.watchdog = Watchdog()
        ttl_s = int(seconds(settings.lease_ttl))
        renewal = Renewal(EtcdRenewer(store_settings(settings)), ttl_s, self.watchdog.alive)
        self.holder = Holder(self.store, ttl_s, lease=handover.lease, renewal=renewal)
        programs = Programs(settings.programs.user, settings.programs.max_memory_bytes)
        means = Means(programs, own)
        self.registrar = Registrar(settings, self.address, self.keys, self.holder, self.table, means)
        self.mirror = Mirror(self.store, *self.keys.watched, self.on_update, prepare=self._read_ahead)
        self._documents: dict[Put, Read] = {}
        """Of the update that comes next."""
        self._found: dict[PolicyPlace, LastGood] = {}
        """Last good states that it asks for, and that only etcd's history told."""
        self.history = History(self.store, self.keys, self.table)
        self.last_good = Writer(self.store, self.keys, self.table, self.history, self._learn)
        self.rejections = reports.Rejections(self.store, self.keys, self.table, settings.host)
        self.access = AccessLog(settings.access_log) if settings.access_log else None
        self.registrar.on_tokens = self._on_tokens
        self.sharing = shared_limits.SharedLimits(self.table, settings.host, settings.inbound.agents)
        self.comparing = ShadowTallies(self.table)
        self.outbox = Outbox(self.keys, self.table)
        self.detector = EventDetector(
            self.table, self.outbox, self.store, self.keys, settings.host, self.boot, link=settings.hooks.link
        )
        self.registrar.events = self.detector.of_instance
        hooks = settings.hooks
        client = HookClient(
            hooks.allow,
            Path(hooks.secrets_dir),
            receivers=Receivers(hooks.secrets),
            programs=programs if hooks.exec else None,
        )
        self.delivery = Delivery(
            self.outbox, lambda: self.table.agents, self.store, self.keys, self.holder, settings.host, client
        )
        self.storing = RequestStore(
            self._state / "topics",
            settings.topics.max_bytes,
            Targets(hooks.allow),
            client.secret,
            client.receivers,
        )
        self.fleet = Fleet(
            self._outbound,
            self._inbound,
            count,
            configuration=self._configuration,
            table=self._whole_table,
            on_happened=self._on_happened,
            on_compared=self.comparing.observe,
            on_store=self.storing.store,
            on_peer=lambda path, body, address: shared_limits.asked(path, body, self.sharing, address),
            on_records=self.access.write if self.access else lambda lines, count: None,
        )
        self.happened: deque[dict[str, Any]] = deque(maxlen=HAPPENED)
        """The latest of breakers and ejections, as the workers told it."""
        self.standing: dict[tuple[str, str, str], dict[str, Any]] = {}
        """Breakers that are not closed, and endpoints that are out: what was told of each last."""
        self.telling = EventsApi(self.outbox, self.delivery, self.store, self.keys)
        self.rights = Rights(settings.local, os.geteuid())
        self.registrations = InstancesApi(self, self.registrar, self.rights)
        self.record: Agent | None = None
        """As it stands in etcd, once the host's name is ours."""
        self._table_known = False
        self._first_sync = trio.Event()
        self._owning = trio.CancelScope()
        self._stopping = trio.Event()
        self._stop = Stop()

    def _listeners(self) -> list[tuple[str, Place]]:
        """Where this agent listens, by name; the inbound port that others dial as well, where that is another."""
        sockets = (("outbound", self._outbound), ("inbound", self._inbound), ("admin", [self._admin]))
        found = [(name, place) for name, each in sockets for place in bound(each)]
        mapped = self.settings.inbound.advertise_port
        return [*found, ("inbound", (self.address, mapped))] if mapped else found

    # The way of a change.

    async def _read_ahead(self, changes: Sequence[Change]) -> None:
        self._documents = await read_ahead(self.keys, changes)
        self._found = await self.history.of_changes(changes, self._documents)

    def on_update(self, update: Update) -> None:
        """The mirror's call: fold, and send what was touched."""
        whole = update.resync and not self._first_sync.is_set()
        documents, self._documents = self._documents, {}
        found, self._found = self._found, {}
        touched = self.table.apply(update.changes, update.revision, whole=whole, documents=documents, found=found)
        if self._table_known:
            self._publish(touched, update.revision)
        elif not self.registrar.local:
            self._open()
        for change in update.changes:
            if change.value is None:
                self.holder.restore(change.key)
        self._see(update, touched)
        self._first_sync.set()
        self.keeper.changed()
        self.registrar.refresh()
        self.rejections.refresh()
        self.last_good.refresh()

    def _see(self, update: Update, touched: Iterable[str]) -> None:
        """What of it is an event, and who has to be told."""
        webhooks = self.outbox.webhooks()
        news = self.outbox.apply(update.changes)
        self.detector.observe(update.changes, touched, cluster=self.mirror.cluster_id)
        if webhooks != self.outbox.webhooks():
            self.detector.webhooks_changed()
        if news:
            self.delivery.changed()

    def _open(self) -> None:
        """The first table: from now on the workers serve, and are sent every change."""
        self._table_known = True
        self.fleet.publish(self._whole_table())

    async def _settle(self) -> None:
        """A restarted agent knows its own instances before its workers answer for them; callers wait meanwhile."""
        await self._first_sync.wait()
        with trio.move_on_after(SETTLE_S):
            while not self.registrar.stands():  # noqa: ASYNC110 - a verdict may change nothing that could wake us
                await trio.sleep(0.02)
        if not self._table_known:
            self._open()

    def _publish(self, touched: Iterable[str], revision: int) -> None:
        frames = said_once(self.table.frame(name) for name in touched)
        if self.table.moved:
            frames.append(self.table.agents_frame())
        self.fleet.publish([*frames, self._commit(revision)])

    def _commit(self, revision: int) -> Frame:
        return {"t": "commit", "revision": revision, "agents": len(self.table.agents)}

    def drop_suspects(self, found: Iterable[Identity]) -> None:
        """Believe the deletion of these."""
        touched: set[str] = set()
        for service, identity in found:
            touched |= self.table.drop_suspect(service, identity)
        if touched:
            self._publish(touched, self.table.revision)

    def _learn(self, found: Mapping[PolicyPlace, LastGood]) -> None:
        """What etcd's history told later."""
        touched = self.table.learn(found)
        if self._table_known:
            self._publish(touched, self.table.revision)
        self.rejections.refresh()
        self.last_good.refresh()

    def _configuration(self) -> Frame:
        limits = self.settings.limits
        count = self.settings.worker_count
        return {
            "t": "configure",
            "host": self.settings.host,
            "zone": self.settings.zone,
            "mesh": self.settings.mesh,
            "callers": self.registrar.tokens.callers(),
            "access_log": bool(self.settings.access_log),
            "share": 1 / count,
            "agents": self.settings.inbound.agents,
            "limits": {
                "max_connections": max(1, limits.max_connections // count),
                "head_s": seconds(limits.head_timeout),
                "idle_s": seconds(limits.idle_timeout),
                "max_waiting": max(1, limits.max_waiting // count),
                "waiting_s": seconds(limits.waiting_timeout),
            },
        }

    def _whole_table(self) -> list[Frame]:
        if not self._table_known:
            return []
        frames = said_once(self.table.frame(name) for name in self.table.services)
        return [*frames, self.table.agents_frame(), self._commit(self.table.revision)]

    def _on_happened(self, events: list[dict[str, Any]]) -> None:
        """Breakers and ejections, from the workers."""
        for event in events:
            told = {name: value for name, value in event.items() if name not in ("kind", "at") and value}
            log.warning(f"{event['kind']} {event['after']}", **told)
            place = (event["kind"], event["service"], event["endpoint"])
            if event["after"] in ("closed", "in"):
                self.standing.pop(place, None)
            else:
                self.standing[place] = event
        self.happened.extend(events)
        self.detector.on_happened(events)

    def _on_tokens(self) -> None:
        self.fleet.reconfigure()

    # Living.

    async def run(self) -> Stop:
        """From start to end."""
        if build.kind() != build.COMPILED:
            log.warning("the request path is interpreted", cost=build.COST, reason=build.reason())
        try:
            async with self.watchdog.running():
                return await self._live()
        finally:
            with trio.CancelScope(shield=True):
                await self._close()

    async def _live(self) -> Stop:
        if self._handover.workers:
            # After SIGHUP the table on disk is a moment old: it counts at once, so that the new workers lose no time,
            # and our instances keep their verdicts.
            if await self.keeper.read():
                self._open()
            self.registrar.load()
        else:
            self.registrar.load()
            await self.keeper.read()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._signals)
            application = api.Api(self).application()
            nursery.start_soon(api.serve, application, os.dup(self._admin.fileno()), self._until_stopped)
            if self.local is not None:
                nursery.start_soon(local_socket.serve, application, self.local)
            nursery.start_soon(self.fleet.run)
            nursery.start_soon(self.mirror.run)
            nursery.start_soon(self._settle)
            nursery.start_soon(self._fall_back_to_disk)
            nursery.start_soon(self.keeper.run)
            nursery.start_soon(self.rejections.run)
            nursery.start_soon(self.last_good.run)
            nursery.start_soon(self.sharing.run, self.fleet)
            nursery.start_soon(self.comparing.run)
            nursery.start_soon(self.storing.run)
            nursery.start_soon(self.detector.run)
            nursery.start_soon(self.detector.watch_etcd, lambda: self.mirror.state.connected)
            nursery.start_soon(suspect_probe.probe_suspects, self.table, self.drop_suspects)
            nursery.start_soon(self._own)
            nursery.start_soon(self._relieve)
            if self.access is not None:
                nursery.start_soon(self.access.run)
            await self._stopping.wait()
            if self._stop.handover is None:
                await self._leave()
            nursery.cancel_scope.cancel()
        return self._stop

    async def _close(self) -> None:
        await self.store.aclose()
        for sock in (*self._outbound, *self._inbound, self._admin):
            sock.close()
        if self.local is not None:
            if self._stop.handover is None:
                self.local.close()
            else:
                self.local.leave()
        if self._lock is not None:
            os.close(self._lock)

    async def _own(self) -> None:
        async with self.holder.renewing():
            await self._claim_and_hold()

    async def _claim_and_hold(self) -> None:
        """Claim the host's name, then keep everything that is ours in etcd."""
        with trio.move_on_after(DISK_GRACE_S):
            await self._first_sync.wait()
        if self._first_sync.is_set():
            self.registrar.adopt_verdicts()
        self.record = record = Agent(
            address=self.address,
            inbound_port=self.settings.inbound.advertise_port or self._inbound[0].getsockname()[1],
            zone=self.settings.zone,
            version=agent.VERSION,
            started=self.started,
            boot=self.boot,
        )
        key = self.keys.agent(self.settings.host)
        try:
            await claim_host(self.store, self.holder, key, record, self._state / "boot")
        except HostTaken as taken:
            log.error("this host's name belongs to another agent", reason=str(taken))
            self._end(Stop(code=1))
            return
        if not self._handover.boot:
            self.detector.joined(agent.VERSION)
        with self._owning:
            await self._hold()

    async def _hold(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.holder.run)
            nursery.start_soon(self.registrar.run)
            nursery.start_soon(reports.tell_calls, self.fleet, self.holder, self.keys, self.settings.host)
            nursery.start_soon(self.delivery.run)
            nursery.start_soon(self.comparing.tell, self.holder, self.keys, self.settings.host)
            nursery.start_soon(reports.acknowledge, self.fleet, self.holder, self.keys, self.settings.host)

    async def _relieve(self) -> None:
        """The workers of the process before end once ours serve."""
        if not self._elders:
            return
        while not self.fleet.ready:
            await self.fleet.changed()
        await drain_old(self._elders, seconds(self.settings.drain_timeout))
        log.info("the workers of before are gone")

    async def _until_stopped(self) -> None:
        await self._stopping.wait()

    async def _fall_back_to_disk(self) -> None:
        """etcd may be away when we start: then the last table that we had is the table."""
        with trio.move_on_after(DISK_GRACE_S):
            await self._first_sync.wait()
        if not self._first_sync.is_set() and self.keeper.saved_at and not self._table_known:
            age_s = time.time() - self.keeper.saved_at
            log.warning("etcd is away; starting with the table on disk", age_s=round(age_s))
            self._open()

    # Ending.

    async def _signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number != signal.SIGHUP:
                    log.info("stopping", signal=signal.Signals(number).name)
                    self._end(Stop())
                    return
                if await self._reload():
                    return

    def _end(self, stop: Stop) -> None:
        if not self._stopping.is_set():
            self._stop = stop
            self._stopping.set()

    async def _reload(self) -> bool:
        """SIGHUP: execute the agent anew, with the listening sockets open. Bad settings change nothing."""
        try:
            settings = load(self._config)
            _check_etcd(settings)
        except (SettingsError, OSError, ValueError) as error:
            log.error("the settings are not reloaded", reason=str(error))
            return False
        log.info("reloading")
        if not self._table_known:
            log.error("not reloaded: there is no table yet")
            return False
        await self.holder.extend(EXTEND_S)
        try:
            handover = self._hand_over(settings)
        except (OSError, SettingsError) as error:
            log.error("the settings are not reloaded", reason=getattr(error, "strerror", None) or str(error))
            return False
        self.keeper.write()
        self._end(Stop(handover=handover))
        return True

    def _hand_over(self, settings: Settings) -> Handover:
        """What an agent of these settings needs, all of it had now. Raises OSError, and then nothing has changed."""
        lock = disk.lock(settings.state_path, -1 if self._lock is None else os.dup(self._lock))
        mine = (
            (settings.outbound.listen, self._outbound),
            (settings.inbound.listen, self._inbound),
            (settings.admin.listen, [self._admin]),
        )
        own = self.local if self.local is not None and self.local.path == settings.socket_path else None
        socket_of_people = own
        try:
            socket_of_people = own or local_socket.opened(settings, None)
            outbound, inbound, admin = kept([(parse_listen(listen), sockets) for listen, sockets in mine])
        except (OSError, SettingsError):
            if lock is not None:
                os.close(lock)
            if socket_of_people is not None and socket_of_people is not own:
                socket_of_people.close()
            raise
        if lock is not None:
            os.set_inheritable(lock, True)
        left = None
        if socket_of_people is not None:
            left = os.dup(socket_of_people.sock.fileno())
            os.set_inheritable(left, True)
            if socket_of_people is not own:
                socket_of_people.leave()
        return Handover(
            outbound=outbound,
            inbound=inbound,
            admin=admin,
            local=left,
            workers=(*self.fleet.leave_behind(), *self._elders),
            lease=self.holder.lease,
            boot=self.boot,
            lock=-1 if lock is None else lock,
        )

    async def _leave(self) -> None:
        """Law 9: nothing is dropped on purpose."""
        settings = self.settings
        self.registrar.drain(self.registrar.local)
        if self.record is not None:
            leaving = msgspec.structs.replace(self.record, stopping=True)
            self.holder.put(self.keys.agent(settings.host), encode(leaving), also=self.registrar.farewell())
        with trio.move_on_after(seconds(settings.spread_timeout)):
            await self.holder.settled()
            if self.registrar.local:
                await reports.others_run(self.store, self.keys, self.table, settings.host, self.holder.revision)
        await self.fleet.drain(seconds(settings.drain_timeout))
        if self._table_known:
            self.keeper.write()
        self._owning.cancel()  # who holds our keys would put them again
        with trio.move_on_after(2):
            try:
                await self.holder.release()
            except StoreError as error:
                log.warning("etcd did not hear that we leave; the lease will tell", error=str(error))

    # For people.

    def not_ready(self) -> str:
        """Why the agent is not ready; empty when it is."""
        if self._stopping.is_set():
            return "stopping"
        if not self._table_known:
            return f"waiting for the first table from etcd ({self.mirror.state.error or 'connecting'})"
        return "" if self.fleet.ready else "waiting for the workers"

    async def credentials(self, service: str, token: str) -> dict[str, str]:
        """A token, and the proxy URL with it, once every worker knows it: whoever has it may use it at once."""
        await self.fleet.ask_each("ping")
        host, port = self._outbound[0].getsockname()[:2]
        host = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host  # noqa: S104
        return {"token": token, "proxy": f"http://{quote(service, safe='')}:{quote(token, safe='')}@{host}:{port}"}

    async def deregister(self, identity: Identity) -> dict[str, Any] | None:
        """Take an instance out; None when it is not ours."""
        if identity not in self.registrar.local:
            return None

        async def spread(revision: int) -> None:
            await reports.others_run(self.store, self.keys, self.table, self.settings.host, revision)

        limit_s = max(1.0, seconds(self.settings.spread_timeout))
        revision = await self.registrar.deregister(identity, spread, limit_s)
        return {"service": identity[0], "id": identity[1], "revision": revision}


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
    stop = trio.run(partial(run_agent, settings, config=config, dev=dev))
    if stop.handover is None:
        return stop.code
    os.environ[HANDOVER] = json.dumps(msgspec.to_builtins(stop.handover))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves, as we were started
