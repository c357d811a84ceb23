"""Danmaku in Bilibili's protobuf format, the segments that its players fetch. Pure.

Owns the parsing of a DmSegMobileReply: field 1, repeated, is a danmaku with its id (1), progress in
milliseconds (2), mode (3), font size (4), colour (5), sender (6) and text (7). Other fields are
passed over. Segments that are written behind each other are one message. The file is not trusted:
a length that is beyond the end, or a field of another type, costs at most the rest of its message.
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Final

from cli.danmaku.lines import USUAL_SIZE, DanmakuFile, Flaw, Lines

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES: Final = 10
_LOOKED_AT: Final = 20
_ELEMENT: Final = 1
_PROGRESS, _MODE, _SIZE, _COLOR, _SENDER, _TEXT = 2, 3, 4, 5, 6, 7
_TYPES: Final = {
    1: _VARINT,
    _PROGRESS: _VARINT,
    _MODE: _VARINT,
    _SIZE: _VARINT,
    _COLOR: _VARINT,
    _SENDER: _BYTES,
    _TEXT: _BYTES,
}

_Value = int | bytes


class _BrokenError(Exception):
    """Bytes that are no message, or not a whole one."""


def is_segment(content: bytes) -> bool:
    """Return whether a file begins with danmaku of a segment.

    A line break is the same byte as the first of a segment, so a text can begin like one: one of
    the first danmaku must have a text.
    """
    with suppress(_BrokenError):
        for number, value in islice(_fields(content), _LOOKED_AT):
            if number != _ELEMENT or not isinstance(value, bytes):
                return False
            if _TEXT in _element(value):
                return True
    return False


def read_segment(content: bytes) -> DanmakuFile:
    """Read a file's bytes. What follows a broken place between two danmaku is not used."""
    lines = Lines()
    try:
        for number, value in _fields(content):
            if number == _ELEMENT and isinstance(value, bytes):
                _add(lines, value)
    except _BrokenError:
        return lines.file(is_cut_off=True)
    return lines.file()


def _add(lines: Lines, message: bytes) -> None:
    try:
        found = _element(message)
        text, sender = _text(found.get(_TEXT)), _text(found.get(_SENDER))
    except (_BrokenError, UnicodeDecodeError):
        lines.skip(Flaw.BROKEN)
        return
    progress, mode = _number(found.get(_PROGRESS)), _number(found.get(_MODE))
    size, color = _number(found.get(_SIZE, USUAL_SIZE)), _number(found.get(_COLOR))
    lines.add(progress / 1000, mode, text, size=size, color=color, sender=sender)


def _element(message: bytes) -> dict[int, _Value]:
    """Return the known fields of a danmaku by number; raise _BrokenError where it is none."""
    found: dict[int, _Value] = {}
    for number, value in _fields(message):
        if number not in _TYPES:
            continue
        if isinstance(value, bytes) is not (_TYPES[number] == _BYTES):
            raise _BrokenError
        found[number] = value
    return found


def _text(value: _Value | None) -> str:
    return value.decode() if isinstance(value, bytes) else ""


def _number(value: _Value | None) -> int:
    """Return a number of 32 bits with its sign; 0 where there is none, as protobuf has it."""
    number = value if isinstance(value, int) else 0
    return number - (1 << 64) if number >> 63 else number


def _fields(message: bytes) -> Iterator[tuple[int, _Value]]:
    """Yield the number and value of each field; raise _BrokenError where bytes are none."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, place = _varint(message, place)
        elif kind in {_FIXED64, _FIXED32}:
            size = 8 if kind == _FIXED64 else 4
        else:
            raise _BrokenError
        if size > len(message) - place:
            raise _BrokenError
        yield tag >> 3, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return a varint and the place behind it; raise _BrokenError where there is none."""
    value = 0
    for count in range(_MAX_VARINT_BYTES):
        if place + count >= len(message):
            raise _BrokenError
        byte = message[place + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:  # noqa: PLR2004 - the last one
            return value & (1 << 64) - 1, place + count + 1
    raise _BrokenError
