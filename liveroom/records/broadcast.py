"""Records of `broadcast`: CLAIM, BATCH and SNAPSHOT, in a fixed internal binary format. Pure.

A gateway must skip foreign rooms in a fraction of a microsecond. `liveroom.fencing` decides which
records are valid.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import IntFlag
from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812 - beside Layout
from typing import Final, NamedTuple

import msgspec

from liveroom.kinds import Kind, RecordType
from liveroom.nesting import UNDECODABLE
from liveroom.records.codec import VERSION, BadRecord, BadRecordError

MAX_BROADCAST_BYTES: Final = 900 * 1024  # below the broker's default of 1 MiB with room for Kafka's own framing
MAX_TRACED: Final = 20  # of one batch
TRACE_HEADER: Final = "liveroom-trace"


class Anchor(NamedTuple):
    """What ties a BATCH or SNAPSHOT to its writer and to the uplink.

    - `uplink_next`: the first uplink offset that is not reflected yet, -1 if it is unknown.
    - `claim_offset`: the offset of the writer's claim.
    - `snapshot_offset`: the first chunk of the newest complete snapshot, -1 if there is none.

    Only the bytes have -1: a decoded anchor has None in its place.
    """

    uplink_next: int | None
    claim_offset: int
    snapshot_offset: int | None


class Stamp(NamedTuple):
    """Type and writer of a record, which is all that the validity rule needs.

    - `epoch`: higher for each take-over of the partition.
    - `owner`: random bytes, new for each take-over.
    """

    type: RecordType
    epoch: int
    owner: bytes


class Claim(NamedTuple):
    """A take-over or its renewal: from here on (epoch, owner) owns the partition.

    - `at_ms`: when it was written.
    - `instance`: the broadcaster's name.
    """

    epoch: int
    owner: bytes
    at_ms: int
    instance: str


class Balance(msgspec.Struct, gc=False):
    """Items that owners took from the uplink since the partition began, and their outcomes.

    `taken` always equals the sum of the outcomes (`is_exact`).
    """

    taken: int = 0
    numbered: int = 0
    folded: int = 0
    noticed: int = 0
    skipped: int = 0
    duplicate: int = 0
    dead_lettered: int = 0

    @property
    def off(self) -> int:
        """Items taken minus items accounted for; anything but 0 is a defect."""
        rest = self.numbered + self.folded + self.noticed + self.skipped + self.duplicate + self.dead_lettered
        return self.taken - rest

    def is_exact(self) -> bool:
        """Return whether every item taken is accounted for."""
        return self.off == 0


class RoomFlags(IntFlag):
    """Properties of a room's part that readers need without opening it.

    `AGAIN`: the room lost its history but keeps its totals, modes and ids under the new epoch.
    """

    DEFLATED = 1
    CLEAR = 2
    DISSOLVED = 4
    AGAIN = 8


class RoomEntry(NamedTuple):
    """The directory entry of a room in a BATCH.

    - `hash`: names the room (`room_hash`).
    - `first`, `last`: numbers of its messages; first = last + 1 if there are none.
    - `rseq`: the room's newest reliable number.
    - `messages`: how many messages there are.
    - `skipped`: messages that were thinned before numbering.
    - `size`: bytes of the payload.
    - `reliable_size`: bytes of its first part alone, 0 if it contains nothing reliable.
    - `epoch`: the room's epoch.
    """

    hash: int
    first: int
    last: int
    rseq: int
    messages: int
    skipped: int
    size: int
    reliable_size: int
    epoch: int
    flags: int


class NoticeEntry(NamedTuple):
    """The directory entry of a notice to one user, on all its devices.

    - `room`: hash of the room, 0 for all rooms that the user is in.
    - `user`: hash of the user's id.
    - `size`: bytes of the notice.
    """

    room: int
    user: int
    size: int


class BatchNotice(NamedTuple):
    """A notice in a BATCH.

    - `room`: hash of the room, 0 for all rooms that the user is in.
    - `user`: hash of the user's id.
    - `text`: the frame that the user gets.
    """

    room: int
    user: int
    text: bytes

    @property
    def kind(self) -> Kind | None:
        """What the notice is about; None where this version does not know it or cannot read it."""
        try:
            return _notice_decoder.decode(self.text).kind
        except UNDECODABLE:
            return None


class CardEntry(NamedTuple):
    """The directory entry of a room snapshot, for gateways where the room just became local.

    - `room`: hash of the room.
    - `size`: bytes of the snapshot.
    """

    room: int
    size: int


class Traced(NamedTuple):
    """A traced interaction: its trace, and the hash of its room."""

    trace: int
    room: int


class Batch(NamedTuple):
    """One tick of a partition: the messages of all its rooms that have any.

    - `pos`: the partition's newest acknowledged offset when this was packed.
    - `at_ms`: when it was packed.
    - `oldest_ms`: when the oldest interaction in it was accepted, 0 if there is none.
    - `clock_ms`: Kafka's timestamp of the newest uplink record that it reflects.
    - `balance`: the owner's balance, this batch included.
    - `traces`: the traced interactions in it, which the record's headers name.

    The methods `rooms`, `notices` and `cards` yield the entries and payloads without copying.
    """

    stamp: Stamp
    anchor: Anchor
    pos: int
    at_ms: int
    oldest_ms: int
    entries: bytes
    notice_entries: bytes
    card_entries: bytes
    body: memoryview
    clock_ms: int = 0
    balance: Balance = Balance()
    traces: tuple[Traced, ...] = ()

    def rooms(self) -> Iterator[tuple[RoomEntry, memoryview]]:
        """Yield every room's entry and payload.

        The gateway's hot loop does the same by hand on `entries`.
        """
        start = 0
        for fields in ROOM_ENTRY.iter_unpack(self.entries):
            entry = RoomEntry._make(fields)
            yield entry, self.body[start : start + entry.size]
            start += entry.size

    def notices(self) -> Iterator[BatchNotice]:
        """Yield every notice."""
        start = sum(fields[6] for fields in ROOM_ENTRY.iter_unpack(self.entries))
        for fields in NOTICE_ENTRY.iter_unpack(self.notice_entries):
            entry = NoticeEntry._make(fields)
            yield BatchNotice(entry.room, entry.user, bytes(self.body[start : start + entry.size]))
            start += entry.size

    def cards(self) -> Iterator[tuple[CardEntry, bytes]]:
        """Yield every room snapshot's entry and its JSON."""
        start = len(self.body) - sum(size for _, size in CARD_ENTRY.iter_unpack(self.card_entries))
        for fields in CARD_ENTRY.iter_unpack(self.card_entries):
            entry = CardEntry._make(fields)
            yield entry, bytes(self.body[start : start + entry.size])
            start += entry.size


