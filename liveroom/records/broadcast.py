"""Records of `broadcast`: CLAIM, BATCH and SNAPSHOT, in an internal binary format. Pure.

Each is a stamp, fixed fields, and typed sections (`liveroom.records.sections`), so that a later
version can add a section. The directory of rooms has entries of a fixed size: a gateway must skip
foreign rooms in a fraction of a microsecond. `liveroom.fencing` decides which records are valid.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntFlag
from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812 - beside Layout
from typing import Final, NamedTuple

import msgspec

from liveroom.kinds import Kind, RecordType, Role, is_host, outranks
from liveroom.nesting import UNDECODABLE
from liveroom.records.balance import Balance, decode_balance, encode_balance
from liveroom.records.codec import BadRecord, BadRecordError, check_version
from liveroom.records.sections import NOTHING, Section, Sections, SectionType, decode_sections, encode_sections

VERSION: Final = 1
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
    - `serial`: how many BATCHes its owner has written since it took over, a BATCH itself included.
    """

    type: RecordType
    epoch: int
    owner: bytes
    serial: int = 0


class Claim(NamedTuple):
    """A take-over or its renewal: from here on (epoch, owner) owns the partition.

    - `at_ms`: when it was written.
    - `instance`: the broadcaster's name.
    - `serial`: how many BATCHes the owner has written so far.
    """

    epoch: int
    owner: bytes
    at_ms: int
    instance: str
    serial: int = 0


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
    def head(self) -> "NoticeHead | None":
        """What the notice is about; None where this version does not know it or cannot read it."""
        try:
            return _notice_decoder.decode(self.text)
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
    - `entries`, `body`: the directory of rooms (`ROOM_ENTRY`), and their payloads.
    - `notice_entries`, `card_entries`: the same of notices and cards, with their texts.
    - `sections`: all sections; those for owners are decoded when they are asked for.
    - `traces`: the traced interactions in it, which the record's headers name.

    The methods `rooms`, `notices` and `cards` yield the entries and payloads without copying.
    """

    stamp: Stamp
    anchor: Anchor
    pos: int
    at_ms: int
    oldest_ms: int
    clock_ms: int
    entries: memoryview
    body: memoryview
    notice_entries: memoryview
    notice_texts: memoryview
    card_entries: memoryview
    card_texts: memoryview
    sections: Sections
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
        start = 0
        for room, user, size in NOTICE_ENTRY.iter_unpack(self.notice_entries):
            yield BatchNotice(room, user, bytes(self.notice_texts[start : start + size]))
            start += size

    def cards(self) -> Iterator[tuple[CardEntry, bytes]]:
        """Yield every room snapshot's entry and its JSON."""
        start = 0
        for fields in CARD_ENTRY.iter_unpack(self.card_entries):
            entry = CardEntry._make(fields)
            yield entry, bytes(self.card_texts[start : start + entry.size])
            start += entry.size

    @property
    def balance(self) -> Balance:
        """The owner's balance, this batch included. Raises BadRecordError where it is damaged."""
        return decode_balance(self.sections.of(SectionType.BALANCE))

    @property
    def allowances(self) -> Mapping[int, int]:
        """How many messages each room at its limit may number at once, by the room's hash.

        An owner cannot know it from the messages. Raises BadRecordError where it is damaged.
        """
        try:
            return dict(_ALLOWANCE.iter_unpack(self.sections.of(SectionType.ALLOWANCES)))
        except LayoutError:
            raise BadRecordError(BadRecord.TRUNCATED, "a batch's allowances") from None


class BatchParts(NamedTuple):
    """A BATCH as its owner writes it: `rooms`, `notices` and `cards` with their payloads.

    The size in each entry must be that of its payload. `serial` is that of its stamp. `others`:
    sections of types that this version does not know. The other fields are those of `Batch`.
    """

    epoch: int
    owner: bytes
    serial: int
    anchor: Anchor
    pos: int
    at_ms: int
    oldest_ms: int
    rooms: Sequence[tuple[RoomEntry, bytes]]
    notices: Sequence[tuple[NoticeEntry, bytes]] = ()
    cards: Sequence[tuple[CardEntry, bytes]] = ()
    clock_ms: int = 0
    balance: Balance = Balance()
    allowances: Mapping[int, int] = {}
    others: Sequence[Section] = ()


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


class NoticeHead(msgspec.Struct, frozen=True):
    """What a notice is about. `by_role`: of the host who gave the command; empty: unknown."""

    kind: Kind
    by_role: str = ""

    def is_for(self, role: Role) -> bool:
        """Return whether a mute, ban or kick is for a user with `role`.

        It is for a host only if a better gave the command. Where that is unknown it is for all but
        operators, before whom nobody ranks.
        """
        if self.kind not in _SANCTIONS or not is_host(role):
            return True
        return outranks(self.by_role, role) if self.by_role else role is not Role.OPERATOR


