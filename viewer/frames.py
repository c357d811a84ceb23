"""The client's side of WebSocket for load generators: upgrade, masked frames, a reader. Pure.

Just enough for a gateway of ours: it checks nothing that a gateway sends. Called by `viewer.load`
and `viewer.sink`.
"""

import sys
from typing import Final

from liveroom.wire import SUBPROTOCOL, TEXT

_MASK_BIT: Final = 0x80
_LEN_16: Final = 126
_LEN_64: Final = 127
_KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="


def upgrade(host: str, path: str, *, key: str = _KEY, deflate: bool = False) -> bytes:
    """Return an upgrade request. `deflate` offers compression, as browsers do."""
    extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if deflate else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n{extension}\r\n"
    ).encode()


def masked(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return a frame of up to 65,535 bytes, masked with zeros: it hides nothing from a test."""
    size = len(payload)
    length = bytes((_MASK_BIT | size,)) if size < _LEN_16 else bytes((_MASK_BIT | _LEN_16,)) + size.to_bytes(2, "big")
    return bytes((0x80 | opcode,)) + length + b"\0\0\0\0" + payload


class FrameReader:
    """Cuts a gateway's byte stream into frames, unmasked and unfragmented as our edge's are."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the (opcode, payload) of every frame that is now complete."""
        buffer = self._buffer + data if self._buffer else data
        frames: list[tuple[int, bytes]] = []
        at, size = 0, len(buffer)
        while size - at >= 2:  # noqa: PLR2004 - a frame's shortest head
            length, start = buffer[at + 1] & 0x7F, at + 2
            if length == _LEN_16:
                start = at + 4
                length = int.from_bytes(buffer[at + 2 : start], "big") if size >= start else sys.maxsize
            elif length == _LEN_64:
                start = at + 10
                length = int.from_bytes(buffer[at + 2 : start], "big") if size >= start else sys.maxsize
            if size - start < length:
                break
            frames.append((buffer[at] & 0x0F, buffer[start : start + length]))
            at = start + length
        self._buffer = buffer[at:]
        return frames
