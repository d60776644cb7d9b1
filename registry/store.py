"""The contract of a registry backend: what the rest of Shoal asks of etcd, and what it may rely on.

One suite (tests/registry/test_store_contract.py) runs on every backend.

Laws
- Every call ends: with an answer, with a StoreError, or by cancellation. A call that timed out may have been carried
  out; a put that did is harmless to repeat, a transaction says so by its comparisons.
- A watch delivers whole revisions, in order, each once, from its start revision on; or it ends with an error.
- `WatchBatch.revision` is a revision up to which the watch has delivered everything. It moves only on what came in
  the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol


class StoreError(Exception):
    """Something a backend could not do."""


class Unavailable(StoreError):
    """No member answers in time, or the cluster has no leader. Worth trying again."""


class NoSpace(Unavailable):
    """etcd is full (its alarm NOSPACE): it takes deletes, and no puts."""


class Refused(StoreError):
    """Wrong user, password or certificate, or no permission. Trying again does not help."""


class NotTrusted(Refused):
    """A certificate, etcd's or ours, is not accepted by the other side. Another member may have a better one."""


class TooLarge(StoreError):
    """A value or a transaction beyond what etcd takes (1.5 MiB, 128 operations)."""


class Compacted(StoreError):
    """The revision that was asked for is gone: take a fresh range."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"compacted up to revision {revision}")
        self.revision = revision


class LeaseGone(StoreError):
    """The lease has run out or was revoked."""


class KeyValue(NamedTuple):
    """A key as it stands."""

    key: str
    value: bytes
    mod_revision: int
    create_revision: int
    version: int
    lease: int


class Change(NamedTuple):
    """A key was put, or deleted (`value` None)."""

    key: str
    value: bytes | None
    revision: int
    created: int = 0
    """Revision of the put that began the life of a key that stands; 0: not known."""


class Range(NamedTuple):
    """Keys of a range, all as they stood at one revision."""

    items: list[KeyValue]
    revision: int
    cluster_id: int


class WatchBatch(NamedTuple):
    """Whole revisions, in order; without changes it is word that there were none up to `revision`."""

    revision: int
    changes: Sequence[Change]


class Compare(NamedTuple):
    """A condition of a transaction; one of the two revisions."""

    key: str
    create_revision: int | None = None
    """0: the key does not exist."""
    mod_revision: int | None = None
    end: str = ""
    """It holds for every key from `key` up to, and without, this one; and where there is none, as of one."""


class Put(NamedTuple):
    """An operation of a transaction."""

    key: str
    value: bytes
    lease: int = 0


class Delete(NamedTuple):
    """An operation of a transaction."""

    key: str


class Outcome(NamedTuple):
    """Of a transaction."""

    succeeded: bool
    revision: int


def prefix_end(prefix: str) -> str:
    """The key behind every key that begins with a prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


class Watch(Protocol):
    """An open watch."""

    cluster_id: int
    revision: int
    """The store's revision when the watch was created; lower than the one asked for: this is not the etcd we knew."""

    async def receive(self) -> WatchBatch:
        """The next batch; one of revision 0 without changes is only a sign of life. Raises Compacted or Unavailable
        when the watch has ended."""
        ...

    async def request_progress(self) -> None:
        """Ask for a sign of life, which comes as a batch."""
        ...


class Store(Protocol):
    """A registry backend."""

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        """A key, or None; as it stood at a revision (0: as it stands). Raises Compacted for one that is forgotten."""
        ...

    async def range(self, start: str, end: str, *, revision: int = 0, keys_only: bool = False) -> Range:
        """The keys from `start` up to, and without, `end`; read in pages, at one revision (0: the current one). With
        `keys_only` their values are empty."""
        ...

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Put a key; the revision. Raises LeaseGone."""
        ...

    async def delete(self, key: str) -> int:
        """Delete a key; the revision."""
        ...

    async def delete_range(self, start: str, end: str) -> int:
        """Delete the keys from `start` up to, and without, `end`; the revision."""
        ...

    async def transact(
        self, compare: Sequence[Compare], success: Sequence[Put | Delete], failure: Sequence[Put | Delete] = ()
    ) -> Outcome:
        """Do `success` when every comparison holds, else `failure`; as one revision.

        Raises Refused when either puts a key twice, or puts and deletes it.
        """
        ...

    async def grant(self, ttl_s: int) -> int:
        """A new lease."""
        ...

    async def keep_alive(self, lease: int) -> int:
        """Renew a lease; seconds that it now has. Raises LeaseGone."""
        ...

    async def revoke(self, lease: int) -> None:
        """End a lease, and delete what is on it."""
        ...

    def watch(self, start: str, end: str, revision: int) -> AbstractAsyncContextManager[Watch]:
        """Watch a range from a revision on."""
        ...

    async def aclose(self) -> None:
        """Give everything back."""
        ...
