"""Registrations on disk: what was registered at run time, for after a restart.

Law: what of it makes no sense costs nothing but itself, and the file that had it is kept (`agent.process.own_files`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from agent.control.host import disk
from agent.control.instances.registration import Identity, Local
from agent.control.instances.renewals import Renewals
from agent.control.instances.tokens import Tokens
from agent.identity.users import ROOT
from agent.process.own_files import set_aside
from policies.language.document import Document


class SavedInstances:
    """One file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = b""

    def read(self) -> dict[str, Any]:
        """All of it; empty when there is nothing that can be read."""
        return disk.load_object(self._path)

    def set_aside(self) -> None:
        """Some of it made no sense: the rest is to be written anew."""
        set_aside(self._path, "some of it makes no sense, and the rest is written anew")

    def write(self, instances: Mapping[Identity, Local], tokens: Tokens, renewals: Renewals) -> None:
        """Write what has to outlive us, when it has changed: registrations are renewed all the time."""
        of_admin = [_kept(identity, local) for identity, local in instances.items() if local.source == "admin"]
        saved = {"instances": of_admin, "tokens": tokens.saved(), "renew_within": renewals.saved()}
        data = msgspec.json.encode(saved)
        if data != self._written and disk.write(self._path, data):
            self._written = data


def owner(raw: Any) -> tuple[int, bool]:
    """Takes out of an instance that was kept who registered it, and whether it may be on another host."""
    if not isinstance(raw, dict):
        return ROOT, False
    uid, anywhere = raw.pop("uid", ROOT), raw.pop("anywhere", False)
    return uid if isinstance(uid, int) else ROOT, anywhere is True


def _kept(identity: Identity, local: Local) -> dict[str, Any]:
    service, id = identity
    record = local.record
    return {
        "service": service,
        "id": id,
        "port": record.port,
        "address": record.address,
        "version": record.version,
        "zone": record.zone,
        "weight": record.weight,
        "metadata": record.metadata,
        "uid": local.uid,
        "health": None if local.own_check is None else _plain(local.own_check),
        **({"anywhere": True} if local.anywhere else {}),
    }


def _plain(document: Document) -> dict[str, Any]:
    plain = msgspec.to_builtins(document)
    return {name: value for name, value in plain.items() if value is not None}