_SANCTIONS: Final = frozenset({Kind.MUTE, Kind.BAN, Kind.KICK})
_notice_decoder: Final = msgspec.json.Decoder(NoticeHead)
_STAMP: Final = Layout("<2sBBQ16sQ")
_CLAIM: Final = Layout("<q")
_ANCHOR: Final = Layout("<qqq")
_BATCH: Final = Layout("<qqqq")
_SNAPSHOT: Final = Layout("<qQII")
ROOM_ENTRY: Final = Layout("<QQQQIIIIII")
NOTICE_ENTRY: Final = Layout("<QQI")
CARD_ENTRY: Final = Layout("<QI")
_ALLOWANCE: Final = Layout("<QI")
_COUNT: Final = Layout("<I")
_ROOM_SIZES: Final = Layout("<40xI12x")  # `size` alone of each entry: 30 ns, whole ones 95
_NOTICE_SIZES: Final = Layout("<16xI")
_CARD_SIZES: Final = Layout("<8xI")
_NONE_LISTED: Final = (NOTHING, NOTHING)
_MAGIC: Final = b"LR"
_VERSION_AT: Final = len(_MAGIC)
_NO_OFFSET: Final = -1  # stands for None in an anchor
OWNER_BYTES: Final = 16
_ANCHORED: Final = _STAMP.size + _ANCHOR.size
_OF_CLAIM: Final = frozenset({int(SectionType.INSTANCE)})
_OF_SNAPSHOT: Final = frozenset({int(SectionType.CHUNK)})
_ROOMS: Final = int(SectionType.ROOMS)
_PAYLOADS: Final = int(SectionType.PAYLOADS)
_NOTICES: Final = int(SectionType.NOTICES)
_CARDS: Final = int(SectionType.CARDS)
_BALANCE: Final = int(SectionType.BALANCE)
_ALLOWANCES: Final = int(SectionType.ALLOWANCES)
_OF_BATCH: Final = frozenset({_ROOMS, _PAYLOADS, _NOTICES, _CARDS, _BALANCE, _ALLOWANCES})
MAX_ALLOWANCE: Final = 0xFFFFFFFF  # what an entry of ALLOWANCES can hold


def encode_claim(claim: Claim) -> bytes:
    """Return the value of a CLAIM."""
    stamp = _STAMP.pack(_MAGIC, VERSION, RecordType.CLAIM, claim.epoch, claim.owner, claim.serial)
    return stamp + _CLAIM.pack(claim.at_ms) + encode_sections([(SectionType.INSTANCE, claim.instance.encode())])


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
    sections: list[tuple[int, bytes]] = [(_BALANCE, encode_balance(batch.balance))]
    if batch.rooms:
        sections.append((_ROOMS, b"".join([ROOM_ENTRY.pack(*entry) for entry, _ in batch.rooms])))
        sections.append((_PAYLOADS, b"".join([payload for _, payload in batch.rooms])))
    if batch.notices:
        sections.append((_NOTICES, _encode_listed(NOTICE_ENTRY, batch.notices)))
    if batch.cards:
        sections.append((_CARDS, _encode_listed(CARD_ENTRY, batch.cards)))
    if batch.allowances:
        sections.append((_ALLOWANCES, b"".join([_ALLOWANCE.pack(*each) for each in batch.allowances.items()])))
    sections += batch.others
    return b"".join(
        (
            _STAMP.pack(_MAGIC, VERSION, RecordType.BATCH, batch.epoch, batch.owner, batch.serial),
            _pack_anchor(batch.anchor),
            _BATCH.pack(batch.pos, batch.at_ms, batch.oldest_ms, batch.clock_ms),
            encode_sections(sections),
        )
    )


def _encode_listed(layout: Layout, listed: Sequence[tuple[tuple[int, ...], bytes]]) -> bytes:
    """Return a section of a count, entries and the text of each."""
    entries = [layout.pack(*entry) for entry, _ in listed]
    return b"".join((_COUNT.pack(len(listed)), *entries, *(text for _, text in listed)))


def _decode_listed(data: memoryview, entry_size: int, sizes: Layout, what: str) -> tuple[memoryview, memoryview]:
    """Return the entries and the texts of a section that `_encode_listed` made."""
    (count,) = _COUNT.unpack_from(data)
    split = _COUNT.size + count * entry_size
    entries, texts = data[_COUNT.size : split], data[split:]
    if split > len(data):
        raise BadRecordError(BadRecord.TRUNCATED, f"a batch's {what}")
    _check_sizes(sizes, entries, texts, what)
    return entries, texts


def _check_sizes(sizes: Layout, entries: memoryview, texts: memoryview, what: str) -> None:
    named = sum([size for (size,) in sizes.iter_unpack(entries)])
    if named != len(texts):
        raise BadRecordError(BadRecord.TRUNCATED, f"a batch's {what} name {named} bytes, {len(texts)} follow them")