class BatchParts(NamedTuple):
    """A BATCH as its owner writes it: `rooms`, `notices` and `cards` with their payloads.

    The size in each entry must be that of its payload. The other fields are those of `Batch`.
    """

    epoch: int
    owner: bytes
    anchor: Anchor
    pos: int
    at_ms: int
    oldest_ms: int
    rooms: Sequence[tuple[RoomEntry, bytes]]
    notices: Sequence[tuple[NoticeEntry, bytes]] = ()
    cards: Sequence[tuple[CardEntry, bytes]] = ()
    clock_ms: int = 0
    balance: Balance = Balance()


class SnapshotChunk(NamedTuple):
    """One chunk of a partition's snapshot, which is complete only with its last chunk.

    - `snapshot_id`: the same in all chunks of one snapshot.
    - `part`, `parts`: the number of this chunk, from 0, and how many there are.
    """

    stamp: Stamp
    anchor: Anchor
    at_ms: int
    snapshot_id: int
    part: int
    parts: int
    data: bytes


class _NoticeHead(msgspec.Struct):
    kind: Kind


_notice_decoder: Final = msgspec.json.Decoder(_NoticeHead)
_STAMP: Final = Layout("<2sBBQ16s")
_CLAIM: Final = Layout("<qH")
_ANCHOR: Final = Layout("<qqq")
_BATCH: Final = Layout("<qqqqQQQQQQQIII")
_SNAPSHOT: Final = Layout("<qQII")
ROOM_ENTRY: Final = Layout("<QQQQIIIIII")
NOTICE_ENTRY: Final = Layout("<QQI")
CARD_ENTRY: Final = Layout("<QI")
_SIZES: Final = (Layout("<40xI12x"), Layout("<16xI"), Layout("<8xI"))  # `size` alone of each entry: 30 ns, whole ones 95
_MAGIC: Final = b"LR"
_NO_OFFSET: Final = -1  # stands for None in an anchor
OWNER_BYTES: Final = 16
_ANCHORED: Final = _STAMP.size + _ANCHOR.size


def encode_claim(claim: Claim) -> bytes:
    """Return the value of a CLAIM."""
    name = claim.instance.encode()
    return _STAMP.pack(_MAGIC, VERSION, RecordType.CLAIM, claim.epoch, claim.owner) + _CLAIM.pack(claim.at_ms, len(name)) + name


_TRACED: Final = Layout(">16sQ")


def encode_traces(traced: Iterable[Traced]) -> list[tuple[str, bytes]]:
    """Return the Kafka headers of a BATCH that name what is traced in it; they are no part of the
    record's value.
    """
    return [(TRACE_HEADER, _TRACED.pack(trace.to_bytes(16, "big"), room)) for trace, room in traced]


def decode_traces(headers: Iterable[tuple[str, bytes]]) -> tuple[Traced, ...]:
    """Return what headers name; those of others are passed over."""
    found = [_TRACED.unpack(value) for name, value in headers if name == TRACE_HEADER and len(value or b"") == _TRACED.size]
    return tuple(Traced(int.from_bytes(trace, "big"), room) for trace, room in found[:MAX_TRACED])


