"""One record of every type with the bytes it must be: kept in tests/data/golden, checked by
test_records.

`python -m tests.liveroom.golden` writes the files again. Do that only when a format changes on
purpose, with a new version from the first release on (docs/records.md).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from liveroom.kinds import Kind, RecordType, Role
from liveroom.records import broadcast, codec
from liveroom.records import uplink as uplink_records
from liveroom.records.balance import Balance
from liveroom.records.broadcast import (
    Anchor,
    CardEntry,
    Claim,
    NoticeEntry,
    RoomEntry,
    RoomFlags,
    SnapshotChunk,
    Stamp,
)
from liveroom.records.codec import JsonReader
from liveroom.records.control import Audit, GatewayState, Limits, LoadReport, Moderation, Order, OrderKind, Presence, RuleKind
from liveroom.records.snapshot import (
    PartitionState,
    RoomSettings,
    RoomState,
    Seen,
    StoredRoom,
    Tombstone,
    decode_state,
    encode_state,
    pack_room,
    unpack_room,
)
from liveroom.records.uplink import DeadLetter, Item, Uplink
from liveroom.topics import room_hash

FOLDER: Final = Path(__file__).parents[1] / "data" / "golden"
OWNER: Final = bytes(range(16))
ANCHOR: Final = Anchor(uplink_next=42, claim_offset=7, snapshot_offset=None)
AT_MS: Final = 1_700_000_000_000


class Golden(NamedTuple):
    """One file: the record it holds, and how it is read."""

    file: str
    value: bytes
    record: Any
    read: Callable[[bytes], Any]


BALANCE: Final = Balance(taken=21, numbered=6, folded=5, noticed=4, skipped=3, duplicate=2, dead_lettered=1)


def uplink(**changed: Any) -> Uplink:
    """Return a record of `uplink`."""
    fields: dict[str, Any] = {
        "v": 1,
        "room": "room-1",
        "id": "a1",
        "user": "u1",
        "at_ms": AT_MS,
        "items": [Item(Kind.DANMAKU, msgspec.Raw('{"text":"弹幕 😀"}'.encode()))],
    }
    return Uplink(**fields | changed)


def _package() -> Uplink:
    items = [
        Item(Kind.GIFT, msgspec.Raw(b'{"gift":"rose","count":9}')),
        Item(Kind.LIKE, msgspec.Raw(b'{"count":3}')),
        Item(Kind.DANMAKU, msgspec.Raw(b'{"text":"hi"}')),
    ]
    return uplink(id="p1", items=items, name="Ann", role=Role.MODERATOR, level=7, package="order-5", via="gift-service")


def batch() -> bytes:
    """Return a BATCH of two rooms, a notice and a card."""
    return broadcast.encode_batch(
        broadcast.BatchParts(
            epoch=3,
            owner=OWNER,
            serial=12,
            anchor=ANCHOR,
            pos=99,
            at_ms=AT_MS + 50,
            oldest_ms=AT_MS,
            rooms=[
                (RoomEntry(room_hash("room-1"), 5, 6, 4, 2, 1, 8, 4, 77, RoomFlags(0)), b"head\ntail"[:8]),
                (
                    RoomEntry(room_hash("room-2"), 9, 8, 0, 0, 0, 3, 0, 77, RoomFlags.DEFLATED | RoomFlags.CLEAR),
                    b"\x00\xff\x01",
                ),
            ],
            notices=[(NoticeEntry(room_hash("room-1"), room_hash("u1"), 13), b'{"t":"notice"')],
            cards=[(CardEntry(room_hash("room-2"), 2), b"{}")],
            clock_ms=AT_MS + 7,
            balance=BALANCE,
            allowances={room_hash("room-1"): 7},
        )
    )


def snapshot() -> SnapshotChunk:
    """Return one chunk of a snapshot."""
    return SnapshotChunk(Stamp(RecordType.SNAPSHOT, 3, OWNER, 12), ANCHOR, AT_MS, 12, 0, 1, b"chunk")


def room() -> RoomState:
    """Return a room's state with every field in use."""
    return RoomState(
        room="room-1",
        epoch=77,
        seq=6,
        rseq=4,
        likes=30,
        settings=RoomSettings(slow_s=2.5, muted_all=True, allow=["u1"], limit_per_s=500),
        announcement=b'{"seq":1}',
        tombstones=[Tombstone(5, 3, ["a0"], "u9")],
        seen=[Seen("u1", "a1", AT_MS)],
        recent=[b'{"seq":6}'],
        recent_reliable=[b'{"seq":4}'],
        last_ms=AT_MS,
    )


