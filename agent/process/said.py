"""What is said on WebSockets, bounded where it is read.

Hypercorn compares what a message has with `websocket_max_message_size` after it has kept it, keeps it, and reads on;
and a piece of 64 KiB is unpacked to 64 MiB before anybody is asked. There is no setting for either, so the two classes
that do that are others here, for the whole process.

Law: of a message that is larger nothing is kept, and nothing more is read of its connection.
"""

from __future__ import annotations

import zlib
from contextvars import ContextVar
from typing import Any, Final

from hypercorn.protocol import ws_stream
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason

MOST_SAID_BYTES: Final = 64 * 1024
"""Of a WebSocket, in one message."""


class Said:
    """By one connection."""

    __slots__ = ("too_much",)

    def __init__(self) -> None:
        self.too_much = False


SAID: Final[ContextVar[Said | None]] = ContextVar("said", default=None)
"""Of the connection that is read in this task."""


def _is_too_much() -> None:
    said = SAID.get()
    if said is not None:
        said.too_much = True


class Buffer(ws_stream.WebsocketBuffer):
    """A message, until all of it is there."""

    def extend(self, event: Any) -> None:
        """Raises FrameTooLargeError, with nothing kept."""
        if self.length + len(event.data) > self.max_length:
            self.clear()
            _is_too_much()
            raise ws_stream.FrameTooLargeError
        super().extend(event)


class Deflate(PerMessageDeflate):
    """Unpacks no more of a piece than a message may have."""

    def frame_inbound_payload_data(self, proto: Any, data: Any) -> bytes | CloseReason:
        """As it is said, or why the connection ends."""
        if not self._inbound_compressed or not self._inbound_is_compressible:
            return bytes(data)
        unpacking = self._decompressor
        assert unpacking is not None
        try:
            found = unpacking.decompress(bytes(data), MOST_SAID_BYTES + 1)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        if len(found) > MOST_SAID_BYTES:
            _is_too_much()
            return CloseReason.MESSAGE_TOO_BIG
        return found


def bound_messages() -> None:
    """From here on."""
    ws_stream.WebsocketBuffer = Buffer  # type: ignore[misc]
    ws_stream.PerMessageDeflate = Deflate  # type: ignore[attr-defined]
