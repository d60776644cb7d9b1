"""This agent on its host: its name and its start, where it listens, what it may do, and its lease in etcd."""

from __future__ import annotations

import os
import secrets

import msgspec

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
from policies.language.duration import seconds
from registry.etcd.renewer import EtcdRenewer
from registry.etcd.store import EtcdStore
from registry.keys import Keys
from registry.lease import Holder
from registry.ownership import whose
from registry.records import Agent
from registry.renewal import Renewal


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

    def hand_over(self, settings: Settings) -> Handover:
        """What an agent of these settings needs, all of it had now. Raises OSError and SettingsError, and then nothing
        has changed."""
        lock = disk.lock(settings.state_path, -1 if self._lock is None else os.dup(self._lock))
        try:
            handover = self.listeners.hand_over(settings)
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise
        if lock is not None:
            os.set_inheritable(lock, True)
        return msgspec.structs.replace(
            handover, lease=self.holder.lease, boot=self.boot, lock=-1 if lock is None else lock
        )

    async def close(self, *, left: bool) -> None:
        """`left`: a successor goes on with it."""
        await self.store.aclose()
        self.listeners.close(left=left)
        if self._lock is not None:
            os.close(self._lock)