def encode_snapshot_chunk(chunk: SnapshotChunk) -> bytes:
    """Return the value of one SNAPSHOT record."""
    stamp = chunk.stamp
    return b"".join(
        (
            _STAMP.pack(_MAGIC, VERSION, RecordType.SNAPSHOT, stamp.epoch, stamp.owner, stamp.serial),
            _pack_anchor(chunk.anchor),
            _SNAPSHOT.pack(chunk.at_ms, chunk.snapshot_id, chunk.part, chunk.parts),
            encode_sections([(SectionType.CHUNK, chunk.data)]),
        )
    )


def decode_stamp(value: bytes) -> Stamp:
    """Return type and writer of a `broadcast` record.

    The stamp is the same in all versions, so that every reader knows who rules.
    """
    try:
        magic, _, kind, epoch, owner, serial = _STAMP.unpack_from(value)
    except LayoutError:
        raise BadRecordError(BadRecord.TRUNCATED, f"{len(value)} bytes") from None
    if magic != _MAGIC:
        raise BadRecordError(BadRecord.UNDECODABLE, "not a record of broadcast")
    try:
        return Stamp(RecordType(kind), epoch, owner, serial)
    except ValueError:
        raise BadRecordError(BadRecord.UNDECODABLE, f"record type {kind}") from None


def check_record_version(value: bytes) -> None:
    """Raise BadRecordError unless the version of a record with a stamp is one that is read here."""
    if (version := value[_VERSION_AT]) != VERSION:
        check_version(version, VERSION)


def _pack_anchor(anchor: Anchor) -> bytes:
    return _ANCHOR.pack(*(_NO_OFFSET if offset is None else offset for offset in anchor))


def decode_anchor(value: bytes) -> Anchor:
    """Return the anchor of a BATCH or SNAPSHOT that has a stamp."""
    check_record_version(value)
    try:
        uplink_next, claim_offset, snapshot_offset = _ANCHOR.unpack_from(value, _STAMP.size)
    except LayoutError:
        raise BadRecordError(BadRecord.TRUNCATED, f"{len(value)} bytes") from None
    return Anchor(
        None if uplink_next == _NO_OFFSET else uplink_next,
        claim_offset,
        None if snapshot_offset == _NO_OFFSET else snapshot_offset,
    )


def decode_broadcast(value: bytes | None, *, as_owner: bool = False) -> Claim | Batch | SnapshotChunk:
    """Return any record of `broadcast`.

    `as_owner`: the reader owns the partition, so it must understand the sections for owners too.
    Raises BadRecordError.
    """
    if value is None:
        raise BadRecordError(BadRecord.UNDECODABLE, "no value")
    stamp = decode_stamp(value)
    check_record_version(value)
    try:
        match stamp.type:
            case RecordType.CLAIM:
                return _claim(stamp, value, as_owner=as_owner)
            case RecordType.BATCH:
                return _batch(stamp, value, as_owner=as_owner)
            case RecordType.SNAPSHOT:
                at_ms, snapshot_id, part, parts = _SNAPSHOT.unpack_from(value, _ANCHORED)
                sections = decode_sections(value, _ANCHORED + _SNAPSHOT.size, _OF_SNAPSHOT, as_owner=as_owner)
                data = bytes(sections.of(SectionType.CHUNK))
                return SnapshotChunk(stamp, decode_anchor(value), at_ms, snapshot_id, part, parts, data)
    except (LayoutError, UnicodeDecodeError):
        raise BadRecordError(BadRecord.TRUNCATED, f"{len(value)} bytes") from None


def _claim(stamp: Stamp, value: bytes, *, as_owner: bool) -> Claim:
    (at_ms,) = _CLAIM.unpack_from(value, _STAMP.size)
    sections = decode_sections(value, _STAMP.size + _CLAIM.size, _OF_CLAIM, as_owner=as_owner)
    return Claim(stamp.epoch, stamp.owner, at_ms, bytes(sections.of(SectionType.INSTANCE)).decode(), stamp.serial)


def _batch(stamp: Stamp, value: bytes, *, as_owner: bool) -> Batch:
    anchor = decode_anchor(value)
    pos, at_ms, oldest_ms, clock_ms = _BATCH.unpack_from(value, _ANCHORED)
    sections = decode_sections(value, _ANCHORED + _BATCH.size, _OF_BATCH, as_owner=as_owner)
    known = sections.known
    entries, body = known.get(_ROOMS, NOTHING), known.get(_PAYLOADS, NOTHING)
    _check_sizes(_ROOM_SIZES, entries, body, "rooms")
    notices = cards = _NONE_LISTED
    if _NOTICES in known:
        notices = _decode_listed(known[_NOTICES], NOTICE_ENTRY.size, _NOTICE_SIZES, "notices")
    if _CARDS in known:
        cards = _decode_listed(known[_CARDS], CARD_ENTRY.size, _CARD_SIZES, "cards")
    return Batch(stamp, anchor, pos, at_ms, oldest_ms, clock_ms, entries, body, *notices, *cards, sections)
