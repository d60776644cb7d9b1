"""What issuers published, on disk: a restart with etcd and issuers away verifies tokens as before.

Laws
- A file is of one source, which stands in it: keys of another are not taken from it, whatever the file is called.
- What a document names is read, and nothing else. Files of sources that nobody names go when they are a day old.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from agent.control.host import disk
from agent.process.own_files import read_as
from policies.kinds.authn.keys import publishes

KEEP_S: Final = 86_400.0


class Kept(msgspec.Struct, frozen=True):
    """As it was fetched."""

    source: str
    jwks: tuple[dict[str, str], ...]
    url: str
    etag: str
    fetched_at: float
    """Unix time (s) at which the issuer said so last."""


class Shelf:
    """A folder of the state directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, source: str) -> Kept | None:
        """What is kept of a source, and could be fetched: what is no sound key is not taken from a disk either."""
        kept = read_as(self._path(source), msgspec.json.Decoder(Kept).decode)
        if kept is None or kept.source != source:
            return None
        return msgspec.structs.replace(kept, jwks=tuple(jwk for jwk in kept.jwks if publishes(jwk) == jwk))

    def write(self, kept: Kept) -> None:
        """In place of what is there."""
        disk.write(self._path(kept.source), msgspec.json.encode(kept))

    def sweep(self, wanted: Collection[str]) -> None:
        """Throw away what has been of no use for long."""
        needed = {self._path(source).name for source in wanted}
        try:
            for path in self._folder.glob("*.json"):
                if path.name not in needed and time.time() - path.lstat().st_mtime > KEEP_S:
                    path.unlink()
        except OSError:
            pass  # the next time, perhaps: it does no harm there

    def _path(self, source: str) -> Path:
        return self._folder / f"{hashlib.sha256(source.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.json"
