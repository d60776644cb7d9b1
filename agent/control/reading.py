"""Documents are read before they are folded into the table, and not on control's loop.

Laws
- Reading a document is work of its author's choosing. Each is bounded by what stands in it (`work`), but there
  may be a thousand, and a start reads all of them: it is done in a thread, one after the other, and the loop goes on.
- Nothing is in force before everything of its revision has been read: `Table.apply` is one call, as it was.
- No document is refused for the time that it took. A slow host would refuse what the others enforce.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import msgspec
import trio

from policies.catalogue import parse
from policies.language.document import Document, Invalid
from policies.language.plain import Flaw, load
from registry.keys import Keys, Room, Unknown
from registry.store import Change


class Read(NamedTuple):
    """What stands in a value."""

    document: Document | Invalid
    text: bytes
    """As JSON, so that workers do not parse YAML again for each service that it covers."""


Put: TypeAlias = tuple[str, str, bytes]
"""A kind, a pattern, and the value that is put there."""


def read(kind: str, pattern: str, value: bytes) -> Read:
    """Here and now."""
    return Read(parse(kind, pattern, value), _as_json(value))


async def read_ahead(keys: Keys, changes: Iterable[Change]) -> dict[Put, Read]:
    """The documents in some changes."""
    found: dict[Put, Read] = {}
    for change in changes:
        key = keys.parse(change.key)
        if isinstance(key, Unknown) or key.room is not Room.POLICIES or change.value is None:
            continue
        put = key.first, key.second, change.value
        if put not in found:
            found[put] = await trio.to_thread.run_sync(read, *put, abandon_on_cancel=True)
    return found


def _as_json(text: bytes) -> bytes:
    """A valid document as JSON; what is JSON already stays as it was written."""
    if text.lstrip()[:1] == b"{":
        return text
    try:
        return msgspec.json.encode(load(text))
    except Flaw:
        return text
