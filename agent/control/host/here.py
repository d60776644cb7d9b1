"""This agent on its host: its name and its start, where it listens, what it may do, and its lease in etcd."""

from __future__ import annotations

import os
import secrets
from typing import Final

import msgspec
import structlog
import trio

import agent
from agent.control.host import disk
from agent.control.host.clock import now_text
from agent.control.host.etcd import own_address, store_settings
from agent.control.host.etcd_rights import EtcdRights
from agent.control.host.listeners import Listeners
from agent.control.host.programs import Programs
from agent.control.host.rights import Rights
from agent.control.host.sockets import Handover
from agent.control.host.watchdog import Watchdog
from agent.settings.document import Settings
from agent.settings.file import SettingsError
from agent.surroundings import handed_on
from policies.language.duration import seconds
from registry.etcd import keeper
from registry.etcd.renewer import EtcdRenewer
from registry.etcd.store import EtcdStore
from registry.keys import Keys
from registry.lease import Holder
from registry.ownership import whose
from registry.records import Agent
from registry.renewal import Renewal

EXTEND_S: Final = 1.0
"""How long a reload or a restart waits for etcd to extend the lease before it goes on without."""
READY_S: Final = 5.0
"""How long a reload waits for who renews the lease meanwhile. Nothing has stopped by then."""
log = structlog.get_logger()


class Here:
    """What all other parts of an agent stand on."""

    def __init__(self, settings: Settings, handover: Handover) -> None:
        """Raises OSError and SettingsError: another agent has this place, or the settings cannot be used."""
        self.settings = settings
        self.keys = Keys(settings.mesh)
        self._lock = disk.lock(settings.state_path, handover.lock)
        self.boot = handover.boot or secrets.token_hex(8)
        self.started = now_text()
        self.address = settings.address or own_address(settings)
        self.listeners = Listeners(settings, handover)
        self.rights = Rights(settings.local, os.geteuid())
        self.programs = Programs(settings.programs.user, settings.programs.max_memory_bytes)
        self.watchdog = Watchdog()
        self.store = EtcdStore(store_settings(settings))
        ttl_s = int(seconds(settings.lease_ttl))
        renewal = Renewal(EtcdRenewer(store_settings(settings)), ttl_s, self.watchdog.alive)
        judge = whose(self.keys, settings.host, self.boot)
        self.etcd_rights = EtcdRights(self.store, self.keys, settings.host)
        self.holder = Holder(self.store, ttl_s, lease=handover.lease, renewal=renewal, whose=judge)
        self._kept = keeper.accept(handover.keeper)

    def record(self) -> Agent:
        """As it stands in etcd."""
        return Agent(
            address=self.address,
            inbound_port=self.listeners.inbound_port,
            zone=self.settings.zone,
            version=agent.VERSION,
            started=self.started,
            boot=self.boot,
        )

    async def outlast(self) -> keeper.Keeper | None:
        """Begin a process that renews our lease while this one cannot. None where there is nothing to renew; and where
        it cannot be had, and then the lease has its whole time once more."""
        if not self.holder.lease:
            return None
        begun = await trio.to_thread.run_sync(self._begin_keeper, self.holder.lease)
        if begun is None:
            await self.holder.extend(EXTEND_S)
        return begun

    def _begin_keeper(self, lease: int) -> keeper.Keeper | None:
        try:
            begun = keeper.Keeper(store_settings(self.settings), lease, self.holder.ttl_s, handed_on(os.environ))
        except (OSError, SettingsError) as error:
            log.warning("nobody renews the lease until the agent is up again", error=str(error))
            return None
        if not begun.wait_until_ready(READY_S):
            log.warning("who is to renew the lease until the agent is up again has not said that it does")
        return begun

    async def let_keeper_go(self) -> None:
        """Once the lease is renewed here, who renewed it meanwhile ends."""
        with trio.move_on_after(keeper.KEEP_S):
            await self.holder.renewed.wait()
        self._end_kept()

    def _end_kept(self) -> None:
        kept, self._kept = self._kept, keeper.Kept()
        keeper.release(kept)

    def hand_over(self, settings: Settings, begun: keeper.Keeper | None) -> Handover:
        """What an agent of these settings needs, all of it had now. Raises OSError and SettingsError, and then nothing
        has changed. `begun`: what `outlast` did."""
        lock = disk.lock(settings.state_path, -1 if self._lock is None else os.dup(self._lock))
        try:
            handover = self.listeners.hand_over(settings)
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise
        if lock is not None:
            os.set_inheritable(lock, True)
        self._end_kept()
        return msgspec.structs.replace(
            handover,
            lease=self.holder.lease,
            boot=self.boot,
            lock=-1 if lock is None else lock,
            keeper=keeper.Kept() if begun is None else begun.hand_over(),
        )

    async def close(self, *, left: bool) -> None:
        """`left`: a successor goes on with it."""
        await self.store.aclose()
        self.listeners.close(left=left)
        if self._lock is not None:
            os.close(self._lock)
