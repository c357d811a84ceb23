"""One record of every format with the bytes that it must be, and what those bytes mean.

`python -m tests.liveroom.golden` writes the folder `tests/data/golden/next` again. Do that only
when a format changes on purpose (docs/compatibility.md), and look at the difference.
`python -m tests.liveroom.golden --tag v1.2.3` freezes the bytes as those of a release. It does so
once: the folder of a tag never changes again, and every later version reads it.

Beside each file lies another one whose name ends in ".meaning.json": the record as its reader
returned it. So later readers are held to the meaning, and may only add to it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from liveroom import __version__, tickets, wire
from liveroom.kinds import Kind, RecordType, Role
from liveroom.records import broadcast, codec
from liveroom.records import uplink as uplink_records
from liveroom.records.balance import Balance
from liveroom.records.broadcast import (
    Anchor,
    Batch,
    CardEntry,
    Claim,
    NoticeEntry,
    RoomEntry,
    RoomFlags,
    SnapshotChunk,
    Stamp,
)
from liveroom.records.codec import JsonReader
from liveroom.records.control import (
    DECISION,
    Audit,
    Decided,
    GatewayState,
    Limits,
    LoadReport,
    Moderation,
    Order,
    OrderKind,
    Presence,
    RuleKind,
    record_of,
)
from liveroom.records.revocations import (
    ConnectionOrder,
    ConnectionOrderKind,
    ConnectionReport,
    Revocation,
    UserConnection,
)
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
from liveroom.ticket_keys import SEED_BYTES, make_private_key, read_public_keys, write_public_keys
from liveroom.topics import room_hash
from liveroom.user_lists import pack

ROOT: Final = Path(__file__).parents[1] / "data" / "golden"
NEXT: Final = "next"
FOLDER: Final = ROOT / NEXT
SUMS: Final = "SHA256SUMS"
MEANING: Final = ".meaning.json"
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
        seen=[Seen("u1", "a1", AT_MS, 7)],
        recent=[b'{"seq":6}'],
        recent_reliable=[b'{"seq":4}'],
        last_ms=AT_MS,
    )


def state() -> PartitionState:
    """Return a partition's state with every field in use; its room is packed by a stand-in, for
    zlib's bytes differ.
    """
    stored = StoredRoom("room-1", AT_MS, b"packed", epoch=28_333_333, is_chatter=True)
    return PartitionState(BALANCE, AT_MS, [stored], epoch_floor=28_333_334)


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


def _host() -> Moderation:
    until_ms, role = AT_MS + 60_000, Role.STREAMER
    rule = Moderation(1, "room-1", AT_MS, RuleKind.HOST, "u1", "u1", until_ms=until_ms, value=role.value, by_role=role)
    return record_of(rule)


def _mode_of_a_later_version() -> Moderation:
    rule = Moderation(1, "room-1", AT_MS, RuleKind.MODE, "guests", "u1", id="m4", value=False, by_role=Role.STREAMER, repeats=7)
    return record_of(rule)


def _decision() -> Order:
    decided = Decided(AT_MS, "autoscaler-1", 4, 2, 3, "operator", "2 run", ("edge-1",), done=True)
    return Order(1, DECISION, 0, OrderKind.RESUME, AT_MS, "", by="op", least=4, until_ms=AT_MS, decided=decided)


def _presence(**users: Any) -> Presence:
    return Presence(1, "room-1", "edge-1", AT_MS, 11, 12, AT_MS, devices=11, serial=4, **users)


def _user_connection() -> UserConnection:
    return UserConnection(Role.VIEWER, "websocket", ("room-1",), "phone-1", AT_MS // 1000)


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
    _json("presence.json", _presence(came=pack([5, 2**64 - 1]), left=pack([7]))),
    _json("load-report.json", _load_report()),
    _json("order.json", Order(1, "edge-1", AT_MS, OrderKind.SHED, AT_MS, "hot", 50.0)),
    _json("moderation-mode.json", Moderation(1, "room-1", AT_MS, RuleKind.MODE, "slow_s", "u1", id="m1", value=5.0)),
    _json("moderation-mute.json", Moderation(1, "room-1", AT_MS, RuleKind.MUTE, "u9", "u1", "spam", "m2", until_ms=-1)),
    _json("moderation-host.json", _host()),
    _json("moderation-later-mode.json", _mode_of_a_later_version()),
    _json("moderation-word.json", Moderation(1, "*", AT_MS, RuleKind.WORD, "spam", "op", id="m3", value="mask")),
    _json("audit.json", Audit(1, AT_MS, "room-1", "u1", Role.MODERATOR, "mute", "u9", "spam", "m1")),
    _json("dead-letter.json", DeadLetter(1, "uplink", 3, 42, "schema", "Expected `int`", AT_MS, b"room-1", b"\xff{")),
    Golden("room.bin", pack_room(room()), room(), unpack_room),
    _json("revocation.json", Revocation(1, "r1", AT_MS, AT_MS // 1000, AT_MS + 60_000, "u9", "phone-1", "op", "stolen")),
    _json("connection-order.json", ConnectionOrder(1, "c1", AT_MS, "u9", ConnectionOrderKind.END)),
    _json("connection-report.json", ConnectionReport(1, "c1", "edge-1", AT_MS, AT_MS, 1, (_user_connection(),))),
    _json("presence-list.json", _presence(came=pack([2**63]), part=1, parts=2)),
    _json("order-decision.json", _decision()),
)


# ---- what viewers and gateways exchange
CARD: Final = wire.Card(
    77, 6, 4, 30, 11, 12, msgspec.Raw(b'{"slow_s":2.5}'), msgspec.Raw(b"null"), [msgspec.Raw(b'{"seq":6}')], [], []
)
MESSAGE: Final = wire.Message(
    5, Kind.GIFT, "a1", "u1", AT_MS, 4, "Ann", Role.MODERATOR, 7, 1, "order-5", msgspec.Raw(b'{"gift":"rose","count":9}')
)
HEADER: Final = wire.BatchHeader("room-1", 77, (5, 6), 4, AT_MS, "3.99", 1, 30, (11, 12))
SERVER_FRAMES: Final[dict[str, wire.ServerFrame]] = {
    "hello": wire.Hello("edge-1", AT_MS, 20.0, 25.0, "u1", "q83vEjRWeJ0kTrpc"),
    "joined": wire.Joined("room-1", 77, 6, 4, "3.99", card=CARD),
    "joined-resumed": wire.Joined("room-1", 77, 6, 4, "3.99", resumed=True),
    "card": wire.Carded("room-1", CARD),
    "left": wire.Left("room-1"),
    "notice": wire.Notice("room-1", Kind.MUTE, "m2", AT_MS, -1, "spam"),
    "move": wire.Move("drain", 1.5),
    "error": wire.Error("banned", "until tomorrow", "room-1"),
    "server-hb": wire.Beat(AT_MS),
}
CLIENT_FRAMES: Final[dict[str, wire.ClientFrame]] = {
    "join": wire.Join("room-1"),
    "join-resuming": wire.Join("room-1", 77, 6, 4),
    "leave": wire.Leave("room-1"),
    "client-hb": wire.Heartbeat(),
}
TICKET: Final = tickets.Ticket(
    tickets.ENTRY,
    tickets.User(
        "u1",
        Role.MODERATOR,
        7,
        "Ann",
        ("room-1",),
        follower=True,
        subscriber=True,
        device="phone-1",
        issued_s=AT_MS // 1000,
        names_rooms=True,
    ),
    AT_MS + 60_000,
    "n0",
    (("edge-1", AT_MS), ("edge-2", 5)),
)
TICKET_KEY: Final = make_private_key("k1", b"k" * SEED_BYTES)
# Version 1, as every version before 0.2 writes it, has a secret of the same bytes.
TICKET_KEYS: Final = {
    **tickets.hmac_keys({"k1": b"k" * 32}),
    **read_public_keys(write_public_keys([TICKET_KEY])),
}


def _batch_frame() -> bytes:
    other = wire.Message(6, Kind.DANMAKU, "a2", "u2", AT_MS, n=3, data=msgspec.Raw('{"text":"弹幕 😀"}'.encode()))
    packed = wire.pack_payload(HEADER, [wire.encode_message(MESSAGE)], [wire.encode_message(other)])
    return wire.payload_text(packed.data, deflated=packed.deflated)


def _pulled() -> bytes:
    return wire.encode_frame(wire.Pulled("room-1", 77, 6, 4, "3.99", True, True, [msgspec.Raw(wire.encode_message(MESSAGE))]))


def _read_ticket(text: bytes) -> tickets.Ticket:
    return tickets.verify(text.decode(), TICKET_KEYS, tickets.ENTRY, ("edge-2", 5), AT_MS)


def _frame(name: str, value: bytes, read: Callable[[bytes], Any]) -> Golden:
    return Golden(f"frame-{name}.json", value, read(value), read)


OF_VIEWERS: Final = (
    *(_frame(name, wire.encode_frame(frame), wire.decode_server_frame) for name, frame in SERVER_FRAMES.items()),
    *(_frame(name, wire.encode_frame(frame), wire.decode_client_frame) for name, frame in CLIENT_FRAMES.items()),
    Golden("frame-batch.jsonl", _batch_frame(), wire.decode_server_frame(_batch_frame()), wire.decode_server_frame),
    _frame("pulled", _pulled(), wire.decode_pulled),
    Golden("ticket.txt", tickets.sign(TICKET, TICKET_KEY.signer()).encode(), TICKET, _read_ticket),
)
EVERY: Final = (*ALL, *OF_VIEWERS)
# By file, of every tag: a format that is written no longer keeps its reader here.
READERS: Final[Mapping[str, Callable[[bytes], Any]]] = {sample.file: sample.read for sample in EVERY}
SAMPLES: Final = {sample.file: sample for sample in EVERY}


# ---- what a record means
def meaning(record: Any) -> Any:
    """Return what a reader returned as JSON values.

    The version is left out, because a later reader may convert the record to its own.
    """
    match record:
        case Batch():
            return _meaning_of_batch(record)
        case Enum():
            return meaning(record.value)
        case msgspec.Raw():
            return json.loads(bytes(record))
        case msgspec.Struct():
            tag = record.__struct_config__.tag
            fields = {name: meaning(value) for name, value in msgspec.structs.asdict(record).items() if name != "v"}
            return fields if tag is None else {"t": tag} | fields
        case tuple() if hasattr(record, "_asdict"):
            return {name: meaning(value) for name, value in record._asdict().items()}
        case bytes() | bytearray() | memoryview():
            return {"hex": bytes(record).hex()}
        case Mapping():
            return {str(meaning(key)): meaning(value) for key, value in record.items()}
        case list() | tuple():
            return [meaning(value) for value in record]
    return record


def _meaning_of_batch(batch: Batch) -> Any:
    names = ("stamp", "anchor", "pos", "at_ms", "oldest_ms", "clock_ms", "balance", "allowances")
    listed = {"rooms": list(batch.rooms()), "notices": list(batch.notices()), "cards": list(batch.cards())}
    return {name: meaning(getattr(batch, name)) for name in names} | meaning(listed)


def is_kept(kept: Any, found: Any) -> bool:
    """Return whether `found` means at least what `kept` meant: fields may have been added."""
    if isinstance(kept, dict) and isinstance(found, dict):
        return all(name in found and is_kept(value, found[name]) for name, value in kept.items())
    if isinstance(kept, list) and isinstance(found, list):
        return len(kept) == len(found) and all(map(is_kept, kept, found))
    return bool(kept == found)


# ---- files
class FrozenError(Exception):
    """A tag's folder must not be written: the message says why."""