def encode_batch(batch: BatchParts) -> bytes:
    """Return the value of a BATCH. Its traces go into the headers (`encode_traces`)."""
    rooms, notices, cards = batch.rooms, batch.notices, batch.cards
    balance = msgspec.structs.astuple(batch.balance)
    return b"".join(
        (
            _STAMP.pack(_MAGIC, VERSION, RecordType.BATCH, batch.epoch, batch.owner),
            _pack_anchor(batch.anchor),
            _BATCH.pack(
                batch.pos, batch.at_ms, batch.oldest_ms, batch.clock_ms, *balance, len(rooms), len(notices), len(cards)
            ),
            *(ROOM_ENTRY.pack(*entry) for entry, _ in rooms),
            *(NOTICE_ENTRY.pack(*entry) for entry, _ in notices),
            *(CARD_ENTRY.pack(*entry) for entry, _ in cards),
            *(payload for _, payload in rooms),
            *(payload for _, payload in notices),
            *(payload for _, payload in cards),
        )
    )


def encode_snapshot_chunk(chunk: SnapshotChunk) -> bytes:
    """Return the value of one SNAPSHOT record."""
    return (
        _STAMP.pack(_MAGIC, VERSION, RecordType.SNAPSHOT, chunk.stamp.epoch, chunk.stamp.owner)
        + _pack_anchor(chunk.anchor)
        + _SNAPSHOT.pack(chunk.at_ms, chunk.snapshot_id, chunk.part, chunk.parts)
        + chunk.data
    )


def decode_stamp(value: bytes) -> Stamp:
    """Return type and writer of a `broadcast` record."""
    try:
        magic, version, kind, epoch, owner = _STAMP.unpack_from(value)
    except LayoutError:
        raise BadRecordError(BadRecord.TRUNCATED, f"{len(value)} bytes") from None
    if magic != _MAGIC:
        raise BadRecordError(BadRecord.UNDECODABLE, "not a record of broadcast")
    if version != VERSION:
        raise BadRecordError(BadRecord.VERSION, f"version {version}, this reader knows {VERSION}")
    try:
        return Stamp(RecordType(kind), epoch, owner)
    except ValueError:
        raise BadRecordError(BadRecord.UNDECODABLE, f"record type {kind}") from None


def _pack_anchor(anchor: Anchor) -> bytes:
    return _ANCHOR.pack(*(_NO_OFFSET if offset is None else offset for offset in anchor))


def decode_anchor(value: bytes) -> Anchor:
    """Return the anchor of a BATCH or SNAPSHOT."""
    try:
        uplink_next, claim_offset, snapshot_offset = _ANCHOR.unpack_from(value, _STAMP.size)
    except LayoutError:
        raise BadRecordError(BadRecord.TRUNCATED, f"{len(value)} bytes") from None
    return Anchor(
        None if uplink_next == _NO_OFFSET else uplink_next,
        claim_offset,
        None if snapshot_offset == _NO_OFFSET else snapshot_offset,
    )


def decode_broadcast(value: bytes | None) -> Claim | Batch | SnapshotChunk:
    """Return any record of `broadcast`."""
    if value is None:
        raise BadRecordError(BadRecord.UNDECODABLE, "no value")
    stamp = decode_stamp(value)
    try:
        match stamp.type:
            case RecordType.CLAIM:
                return _claim(stamp, value)
            case RecordType.BATCH:
                return _batch(stamp, value)
            case RecordType.SNAPSHOT:
                at_ms, snapshot_id, part, parts = _SNAPSHOT.unpack_from(value, _ANCHORED)
                data = value[_ANCHORED + _SNAPSHOT.size :]
                return SnapshotChunk(stamp, decode_anchor(value), at_ms, snapshot_id, part, parts, data)
    except (LayoutError, UnicodeDecodeError):
        raise BadRecordError(BadRecord.TRUNCATED, f"{len(value)} bytes") from None


def _claim(stamp: Stamp, value: bytes) -> Claim:
    at_ms, length = _CLAIM.unpack_from(value, _STAMP.size)
    name = value[_STAMP.size + _CLAIM.size :]
    if len(name) != length:
        raise BadRecordError(BadRecord.TRUNCATED, "a claim's instance")
    return Claim(stamp.epoch, stamp.owner, at_ms, name.decode())


def _batch(stamp: Stamp, value: bytes) -> Batch:
    anchor = decode_anchor(value)
    pos, at_ms, oldest_ms, clock_ms, *counts, rooms, notices, cards = _BATCH.unpack_from(value, _ANCHORED)
    first = _ANCHORED + _BATCH.size
    second = first + rooms * ROOM_ENTRY.size
    third = second + notices * NOTICE_ENTRY.size
    fourth = third + cards * CARD_ENTRY.size
    if fourth > len(value):
        raise BadRecordError(BadRecord.TRUNCATED, "a batch's directory")
    body = memoryview(value)[fourth:]
    directory = value[first:second], value[second:third], value[third:fourth]
    claimed = sum(size for sizes, part in zip(_SIZES, directory, strict=True) for (size,) in sizes.iter_unpack(part))
    if claimed != len(body):
        raise BadRecordError(BadRecord.TRUNCATED, f"a batch's directory names {claimed} bytes, {len(body)} follow it")
    return Batch(stamp, anchor, pos, at_ms, oldest_ms, *directory, body, clock_ms, Balance(*counts))
