# SPDX-License-Identifier: GPL-3.0-or-later
"""A stream of bytes cut into messages, within bounds. No I/O."""

from collections.abc import Iterator
from typing import Final

from offsited.edge.bus import wire
from offsited.edge.bus.wire import Kind, Message

MAX_UNASKED: Final = 64 << 10
"""Bytes of the body of a call or a signal that we look at. Everything long has a descriptor to travel by."""


class Framer:
    """Given bytes as they come, gives messages. Of one with an overlong body only the header is kept, the rest passed over."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that these bytes complete; an overlong one as soon as its header is there. Raise MalformedError."""
        self._buffer += data
        while (message := self._next()) is not None:
            yield message

    def _next(self) -> Message | None:
        skipped = min(self._skip, len(self._buffer))
        del self._buffer[:skipped]
        self._skip -= skipped
        if len(self._buffer) < wire.FIXED:
            return None
        head, body = wire.lengths(self._buffer)
        overlong = body > (wire.MAX_MESSAGE if self._buffer[1] in {Kind.RETURN, Kind.ERROR} else MAX_UNASKED)
        end = head if overlong else head + body
        if len(self._buffer) < end:
            return None
        block = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._skip = body if overlong else 0
        return wire.decode_header(block[:head], None if overlong else block[head:])
