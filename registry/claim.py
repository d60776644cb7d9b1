"""A claim: a key that one owner holds on a lease, fenced by the revision at which it was created.

A lease alone excludes nobody: its owner may be paused and wake up after it ran out (Jepsen, etcd 3.4.3). So whoever
acts under a claim puts its fence into the transaction that acts, which then fails once the claim has changed hands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from registry.store import Compare, Delete, Outcome, Put, Store


class Claim(NamedTuple):
    """A held claim."""

    key: str
    fence: int
    """Create revision of the key: no later holder has the same."""


async def take(store: Store, key: str, value: bytes, lease: int) -> Claim | None:
    """Create the key on a lease; None when somebody holds it already.

    Who asks again on the same lease with the same value, for the answer was lost, is told of the claim that it has.
    """
    outcome = await store.transact([Compare(key, create_revision=0)], [Put(key, value, lease)])
    if outcome.succeeded:
        return Claim(key, outcome.revision)
    held = await store.get(key)
    if held is None or (held.lease, held.value) != (lease, value):
        return None
    return Claim(key, held.create_revision)


async def act(store: Store, claim: Claim, operations: Sequence[Put | Delete]) -> Outcome:
    """Do something that only the holder may do; it is not done (`succeeded` False) when the claim was lost."""
    return await store.transact([Compare(claim.key, create_revision=claim.fence)], operations)


async def give_up(store: Store, claim: Claim) -> bool:
    """Delete the claim, if it is still ours."""
    return (await act(store, claim, [Delete(claim.key)])).succeeded
