"""Documents are read before they are folded into the table, and not on control's loop.

Laws
- Reading a document is work of its author's choosing. Each is bounded by what stands in it (`work`), but there
  may be a thousand, and a start reads all of them: it is done in a thread, one after the other, and the loop goes on.
  One that is short cannot ask for much: the way to a thread and back would take longer.
- Nothing is in force before everything of its revision has been read: `Table.apply` is one call, as it was.
- No document is refused for the time that it took. A slow host would refuse what the others enforce. (Of Rego, which a
  library compiles that knows no bounds, the processor time is bounded; workers allow three times as much.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple, TypeAlias

import trio

from agent.rego.proving import prove
from agent.rego.together import Changed, Stands, ahead
from policies.catalogue import parse
from policies.language.document import Document, Invalid
from policies.language.plain import as_json
from registry.keys import Key, Keys, Room, Unknown
from registry.records import LastGood, Malformed, decode
from registry.store import Change

SHORT_BYTES: Final = 512
"""The worst that was found in as many bytes, one whose errors have to be explained, takes 5 ms."""


NOTHING: Final = Stands()


class Read(NamedTuple):
    """What stands in a value."""

    document: Document | Invalid
    text: bytes
    """As JSON, so that workers do not parse YAML again for each service that it covers."""


Put: TypeAlias = tuple[str, str, bytes]
"""A kind, a pattern, and the value that is put there."""


def read(kind: str, pattern: str, value: bytes) -> Read:
    """Here and now; a document with Rego waits for a process that compiles it."""
    return Read(prove(kind, pattern, parse(kind, pattern, value)), as_json(value))


async def read_ahead(keys: Keys, changes: Iterable[Change], stands: Stands = NOTHING) -> dict[Put, Read]:
    """The documents in some changes; of those in `last_good/` the ones that stand in for a refused one. And what is
    put together of them, and of what `stands`."""
    found: dict[Put, Read] = {}
    parsed: list[tuple[Key, Change]] = [
        (key, change) for change in changes if not isinstance(key := keys.parse(change.key), Unknown)
    ]
    refused = set()
    for key, change in parsed:
        if key.room in (Room.POLICIES, Room.AUDITS) and change.value is not None:
            put = key.first, key.second, change.value
            await _read_into(found, put)
            if key.room is Room.POLICIES and isinstance(found[put].document, Invalid):
                refused.add(put[:2])
    for key, change in parsed:
        if key.room is Room.LAST_GOOD and change.value is not None and (key.first, key.second) in refused:
            try:
                document = decode(LastGood, change.value).document.encode()
            except Malformed:
                continue  # whoever takes it says so
            await _read_into(found, (key.first, key.second, document))
    for put in ahead(_puts(parsed, found), stands):
        await _read_into(found, put)
    return found


def _puts(parsed: Iterable[tuple[Key, Change]], found: Mapping[Put, Read]) -> Iterator[Changed]:
    for key, change in parsed:
        if key.room not in (Room.POLICIES, Room.AUDITS):
            continue
        room = int(key.room is Room.AUDITS)
        if change.value is None:
            yield Changed(room, key.first, key.second, change, None)
        else:
            document, text = found[key.first, key.second, change.value]
            yield Changed(room, key.first, key.second, change, document, text)


async def _read_into(found: dict[Put, Read], put: Put) -> None:
    if put in found:
        return
    if len(put[2]) <= SHORT_BYTES and b"rego" not in put[2]:
        found[put] = read(*put)
        await trio.lowlevel.checkpoint()  # a thousand short ones let others in between
    else:
        found[put] = await trio.to_thread.run_sync(read, *put, abandon_on_cancel=True)
