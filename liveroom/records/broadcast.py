"""Records of `broadcast`: CLAIM, BATCH, SNAPSHOT; fixed binary, ours alone. Pure.

A gateway must skip what is not its own in a fraction of a microsecond. Which records are valid is
`liveroom.fencing`'s.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import IntFlag
from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812 - beside Layout
from typing import Final, NamedTuple, Self

import msgspec

from liveroom.kinds import Kind, RecordType
from liveroom.records.codec import VERSION, BadRecord, BadRecordError

MAX_BROADCAST_BYTES: Final = 900 * 1024  # below the broker's default of 1 MiB with room for Kafka's own framing
MAX_TRACED: Final = 20  # of one batch
TRACE_HEADER: Final = "liveroom-trace"


class Anchor(NamedTuple):
    """What ties a BATCH or SNAPSHOT to its writer and to the uplink (design: exactly once without
    transactions).

    `uplink_next`: first uplink offset not yet reflected. `claim_offset`: where the writer's ruling
    claim lies. `snapshot_offset`: first chunk of the newest complete snapshot, -1 when there is
    none.
    """

    uplink_next: int
    claim_offset: int
    snapshot_offset: int


class Stamp(NamedTuple):
    """Type and writer of any `broadcast` record: all that the validity rule looks at."""

    type: RecordType
    epoch: int
    owner: bytes


class Claim(NamedTuple):
    """A take-over, or its renewal: from here on (epoch, owner) rules the partition."""

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
    """What must be known of a room's part without opening it.

    `AGAIN`: the room lost its history and not its totals, modes and ids: a new owner keeps these
    under the new epoch too.
    """

    DEFLATED = 1
    CLEAR = 2
    DISSOLVED = 4
    AGAIN = 8


class RoomEntry(NamedTuple):
    """A room's directory entry in a BATCH.

    `first`..`last`: the numbers of its messages (first = last + 1 where there are none). `rseq`:
    newest reliable number. `messages`: how many. `skipped`: thinned before numbering. `size`: bytes
    of the payload; `reliable_size`: bytes of its first part alone, 0 where nothing reliable is in
    it.
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
    """Directory entry of a notice to one user (all devices) in one room, or in all rooms where
    `room` is 0.
    """

    room: int
    user: int
    size: int


class BatchNotice(NamedTuple):
    """A notice in a BATCH: to the user of this hash, in the room of this hash (0: in all), as the
    frame `text`.
    """

    room: int
    user: int
    text: bytes

    @property
    def kind(self) -> Kind | None:
        """What the notice is about; None where this version does not know it."""
        try:
            return _notice_decoder.decode(self.text).kind
        except msgspec.DecodeError:
            return None


class CardEntry(NamedTuple):
    """Directory entry of a room card, for gateways where the room just became local."""

    room: int
    size: int


class Traced(NamedTuple):
    """An interaction that is traced: its trace, and the hash of its room."""

    trace: int
    room: int


class Batch(NamedTuple):
    """A decoded BATCH. `body` and `starts` give payloads without copying: see `rooms`, `notices`,
    `cards`.

    `pos`: the partition's newest acknowledged offset when this was packed. `at_ms`: when it was
    packed. `oldest_ms`: when the oldest interaction in it was accepted (0 where there is none).
    `clock_ms`: Kafka's time of the newest uplink record it reflects. `balance`: the owner's, with
    this batch in it. `traces`: of interactions in it that are traced, as the record's headers tell.
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

    @classmethod
    def of(
        cls,
        epoch: int,
        owner: bytes,
        anchor: Anchor,
        pos: int,
        at_ms: int,
        oldest_ms: int,
        rooms: Sequence[tuple[RoomEntry, bytes]],
        notices: Sequence[tuple[NoticeEntry, bytes]] = (),
        cards: Sequence[tuple[CardEntry, bytes]] = (),
        clock_ms: int = 0,
        balance: Balance = Balance(),  # noqa: B008 - only read
    ) -> Self:
        """Return a BATCH of these parts; sizes in the entries must be those of the payloads."""
        return cls(
            Stamp(RecordType.BATCH, epoch, owner),
            anchor,
            pos,
            at_ms,
            oldest_ms,
            b"".join(ROOM_ENTRY.pack(*entry) for entry, _ in rooms),
            b"".join(NOTICE_ENTRY.pack(*entry) for entry, _ in notices),
            b"".join(CARD_ENTRY.pack(*entry) for entry, _ in cards),
            memoryview(b"".join(payload for part in (rooms, notices, cards) for _, payload in part)),
            clock_ms,
            balance,
        )

    def rooms(self) -> Iterator[tuple[RoomEntry, memoryview]]:
        """Give every room's entry and payload.

        The gateway's hot loop does the same by hand on `entries`.
        """
        start = 0
        for fields in ROOM_ENTRY.iter_unpack(self.entries):
            entry = RoomEntry._make(fields)
            yield entry, self.body[start : start + entry.size]
            start += entry.size

    def notices(self) -> Iterator[BatchNotice]:
        """Give every notice."""
        start = sum(fields[6] for fields in ROOM_ENTRY.iter_unpack(self.entries))
        for fields in NOTICE_ENTRY.iter_unpack(self.notice_entries):
            entry = NoticeEntry._make(fields)
            yield BatchNotice(entry.room, entry.user, bytes(self.body[start : start + entry.size]))
            start += entry.size

    def cards(self) -> Iterator[tuple[CardEntry, bytes]]:
        """Give every card's entry and its JSON."""
        start = len(self.body) - sum(size for _, size in CARD_ENTRY.iter_unpack(self.card_entries))
        for fields in CARD_ENTRY.iter_unpack(self.card_entries):
            entry = CardEntry._make(fields)
            yield entry, bytes(self.body[start : start + entry.size])
            start += entry.size


class SnapshotChunk(NamedTuple):
    """One chunk of a partition's snapshot; complete only with its last."""

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


def encode_batch(batch: Batch) -> bytes:
    """Return the value of a BATCH; its traces go into the headers (`encode_traces`)."""
    counts = (
        len(batch.entries) // ROOM_ENTRY.size,
        len(batch.notice_entries) // NOTICE_ENTRY.size,
        len(batch.card_entries) // CARD_ENTRY.size,
    )
    balance = msgspec.structs.astuple(batch.balance)
    return b"".join(
        (
            _STAMP.pack(_MAGIC, VERSION, RecordType.BATCH, batch.stamp.epoch, batch.stamp.owner),
            _ANCHOR.pack(*batch.anchor),
            _BATCH.pack(batch.pos, batch.at_ms, batch.oldest_ms, batch.clock_ms, *balance, *counts),
            batch.entries,
            batch.notice_entries,
            batch.card_entries,
            batch.body,
        )
    )


def encode_snapshot_chunk(chunk: SnapshotChunk) -> bytes:
    """Return the value of one SNAPSHOT record."""
    return (
        _STAMP.pack(_MAGIC, VERSION, RecordType.SNAPSHOT, chunk.stamp.epoch, chunk.stamp.owner)
        + _ANCHOR.pack(*chunk.anchor)
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


def decode_anchor(value: bytes) -> Anchor:
    """Return the anchor of a BATCH or SNAPSHOT."""
    try:
        return Anchor._make(_ANCHOR.unpack_from(value, _STAMP.size))
    except LayoutError:
        raise BadRecordError(BadRecord.TRUNCATED, f"{len(value)} bytes") from None


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
