"""The baseline of the broadcaster: decode, number, encode and deflate, and nothing else.

Takes the values of uplink records as they lie in memory, cut where the broadcaster cut its batches,
and makes BATCH records of them with what no broadcaster can do without: JSON decoded by the public
schema (ids match their patterns), a number and a line each, a header, zlib and a directory entry
for each room. Not in it: Kafka's client at both ends, what the schema cannot say (UTF-8 within
bodies, keys, line breaks), duplicates, packages, reliable kinds, likes, thinning, cards, snapshots,
the balance, who rules, metrics. Each room's part is the broadcaster's own to the byte
(`test_barebatches`).
"""

import struct
import zlib
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Annotated

import msgspec

from liveroom.kinds import Kind, Role
from liveroom.records.codec import ItemId, Millis, Name, PackageId, RoomId, UserId
from liveroom.records.uplink import Item
from liveroom.wire import DEFLATE_FROM, DEFLATE_LEVEL

_HEAD = struct.Struct("<2sBBQ16sQqqqqqqqH")
_SECTION = struct.Struct("<HI")
_SECTIONS = 0x8001, 0x8002, 0xC005
_ENTRY = struct.Struct("<QQQQIIIIII")


class _Uplink(msgspec.Struct, frozen=True, gc=False):
    """The public schema as it is written: each id with its pattern."""

    v: int
    room: RoomId
    id: ItemId
    user: UserId
    at_ms: Millis
    items: Annotated[list[Item], msgspec.Meta(min_length=1, max_length=64)]
    name: Name = ""
    role: Role = Role.VIEWER
    level: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    package: PackageId = ""
    via: str = ""


class _Line(msgspec.Struct, omit_defaults=True, gc=False):
    seq: int
    kind: Kind
    id: str
    user: str
    at: int
    name: str = ""
    role: Role = Role.VIEWER
    level: int = 0
    package: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


class _Header(msgspec.Struct, omit_defaults=True, tag_field="t", tag="batch", gc=False):
    room: str
    epoch: int
    seq: tuple[int, int]
    rseq: int
    at: int
    pos: str = ""


class _Room:
    """How far a room's numbers have come, and its lines for the next batch."""

    __slots__ = ("hash", "lines", "name", "seq")

    def __init__(self, name: str) -> None:
        self.name = name
        self.hash = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
        self.seq = 0
        self.lines: list[bytes] = []


class BareBatches:
    """The rooms of one partition, numbered from 1 on."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._rooms: dict[str, _Room] = {}
        self._decode: Callable[[bytes], _Uplink] = msgspec.json.Decoder(_Uplink).decode
        self._encode: Callable[[object], bytes] = msgspec.json.Encoder().encode
        self._pack: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode

    def batch(self, values: Iterable[bytes], pos: str, at_ms: int) -> bytes:
        """Return the BATCH record of these uplink records, all of best-effort kinds."""
        decode, encode, rooms = self._decode, self._encode, self._rooms
        waiting: dict[str, _Room] = {}
        taken = 0
        for value in values:
            record = decode(value)
            name = record.room
            room = waiting.get(name)
            if room is None:
                room = waiting[name] = rooms.get(name) or _Room(name)
            for item in record.items:
                taken += 1
                room.seq += 1
                room.lines.append(
                    encode(
                        _Line(
                            room.seq,
                            item.kind,
                            record.id,
                            record.user,
                            record.at_ms,
                            record.name,
                            record.role,
                            record.level,
                            record.package,
                            item.data,
                        )
                    )
                )
        entries, payloads = [], []
        for name, room in waiting.items():
            rooms[name] = room
            lines, room.lines = room.lines, []
            first = room.seq - len(lines) + 1
            header = encode(_Header(name, self._epoch, (first, room.seq), 0, at_ms, pos))
            payload = b"%b\n%b" % (header, b"\n".join(lines))
            flags = 0
            if len(payload) >= DEFLATE_FROM:
                deflate = zlib.compressobj(DEFLATE_LEVEL, zlib.DEFLATED, -15, 9)
                payload = (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
                flags = 1
            entries.append(_ENTRY.pack(room.hash, first, room.seq, 0, len(lines), 0, len(payload), 0, self._epoch, flags))
            payloads.append(payload)
        balance = self._pack({0: taken, 1: taken})
        sizes = len(entries) * _ENTRY.size, sum(map(len, payloads)), len(balance)
        table = [_SECTION.pack(type_, size) for type_, size in zip(_SECTIONS, sizes, strict=True)]
        head = _HEAD.pack(b"LR", 1, 2, self._epoch, bytes(16), 1, 0, 0, -1, 0, at_ms, 0, at_ms, len(table))
        return b"".join((head, *table, *entries, *payloads, balance))
