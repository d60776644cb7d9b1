"""What an issuer has signed while etcd was away, or did not help: put there once it does.

Laws
- It is a record of what was given out, and hands nobody anything: whom it is for has it already.
- Nothing newer is written over, and no request is answered by a certificate that is for another key.
- At most MAX_LATE are remembered, of each name the last; what is beyond it is forgotten, which is logged.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple, TypeVar

import msgspec
import structlog
import trio

from registry.backoff import Backoff
from registry.identity_records import Request, Signed
from registry.keys import Keys
from registry.records import Malformed, Record, decode, encode
from registry.store import Compare, KeyValue, Put, Store, StoreError

MAX_LATE: Final = 10_000
R = TypeVar("R", bound=Record)
Place = tuple[str, str]
"""A host, and what it asked for."""
log = structlog.get_logger()


class _Late(NamedTuple):
    csr: str
    answer: Signed


class LateAnswers:
    """Of one issuer."""

    def __init__(self, store: Store, keys: Keys, may_issue: Callable[[], bool], chance: Random) -> None:
        self._store = store
        self._keys = keys
        self._may_issue = may_issue
        self._chance = chance
        self._late: dict[Place, _Late] = {}
        self._wake = trio.Event()

    def __len__(self) -> int:
        return len(self._late)

    def note(self, host: str, name: str, csr: str, answer: Signed) -> None:
        """Something was signed, and given to whom it is for."""
        self._late.pop((host, name), None)
        self._late[host, name] = _Late(csr, answer)
        if len(self._late) > MAX_LATE:
            forgotten = next(iter(self._late))
            del self._late[forgotten]
            log.warning("what was signed without etcd will not be noted there", about="/".join(forgotten))
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        backoff = Backoff(base_s=1.0, max_s=30.0, rng=self._chance)
        while True:
            if not self._late:
                self._wake = trio.Event()
                await self._wake.wait()
            try:
                await self._put_all()
            except StoreError:
                await trio.sleep(backoff.next_s())
            else:
                backoff.reset()

    async def _put_all(self) -> None:
        """Raises StoreError; what was put is not put again."""
        while self._late:
            if not self._may_issue():
                self._late.clear()  # who issues no more has no right to write there, nor anything to say
                return
            place = next(iter(self._late))
            late = self._late[place]
            if await self._put(place, late) and self._late.get(place) is late:
                del self._late[place]

    async def _put(self, place: Place, late: _Late) -> bool:
        """Whether there is no more to do. Raises StoreError."""
        at = (self._keys.request(*place), self._keys.signed(*place))
        request, stands = [await self._store.get(key) for key in at]
        record = _record(request, stands, late)
        if record is None:
            return True
        unchanged = [
            Compare(key, mod_revision=item.mod_revision if item is not None else 0)
            for key, item in zip(at, (request, stands), strict=True)
        ]
        put = (await self._store.transact(unchanged, [Put(at[1], encode(record))])).succeeded
        if put:
            log.info("what was signed without etcd is noted there", host=place[0], name=place[1])
        return put


def _record(request: KeyValue | None, stands: KeyValue | None, late: _Late) -> Signed | None:
    """What is to be put; None: nothing."""
    asked, before = _read(Request, request), _read(Signed, stands)
    if before is not None and before.chain and before.at >= late.answer.at:
        return None
    if request is not None and asked is not None and asked.csr == late.csr:
        return msgspec.structs.replace(late.answer, request=request.mod_revision)
    answered = before.request if before is not None else 0
    if request is not None and answered != request.mod_revision:
        return None  # asked for with another key, and not answered yet: it will be, and that is newer
    return msgspec.structs.replace(late.answer, request=answered if request is not None else 0)


def _read(kind: type[R], item: KeyValue | None) -> R | None:
    try:
        return decode(kind, item.value) if item is not None else None
    except Malformed:
        return None
