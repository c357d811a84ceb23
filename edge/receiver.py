"""Receives WebSocket frames from a viewer (RFC 6455): bytes in, whole messages out. Pure.

Owns one connection's unfinished frame and message: at most 4 KiB of each, nothing while idle.
Refuses what breaks RFC 6455 or RFC 7692, what is too big and what is not text, as early as the
header of a frame where that suffices. `edge.member` feeds it, answers pings, and closes.
"""

import zlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from liveroom.closecodes import Close
from liveroom.wire import CLOSE, MAX_CLIENT_FRAME_BYTES, PING, PONG, TEXT

MAX_FRAGMENTS: Final = 64

_CONTINUATION: Final = 0x0
_BINARY: Final = 0x2
_OPCODES: Final = frozenset((_CONTINUATION, TEXT, _BINARY, CLOSE, PING, PONG))
_CONTROL: Final = 0x8
_OPCODE: Final = 0x0F
_FIN: Final = 0x80
_RSV1: Final = 0x40
_RSV: Final = 0x70
_WHOLE_TEXT: Final = _FIN | TEXT
_MASKED: Final = 0x80
_SIZE_IN_2: Final = 126
_SIZE_IN_8: Final = 127
_HEAD_BYTES: Final = 2
_KEY_BYTES: Final = 4
_MAX_CONTROL_BYTES: Final = 125
_CLOSE_CODE_BYTES: Final = 2
_SYNC_FLUSH: Final = b"\x00\x00\xff\xff"  # a sender removes it (RFC 7692, 7.2.1)
# Codes a peer may send: the registry of RFC 6455, 11.7, without 1004 to 1006 and 1015; 3000 and up
# are free (7.4.2).
_CLOSE_CODES: Final = frozenset((*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)))


class Flaw(StrEnum):
    """What is wrong with a frame or message; also the reason in the close frame."""

    OPCODE = "unknown opcode"
    UNMASKED = "frame not masked"
    RESERVED_BIT = "reserved bit set"
    CONTROL_SIZE = "control frame too long"
    CONTROL_FRAGMENT = "fragmented control frame"
    NOT_CONTINUED = "expected a continuation frame"
    NOTHING_TO_CONTINUE = "unexpected continuation frame"
    CLOSE_SIZE = "close frame too short"
    CLOSE_CODE = "invalid close code"
    DEFLATE = "invalid deflate data"
    BINARY = "text frames only"
    CLOSE_UTF8 = "close reason is not UTF-8"
    UTF8 = "text is not UTF-8"
    SIZE = "message too big"
    FRAGMENTS = "too many fragments"


_CODES: Final = {
    Flaw.BINARY: Close.UNSUPPORTED_DATA,
    Flaw.CLOSE_UTF8: Close.INVALID_TEXT,
    Flaw.UTF8: Close.INVALID_TEXT,
    Flaw.SIZE: Close.TOO_BIG,
    Flaw.FRAGMENTS: Close.TOO_BIG,
}


class Text(msgspec.Struct, frozen=True, gc=False):
    """A whole text message: valid UTF-8, inflated, at most `MAX_CLIENT_FRAME_BYTES`."""

    data: bytes


class Ping(msgspec.Struct, frozen=True, gc=False):
    """A ping: the caller must answer with a pong of the same payload."""

    payload: bytes


class Pong(msgspec.Struct, frozen=True, gc=False):
    """An answer to a ping, or an unsolicited heartbeat."""

    payload: bytes


class Closing(msgspec.Struct, frozen=True, gc=False):
    """A close frame: the caller must answer with one of the same code (None: without a code)."""

    code: int | None
    reason: str


class Fault(msgspec.Struct, frozen=True, gc=False):
    """A violation: the caller must close with this code and reason."""

    code: Close
    reason: Flaw


Event = Text | Ping | Pong | Closing | Fault
_LAST: Final = (Closing, Fault)

_FAULTS: Final = {flaw: Fault(_CODES.get(flaw, Close.PROTOCOL_ERROR), flaw) for flaw in Flaw}


class _Message:
    """A fragmented message so far, as it came; it is inflated once, when it is whole."""

    __slots__ = ("data", "deflated", "fragments")

    def __init__(self, data: bytes, *, deflated: bool) -> None:
        self.data = bytearray(data)
        self.deflated = deflated
        self.fragments = 1