def files() -> dict[str, bytes]:
    """Return the content of every file by its name."""
    found = {sample.file: sample.value for sample in EVERY}
    for sample in EVERY:
        text = json.dumps(meaning(sample.read(sample.value)), indent=1, ensure_ascii=False)
        found[sample.file + MEANING] = text.encode() + b"\n"
    return found


def sums(folder: Path) -> str:
    """Return the text of `SHA256SUMS` for the other files of a folder, in the form of coreutils."""
    names = sorted(path.name for path in folder.iterdir() if path.name != SUMS)
    return "".join(f"{sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)


def tags(root: Path = ROOT) -> Iterable[str]:
    """Return the tags that have a folder."""
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name != NEXT)


def write(root: Path = ROOT) -> None:
    """Write the folder `next` again, with today's files and no others."""
    folder, today = root / NEXT, files()
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in today:
            path.unlink()
    for name, value in today.items():
        (folder / name).write_bytes(value)
    print(f"wrote {len(today)} files to {folder}")


def freeze(tag: str, root: Path = ROOT) -> None:
    """Write the folder of a tag with its checksums; raise FrozenError where that must not be."""
    if tag != f"v{__version__}":
        raise FrozenError(f"{tag} is not the tag of this version, v{__version__}")
    folder, today = root / tag, files()
    if folder.exists():
        raise FrozenError(f"{folder} is frozen")
    if {path.name: path.read_bytes() for path in (root / NEXT).iterdir()} != today:
        raise FrozenError(f"{root / NEXT} is not what the code writes: look at the difference first")
    folder.mkdir()
    for name, value in today.items():
        (folder / name).write_bytes(value)
    (folder / SUMS).write_text(sums(folder))
    print(f"froze {len(today)} files in {folder}")


def main(*arguments: str) -> None:
    """Write `next`, or freeze a tag. Exit code 1: it is frozen already, or must not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.liveroom.golden", description=__doc__)
    parser.add_argument("--tag", help="freeze today's bytes as those of this tag, once")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder with one folder for each tag")
    options = parser.parse_args(arguments)
    if options.tag is None:
        write(options.root)
        return
    try:
        freeze(options.tag, options.root)
    except FrozenError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
