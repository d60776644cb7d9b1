"""Client certificates of this host, for instances that speak TLS themselves: `<service>.pem` in a folder of its own.

Laws
- A file is looked at by itself every few seconds, and after SIGHUP: who puts another one needs to tell nobody.
- What anybody but the agent's user and root may read is not shown to anyone (`agent.tls.origins`).
- It is loaded before it is told: what is no use is said here, in the log and in /state, and workers go on as before.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
import trio

from agent.frames import ClientCertificate
from agent.tls.origins import ENDING, NotUsable, check_usable
from policies.language.names import parse_service

LOOK_S: Final = 5.0
MOST: Final = 1000
log = structlog.get_logger()


class ClientCertificates:
    """Of one agent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.found: dict[str, ClientCertificate] = {}
        """By the service that is called."""
        self._take(_look(folder, {}))

    async def run(self, changed: Callable[[], None]) -> None:
        """Look until cancelled; `changed` is called where there is something else."""
        while True:
            await trio.sleep(LOOK_S)
            if self._take(await trio.to_thread.run_sync(_look, self._folder, self.found)):
                changed()

    def _take(self, found: dict[str, ClientCertificate]) -> bool:
        before, self.found = self.found, found
        for service, each in found.items():
            if each.reason and before.get(service) != each:
                log.warning("a client certificate is of no use", service=service, reason=each.reason)
        return before != found


def _look(folder: Path, before: dict[str, ClientCertificate]) -> dict[str, ClientCertificate]:
    """What there is; what has not changed is not read again."""
    found: dict[str, ClientCertificate] = {}
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return found  # nobody need have such a folder
    for name in names:
        service = _service(name)
        if service and service not in found and len(found) < MOST:
            found[service] = _read(folder / name, before.get(service))
    return found


def _service(name: str) -> str:
    """Whose a file is; empty: nobody's."""
    try:
        return parse_service(name.removesuffix(ENDING)) if name.endswith(ENDING) else ""
    except ValueError:
        return ""


def _read(path: Path, before: ClientCertificate | None) -> ClientCertificate:
    try:
        at = path.stat()
    except OSError as error:
        return ClientCertificate(str(path), "", f"{path}: {error.strerror or error}")
    mark = f"{at.st_mtime_ns}-{at.st_ctime_ns}-{at.st_ino}-{at.st_size}"
    if before is not None and before.path == str(path) and before.mark == mark:
        return before
    try:
        check_usable(path)
    except NotUsable as error:
        return ClientCertificate(str(path), mark, str(error))
    return ClientCertificate(str(path), mark)
