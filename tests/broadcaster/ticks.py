"""What the tests of rooms share: short uplink records, and a BATCH written and read back by a
viewer and a new owner.
"""

from typing import Any, NamedTuple

import msgspec

from broadcaster.rooms import Packed, Rooms
from liveroom.kinds import Kind
from liveroom.records.broadcast import (
    Anchor,
    Batch,
    BatchNotice,
    BatchParts,
    RoomEntry,
    RoomFlags,
    decode_broadcast,
    encode_batch,
)
from liveroom.records.snapshot import RoomState, decode_room, decode_state, encode_state
from liveroom.records.uplink import Item, Uplink, decode_uplink, encode_uplink
from liveroom.topics import room_hash
from liveroom.wire import Message, Notice, ReceivedBatch, decode_server_frame, payload_text

T0 = 1_700_000_000_000
MINUTE_MS = 60_000
SANCTIONS = (Kind.MUTE, Kind.UNMUTE, Kind.BAN, Kind.UNBAN, Kind.KICK)
BODIES: dict[Kind, dict[str, Any]] = {
    Kind.DANMAKU: {"text": "hi"},
    Kind.GIFT: {"gift": "rose"},
    Kind.LIKE: {"count": 2},
    Kind.RED_PACKET: {"packet": "p-1"},
    Kind.COUPON: {"coupon": "c-1"},
    Kind.GOODS: {"goods": "g-1", "title": "Tea"},
    Kind.ANNOUNCEMENT: {"text": "hi"},
    Kind.CLEAR: {"user": "troll"},
    **{kind: {"user": "troll", "why": "spam"} for kind in SANCTIONS},
}


def item(kind: Kind, **body: Any) -> Item:
    """An item with this body; without one, with one that its kind allows."""
    return Item(kind, msgspec.Raw(msgspec.json.encode(body or BODIES.get(kind, {}))))


def uplink(id_: str, *items: Item | Kind, room: str = "r", user: str = "u", **more: Any) -> Uplink:
    """A record as it comes out of the uplink: it must pass the codec."""
    made = [item(each) if isinstance(each, Kind) else each for each in items] or [item(Kind.DANMAKU)]
    record = Uplink(1, room, id_, user, more.pop("at_ms", T0), made, **more)
    return decode_uplink(room.encode(), encode_uplink(record))


class Tick(NamedTuple):
    """One BATCH, and what viewers read of it: by room."""

    packed: Packed
    value: bytes
    batch: Batch
    entries: dict[str, RoomEntry]
    frames: dict[str, ReceivedBatch]
    notices: list[tuple[BatchNotice, Notice]]

    def messages(self, room: str = "r") -> list[Message]:
        return self.frames[room].messages if room in self.frames else []

    def ids(self, room: str = "r") -> list[str]:
        return [message.id for message in self.messages(room)]

    def numbers(self, room: str = "r") -> list[tuple[int, int]]:
        return [(message.seq, message.rseq) for message in self.messages(room)]


def read(value: bytes) -> Batch:
    batch = decode_broadcast(value)
    assert isinstance(batch, Batch)
    return batch


def tick(rooms: Rooms, now_ms: int = T0) -> Tick:
    """Pack what was taken into a BATCH, and read it; its directory must say what its payloads
    hold.
    """
    packed = rooms.pack("0.7", now_ms)
    parts = packed.rooms, packed.notices, packed.cards
    value = encode_batch(
        BatchParts(
            1,
            bytes(16),
            1,
            Anchor(0, 0, 0),
            7,
            now_ms,
            packed.oldest_ms,
            *parts,
            rooms.clock_ms,
            rooms.balance,
            rooms.allowances(),
        )
    )
    batch = read(value)
    entries: dict[str, RoomEntry] = {}
    frames: dict[str, ReceivedBatch] = {}
    for entry, payload in batch.rooms():
        is_deflated = bool(entry.flags & RoomFlags.DEFLATED)
        frame = _frame(bytes(payload), is_deflated)
        header, messages = frame
        assert header.room not in frames, "a room twice in one batch"
        assert (entry.hash, entry.epoch) == (room_hash(header.room), header.epoch)
        assert (entry.first, entry.last, entry.rseq, entry.skipped) == (*header.seq, header.rseq, header.skipped)
        assert [message.seq for message in messages] == list(range(entry.first, entry.last + 1))
        assert entry.messages == len(messages)
        reliable = [message for message in messages if message.rseq]
        assert bool(entry.reliable_size) == bool(reliable)
        if reliable:
            assert _frame(bytes(payload[: entry.reliable_size]), is_deflated).messages == reliable
            assert reliable[-1].rseq == entry.rseq
        entries[header.room], frames[header.room] = entry, frame
    notices = [(notice, _notice(notice.text)) for notice in batch.notices()]
    return Tick(packed, value, batch, entries, frames, notices)


def _frame(payload: bytes, is_deflated: bool) -> ReceivedBatch:
    frame = decode_server_frame(payload_text(payload, deflated=is_deflated))
    assert isinstance(frame, ReceivedBatch)
    return frame


def _notice(text: bytes) -> Notice:
    frame = decode_server_frame(text)
    assert isinstance(frame, Notice)
    return frame


def snapshot(rooms: Rooms) -> list[bytes]:
    """Write a snapshot as an owner does: in steps, then in chunks."""
    while not rooms.store(2):
        pass
    return encode_state(rooms.snapshot(), 300)


def loaded(chunks: list[bytes], **settings: Any) -> Rooms:
    return Rooms(decode_state(chunks), **settings)


def states(rooms: Rooms) -> dict[str, RoomState]:
    """What a snapshot written now would hold of each room."""
    state = decode_state(snapshot(rooms))
    return {stored.room: decode_room(stored) for stored in state.rooms}