class Receiver:
    """The incoming side of one connection.

    `deflates`: `permessage-deflate` with `client_no_context_takeover` was negotiated. `ended`: a
    `Closing` or a `Fault` was returned, and further bytes are ignored.
    """

    __slots__ = ("_message", "_rest", "deflates", "ended")

    def __init__(self, *, deflates: bool = False) -> None:
        self.deflates = deflates
        self.ended = False
        self._rest = b""
        self._message: _Message | None = None

    def feed(self, data: bytes) -> Sequence[Event]:
        """Return the events that `data` completes, in order.

        A `Closing` or a `Fault` is the last event of a connection.
        """
        if self.ended:
            return ()
        data = self._rest + data
        events: list[Event] = []
        start = 0
        end = len(data)
        while end - start >= _HEAD_BYTES:
            first = data[start]
            size = data[start + 1] - _MASKED
            opcode = first & _OPCODE
            if opcode not in _OPCODES or size < 0:
                events.append(self._fault(Flaw.UNMASKED if size < 0 else Flaw.OPCODE))
                return events
            key = start + _HEAD_BYTES
            if size >= _SIZE_IN_2:
                key += 2 if size == _SIZE_IN_2 else 8
                if key > end:
                    break
                size = int.from_bytes(data[start + _HEAD_BYTES : key], "big")
            flaw = self._check_header(first, opcode, size)
            if flaw is not None:
                events.append(self._fault(flaw))
                return events
            body = key + _KEY_BYTES
            after = body + size
            if after > end:
                break
            payload = _unmask(data[key:body], data[body:after])
            start = after
            event = self._control(opcode, payload) if opcode & _CONTROL else self._data(first, payload)
            if event is not None:
                events.append(event)
                if isinstance(event, _LAST):
                    return events
        self._rest = data[start:]
        return events

    def _check_header(self, first: int, opcode: int, size: int) -> Flaw | None:
        """Return what is wrong with a frame's header, before its payload has come."""
        if first == _WHOLE_TEXT and self._message is None:
            return Flaw.SIZE if size > MAX_CLIENT_FRAME_BYTES else None
        if opcode & _CONTROL:
            if size > _MAX_CONTROL_BYTES:
                return Flaw.CONTROL_SIZE
            if first & _RSV:
                return Flaw.RESERVED_BIT
            return None if first & _FIN else Flaw.CONTROL_FRAGMENT
        return self._check_data_header(first, opcode, size)

    def _check_data_header(self, first: int, opcode: int, size: int) -> Flaw | None:
        """Return what is wrong with a data frame's header, by itself or after earlier frames."""
        message = self._message
        if size + (len(message.data) if message is not None else 0) > MAX_CLIENT_FRAME_BYTES:
            return Flaw.SIZE
        reserved = first & _RSV
        if reserved and (reserved != _RSV1 or not self.deflates or opcode == _CONTINUATION):
            return Flaw.RESERVED_BIT
        if message is None:
            if opcode == _CONTINUATION:
                return Flaw.NOTHING_TO_CONTINUE
            return Flaw.BINARY if opcode == _BINARY else None
        if opcode != _CONTINUATION:
            return Flaw.NOT_CONTINUED
        return Flaw.FRAGMENTS if message.fragments >= MAX_FRAGMENTS else None

    def _control(self, opcode: int, payload: bytes) -> Event:
        if opcode == PING:
            return Ping(payload)
        if opcode == PONG:
            return Pong(payload)
        if not payload:
            return self._end(Closing(None, ""))
        if len(payload) < _CLOSE_CODE_BYTES:
            return self._fault(Flaw.CLOSE_SIZE)
        code = int.from_bytes(payload[:_CLOSE_CODE_BYTES], "big")
        try:
            reason = payload[_CLOSE_CODE_BYTES:].decode()
        except UnicodeDecodeError:
            return self._fault(Flaw.CLOSE_UTF8)
        return self._end(Closing(code, reason)) if code in _CLOSE_CODES else self._fault(Flaw.CLOSE_CODE)

    def _data(self, first: int, payload: bytes) -> Event | None:
        """Take a data frame whose header is good; return its message once that is whole."""
        message = self._message
        if message is not None:
            message.data += payload
            message.fragments += 1
            if not first & _FIN:
                return None
            self._message = None
            payload = bytes(message.data)
            deflated = message.deflated
        else:
            deflated = bool(first & _RSV1)
            if not first & _FIN:
                self._message = _Message(payload, deflated=deflated)
                return None
        text = _inflate(payload) if deflated else payload
        if isinstance(text, Flaw):
            return self._fault(text)
        return Text(text) if _is_utf8(text) else self._fault(Flaw.UTF8)

    def _fault(self, flaw: Flaw) -> Fault:
        self._end(fault := _FAULTS[flaw])
        return fault

    def _end(self, event: Event) -> Event:
        self.ended = True
        self._rest = b""
        self._message = None
        return event


def _unmask(key: bytes, data: bytes) -> bytes:
    """Return the unmasked payload (RFC 6455, 5.3).

    One exclusive or of two big integers is linear, and needs no loop over bytes.
    """
    size = len(data)
    mask = int.from_bytes((key * (size // _KEY_BYTES + 1))[:size], "little")
    return (int.from_bytes(data, "little") ^ mask).to_bytes(size, "little")


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _inflate(data: bytes) -> bytes | Flaw:
    """Return the text of a deflated message (RFC 7692, 7.2.2), or what is wrong with it.

    It inflates to one byte over the limit at most. With that byte to spare, zlib holds back no
    output once it has read all input.
    """
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        text = engine.decompress(data + _SYNC_FLUSH, MAX_CLIENT_FRAME_BYTES + 1)
    except zlib.error:
        return Flaw.DEFLATE
    return Flaw.SIZE if len(text) > MAX_CLIENT_FRAME_BYTES else text