def state() -> PartitionState:
    """Return a partition's state with every field in use; its room is packed by a stand-in, for
    zlib's bytes differ.
    """
    return PartitionState(BALANCE, AT_MS, [StoredRoom("room-1", AT_MS, b"packed")])


def _load_report() -> LoadReport:
    return LoadReport(
        v=1,
        gateway="edge-1",
        generation=AT_MS,
        state=GatewayState.SERVING,
        at_ms=AT_MS,
        url="wss://edge-1.example/v1/live",
        host="edge-1.example",
        ip="192.0.2.1",
        port=443,
        zone="a",
        limits=Limits(connections=2000),
        connections=12,
        users=11,
        rooms=2,
        cpu=0.25,
    )


def _json(file: str, record: codec.JsonRecord) -> Golden:
    return Golden(file, codec.encode_json(record), record, JsonReader(type(record)).read)


def _uplink(file: str, record: Uplink) -> Golden:
    return Golden(
        file, uplink_records.encode_uplink(record), record, lambda value: uplink_records.decode_uplink(b"room-1", value)
    )


CLAIM: Final = Claim(3, OWNER, AT_MS, "broadcaster-1")

# The batch is compared by its bytes: what `decode_broadcast` gives is views of them. A room is not
# compressed: zlib's bytes differ between its builds.
ALL: Final = (
    _uplink("uplink.json", uplink()),
    _uplink("uplink-package.json", _package()),
    Golden("claim.bin", broadcast.encode_claim(CLAIM), CLAIM, broadcast.decode_broadcast),
    Golden("batch.bin", batch(), broadcast.decode_broadcast(batch()), broadcast.decode_broadcast),
    Golden("snapshot.bin", broadcast.encode_snapshot_chunk(snapshot()), snapshot(), broadcast.decode_broadcast),
    Golden("state.bin", encode_state(state())[0], state(), lambda value: decode_state([value])),
    _json("presence.json", Presence(1, "room-1", "edge-1", AT_MS, 11, 12, AT_MS)),
    _json("load-report.json", _load_report()),
    _json("order.json", Order(1, "edge-1", AT_MS, OrderKind.SHED, AT_MS, "hot", 50.0)),
    _json("moderation-mode.json", Moderation(1, "room-1", AT_MS, RuleKind.MODE, "slow_s", "u1", id="m1", value=5.0)),
    _json("moderation-mute.json", Moderation(1, "room-1", AT_MS, RuleKind.MUTE, "u9", "u1", "spam", "m2", until_ms=-1)),
    _json("moderation-word.json", Moderation(1, "*", AT_MS, RuleKind.WORD, "spam", "op", id="m3", value="mask")),
    _json("audit.json", Audit(1, AT_MS, "room-1", "u1", Role.MODERATOR, "mute", "u9", "spam", "m1")),
    _json("dead-letter.json", DeadLetter(1, "uplink", 3, 42, "schema", "Expected `int`", AT_MS, b"room-1", b"\xff{")),
    Golden("room.bin", pack_room(room()), room(), unpack_room),
)


def write() -> None:
    """Write every file again."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for golden in ALL:
        (FOLDER / golden.file).write_bytes(golden.value)
        print(f"wrote {golden.file}: {len(golden.value)} bytes")


if __name__ == "__main__":
    write()
