"""Kafka records, versioned: how each is written and read, and the rule that says which of them are valid.

Owns the bytes of every topic. JSON (msgspec structs) where foreign programs read or write, fixed binary for `broadcast`,
where a gateway must skip what is not its own in a fraction of a microsecond. Pure: bytes in, values out; a record that cannot
be read raises `BadRecordError` with a reason from `BadRecord`, never anything else. Documented in docs/records.md.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, IntFlag
from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812 - beside Layout
from typing import Annotated, Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from liveroom.kinds import CLASS_OF, Class, Kind, RecordType, Role
from liveroom.nesting import MAX_DEPTH, RECORD_LEVELS, UNDECODABLE, nests_deeper

VERSION: Final = 1
MAX_PACKAGE_ITEMS: Final = 64
MAX_UPLINK_BYTES: Final = 64 * 1024
MAX_BROADCAST_BYTES: Final = 900 * 1024  # below the broker's default of 1 MiB with room for Kafka's own framing
NO_OFFSET: Final = -1
MAX_TRACED: Final = 20  # of one batch
TRACE_HEADER: Final = "liveroom-trace"
MAX_STATE_BYTES: Final = 512 * 1024 * 1024  # a partition's state unpacked; zlib can pack 1 GB of nothing into 1 MB
MAX_ROOM_BYTES: Final = (
    64 * 1024 * 1024
)  # one room of a snapshot, inflated: ten minutes of ids of the busiest room are a tenth of it
_MAX_DETAIL_CHARS: Final = 200  # a detail may quote what it refuses, and goes to logs and dead letters

R = TypeVar("R", bound=msgspec.Struct)


class BadRecord(Enum):
    """Why a record cannot be used; a metric label, a dead-letter header and a log field."""

    UNDECODABLE = "undecodable"
    VERSION = "version"
    SCHEMA = "schema"
    WRONG_KEY = "wrong_key"
    TOO_LARGE = "too_large"
    TRUNCATED = "truncated"
    TOO_DEEP = "too_deep"
    WRONG_PARTITION = "wrong_partition"
    UNHANDLED = "unhandled"


class BadRecordError(ValueError):
    """A record that cannot be read, with its `reason`."""

    def __init__(self, reason: BadRecord, detail: str) -> None:
        detail = detail[:_MAX_DETAIL_CHARS]
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


# ---- uplink: public, JSON
_ROOM: Final = r"^[A-Za-z0-9_-]{1,64}\Z", "a room"
_USER: Final = r"^[A-Za-z0-9_.:@-]{1,64}\Z", "a user"
_ITEM: Final = r"^[A-Za-z0-9_.:-]{1,64}\Z", "an interaction, unique per room and user"
_PACKAGE: Final = r"^[A-Za-z0-9_.:-]{0,64}\Z", "a package, by the sender's own name for it"


def _matched(pattern: str, description: str) -> msgspec.Meta:
    return msgspec.Meta(pattern=pattern, description=description)


def _named(pattern: str, description: str) -> msgspec.Meta:
    """Name a pattern in the schema, and leave it to `decode_uplink` to match all ids of a record at once."""
    return msgspec.Meta(extra_json_schema={"pattern": pattern}, description=description)


RoomId = Annotated[str, _matched(*_ROOM)]
UserId = Annotated[str, _matched(*_USER)]
ItemId = Annotated[str, _matched(*_ITEM)]
PackageId = Annotated[str, _matched(*_PACKAGE)]
Name = Annotated[str, msgspec.Meta(max_length=64, description="what viewers see as the sender's name")]
MAX_MILLIS: Final = 2**53
Millis = Annotated[int, msgspec.Meta(ge=0, le=MAX_MILLIS, description="milliseconds since 1970-01-01 UTC")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Generation = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # a gateway's, in tickets too


class Item(msgspec.Struct, frozen=True, gc=False):
    """One interaction: its kind and the body that viewers get as it is (a JSON object)."""

    kind: Kind
    data: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})] = msgspec.field(
        default_factory=lambda: msgspec.Raw(b"{}")
    )


class Uplink(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One record of `uplink`: an accepted interaction, or a package of up to 64 that stay together and in order.

    `at_ms` is when it was accepted. `id` makes a reliable interaction happen once: the same (room, user, id) again within
    10 minutes is a duplicate. `package` is the sender's own name for a package. `via` names the service that wrote the record.
    """

    v: Annotated[int, msgspec.Meta(extra_json_schema={"const": VERSION})]
    room: Annotated[str, _named(*_ROOM)]
    id: Annotated[str, _named(*_ITEM)]
    user: Annotated[str, _named(*_USER)]
    at_ms: Millis
    items: Annotated[list[Item], msgspec.Meta(min_length=1, max_length=MAX_PACKAGE_ITEMS)]
    name: Name = ""
    role: Role = Role.VIEWER
    level: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    package: Annotated[str, _named(*_PACKAGE)] = ""
    via: str = ""

    def item_id(self, index: int) -> str:
        """Return the message id of item `index`: the record's own id, with `#index` behind it in a package."""
        return self.id if len(self.items) == 1 else f"{self.id}#{index}"

    def is_reliable(self) -> bool:
        """Say whether any item must arrive."""
        return any(CLASS_OF[item.kind] is not Class.BEST_EFFORT for item in self.items)


class _Version(msgspec.Struct):
    """What is looked at first in a record that does not fit: a later version may have other fields."""

    v: int = VERSION


class _Ids(msgspec.Struct):
    """The ids of an `uplink` record, with the patterns that `Uplink` only names: says which of them does not match."""

    room: RoomId
    id: ItemId
    user: UserId
    package: PackageId = ""


_uplink_decoder: Final = msgspec.json.Decoder(Uplink)
_ids_decoder: Final = msgspec.json.Decoder(_Ids)
# All in one: 0.2 us, where a pattern for each costs 1.0 us. None of them takes a space.
_are_ids: Final = re.compile(" ".join(pattern[1:-2] for pattern, _ in (_ROOM, _ITEM, _USER, _PACKAGE)) + r"\Z").match
_version_decoder: Final = msgspec.json.Decoder(_Version)
_encoder: Final = msgspec.json.Encoder()
_BRACE: Final = ord("{")
_BACKSLASH: Final = ord("\\")  # one byte is looked for as a number: a quarter of the time
_LINE_FEED: Final = ord("\n")
_CARRIAGE_RETURN: Final = ord("\r")


def encode_uplink(record: Uplink) -> bytes:
    """Return the value of an `uplink` record. Its key is the room's id."""
    value = _encoder.encode(record)
    if len(value) > MAX_UPLINK_BYTES:
        raise BadRecordError(BadRecord.TOO_LARGE, f"{len(value)} bytes, at most {MAX_UPLINK_BYTES}")
    return value


def decode_uplink(key: bytes | None, value: bytes | None) -> Uplink:
    """Return what an `uplink` record says.

    Every foreign producer's bytes pass here, so after it: ids match their patterns, bodies are JSON objects in UTF-8 without
    line breaks that nest at most `MAX_DEPTH` levels, and the key is the room.
    """
    if value is None:
        raise BadRecordError(BadRecord.UNDECODABLE, "no value")
    if len(value) > MAX_UPLINK_BYTES:
        raise BadRecordError(BadRecord.TOO_LARGE, f"{len(value)} bytes, at most {MAX_UPLINK_BYTES}")
    if nests_deeper(value, MAX_DEPTH + RECORD_LEVELS):
        raise BadRecordError(BadRecord.TOO_DEEP, f"data nests deeper than {MAX_DEPTH} levels")
    try:
        record = _uplink_decoder.decode(value)
        _check_text(value)
    except msgspec.ValidationError as error:
        raise _misfit(value, error) from None
    except UNDECODABLE as error:
        raise BadRecordError(BadRecord.UNDECODABLE, str(error)) from None
    _check_fit(record, key, value)
    if _LINE_FEED in value or _CARRIAGE_RETURN in value:
        record = msgspec.structs.replace(record, items=[Item(i.kind, _one_line(i.data)) for i in record.items])
    return record


def _check_fit(record: Uplink, key: bytes | None, value: bytes) -> None:
    """Check what the decoder leaves open: the version, the ids, the key, that bodies are objects."""
    if record.v != VERSION:
        raise _foreign(record.v)
    if not _are_ids(f"{record.room} {record.id} {record.user} {record.package}"):
        raise _bad_ids(value)
    if key != record.room.encode():
        raise BadRecordError(BadRecord.WRONG_KEY, "the key is not the room's id")
    for item in record.items:
        if memoryview(item.data)[0] != _BRACE:
            raise BadRecordError(BadRecord.SCHEMA, "data is not an object")


def _bad_ids(value: bytes) -> BadRecordError:
    """Say which id does not match its pattern."""
    try:
        ids = _ids_decoder.decode(value)
    except msgspec.ValidationError as error:
        return BadRecordError(BadRecord.SCHEMA, str(error))
    raise AssertionError(f"all match: {ids}")


def _check_text(value: bytes) -> None:
    """Check what the parser does not where it skips a body (Raw): UTF-8, and lone surrogates, which viewers' parsers refuse."""
    value.decode()
    if _BACKSLASH in value and (b"\\ud" in value or b"\\uD" in value):
        msgspec.json.decode(value)


def _misfit(value: bytes, error: msgspec.ValidationError) -> BadRecordError:
    """Say why a record that is JSON does not fit: another version, or against the schema of ours."""
    try:
        version = _version_decoder.decode(value).v
    except UNDECODABLE:
        version = VERSION
    return BadRecordError(BadRecord.SCHEMA, str(error)) if version == VERSION else _foreign(version)


def _foreign(version: int) -> BadRecordError:
    return BadRecordError(BadRecord.VERSION, f"version {version}, this reader knows {VERSION}")


def _one_line(data: msgspec.Raw) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.format(bytes(data), indent=-1))


# ---- broadcast (binary, ours alone)
class Anchor(NamedTuple):
    """What ties a BATCH or SNAPSHOT to its writer and to the uplink (design: exactly once without transactions).

    `uplink_next`: first uplink offset not yet reflected. `claim_offset`: where the writer's ruling claim lies.
    `snapshot_offset`: first chunk of the newest complete snapshot, -1 when there is none.
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
    """What the owner took from uplink and what became of it, in items since the partition began; always equal (`is_exact`)."""

    taken: int = 0
    numbered: int = 0
    folded: int = 0
    noticed: int = 0
    skipped: int = 0
    duplicate: int = 0
    dead_lettered: int = 0

    @property
    def off(self) -> int:
        """Items taken less items accounted for; anything but 0 is a defect."""
        rest = self.numbered + self.folded + self.noticed + self.skipped + self.duplicate + self.dead_lettered
        return self.taken - rest

    def is_exact(self) -> bool:
        """Say whether everything taken is accounted for."""
        return self.off == 0


class RoomFlags(IntFlag):
    """What must be known of a room's part without opening it.

    `AGAIN`: the room lost its history and not its totals, modes and ids: a new owner keeps these under the new epoch too.
    """

    DEFLATED = 1
    CLEAR = 2
    DISSOLVED = 4
    AGAIN = 8


class RoomEntry(NamedTuple):
    """A room's directory entry in a BATCH.

    `first`..`last`: the numbers of its messages (first = last + 1 where there are none). `rseq`: newest reliable number.
    `messages`: how many. `skipped`: thinned before numbering. `size`: bytes of the payload; `reliable_size`: bytes of its
    first part alone, 0 where nothing reliable is in it.
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
    """Directory entry of a notice to one user (all devices) in one room, or in all rooms where `room` is 0."""

    room: int
    user: int
    size: int


class CardEntry(NamedTuple):
    """Directory entry of a room card, for gateways where the room just became local."""

    room: int
    size: int


class Traced(NamedTuple):
    """An interaction that is traced: its trace, and the hash of its room."""

    trace: int
    room: int


class Batch(NamedTuple):
    """A decoded BATCH. `body` and `starts` give payloads without copying: see `rooms`, `notices`, `cards`.

    `pos`: the partition's newest acknowledged offset when this was packed. `at_ms`: when it was packed. `oldest_ms`: when
    the oldest interaction in it was accepted (0 where there is none). `clock_ms`: Kafka's time of the newest uplink record it
    reflects. `balance`: the owner's, with this batch in it. `traces`: of interactions in it that are traced, as the record's
    headers tell.
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
        """Give every room's entry and payload. The gateway's hot loop does the same by hand on `entries`."""
        start = 0
        for fields in ROOM_ENTRY.iter_unpack(self.entries):
            entry = RoomEntry._make(fields)
            yield entry, self.body[start : start + entry.size]
            start += entry.size

    def notices(self) -> Iterator[tuple[NoticeEntry, bytes]]:
        """Give every notice's entry and its frame text."""
        start = sum(fields[6] for fields in ROOM_ENTRY.iter_unpack(self.entries))
        for fields in NOTICE_ENTRY.iter_unpack(self.notice_entries):
            entry = NoticeEntry._make(fields)
            yield entry, bytes(self.body[start : start + entry.size])
            start += entry.size

    def cards(self) -> Iterator[tuple[CardEntry, bytes]]:
        """Give every card's entry and its JSON."""
        start = len(self.body) - sum(size for _, size in CARD_ENTRY.iter_unpack(self.card_entries))
        for fields in CARD_ENTRY.iter_unpack(self.card_entries):
            entry = CardEntry._make(fields)
            yield entry, bytes(self.body[start : start + entry.size])
            start += entry.size


class SnapshotChunk(NamedTuple):
    """One chunk of a partition's snapshot; complete only with its last. `first_offset` of the whole is where part 0 lies."""

    stamp: Stamp
    anchor: Anchor
    at_ms: int
    snapshot_id: int
    part: int
    parts: int
    data: bytes


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
    """Return the Kafka headers of a BATCH that name what is traced in it; they are no part of the record's value."""
    return [(TRACE_HEADER, _TRACED.pack(trace.to_bytes(16, "big"), room)) for trace, room in traced]


def decode_traces(headers: Iterable[tuple[str, bytes]]) -> tuple[Traced, ...]:
    """Return what headers name; those of others are passed over."""
    found = [_TRACED.unpack(value) for name, value in headers if name == TRACE_HEADER and len(value or b"") == _TRACED.size]
    return tuple(Traced(int.from_bytes(trace, "big"), room) for trace, room in found[:MAX_TRACED])


def encode_batch(
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
) -> bytes:
    """Return the value of a BATCH. Sizes in the entries must be those of the payloads."""
    return b"".join(
        (
            _STAMP.pack(_MAGIC, VERSION, RecordType.BATCH, epoch, owner),
            _ANCHOR.pack(*anchor),
            _BATCH.pack(
                pos, at_ms, oldest_ms, clock_ms, *msgspec.structs.astuple(balance), len(rooms), len(notices), len(cards)
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


class Ruling(NamedTuple):
    """Whose records are valid from here on: the ruling claim, and where it lies."""

    epoch: int
    owner: bytes
    offset: int


NOBODY: Final = Ruling(0, b"", NO_OFFSET)


def judge(ruling: Ruling, stamp: Stamp, offset: int) -> tuple[Ruling, bool]:
    """Apply the validity rule to one record: return who rules after it, and whether it is valid.

    A claim rules from its place on if its epoch is above the ruling one's; of two with one epoch the first wins; the ruling
    owner's own claim again (a renewal) is valid and moves the ruling's place forward. Any other record is valid only if its
    (epoch, owner) is the ruling claim's. Every reader uses this one function.
    """
    mine = stamp.epoch == ruling.epoch and stamp.owner == ruling.owner
    if stamp.type is not RecordType.CLAIM:
        return ruling, mine
    if stamp.epoch > ruling.epoch or mine:
        return Ruling(stamp.epoch, stamp.owner, offset), True
    return ruling, False


# ---- a partition's snapshot
class Tombstone(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a `clear` took away: the messages `ids`, or all of `user`, up to itself, which is message (`seq`, `rseq`).

    `before_ms`: what the user sent before then goes too where it comes later.
    """

    seq: int
    rseq: int
    ids: list[str] = []
    user: str = ""
    before_ms: Millis = 0


class RoomSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """A room's modes, as its card shows them.

    `slow_s`: seconds between two messages of one user. `muted_all`: only hosts and `allow` may speak. `no_media`: text only.
    `fold_identical`: identical danmaku become one with a count. `limit_per_s`: danmaku a second, more are thinned (0: the
    system's limit). `hidden`: not to be listed anywhere. `dissolved`: nobody may enter or send.
    """

    slow_s: float = 0.0
    muted_all: bool = False
    allow: list[str] = []
    followers_only: bool = False
    subscribers_only: bool = False
    no_media: bool = False
    fold_identical: bool = False
    limit_per_s: Count = 0
    hidden: bool = False
    dissolved: bool = False


class RoomChange(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Modes of a room that change (`RoomSettings`); those left out stay as they are."""

    slow_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] | msgspec.UnsetType = msgspec.UNSET
    muted_all: bool | msgspec.UnsetType = msgspec.UNSET
    allow: Annotated[list[UserId], msgspec.Meta(max_length=200)] | msgspec.UnsetType = msgspec.UNSET
    followers_only: bool | msgspec.UnsetType = msgspec.UNSET
    subscribers_only: bool | msgspec.UnsetType = msgspec.UNSET
    no_media: bool | msgspec.UnsetType = msgspec.UNSET
    fold_identical: bool | msgspec.UnsetType = msgspec.UNSET
    limit_per_s: Count | msgspec.UnsetType = msgspec.UNSET
    hidden: bool | msgspec.UnsetType = msgspec.UNSET

    def modes(self) -> dict[str, Any]:
        """Return what changes, by name."""
        told = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not msgspec.UNSET}
        return {name: _USUAL[name] if value == _USUAL.get(name) else value for name, value in told.items()}


_USUAL: Final = msgspec.structs.asdict(RoomSettings())  # the very objects, or they would be written though they are usual


class Seen(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A reliable interaction of the last 10 minutes, by id."""

    user: str
    id: str
    at_ms: int


class RoomState(msgspec.Struct, array_like=True):
    """All that outlives an owner of one room. `recent` and `recent_reliable` are message lines, as viewers get them."""

    room: str
    epoch: int
    seq: int = 0
    rseq: int = 0
    likes: int = 0
    gifts: int = 0
    messages: int = 0
    skipped: int = 0
    settings: RoomSettings = RoomSettings()
    announcement: bytes = b""
    tombstones: list[Tombstone] = []
    seen: list[Seen] = []
    recent: list[bytes] = []
    recent_reliable: list[bytes] = []
    last_ms: int = 0


class StoredRoom(msgspec.Struct, array_like=True, gc=False):
    """A room in a snapshot, packed on its own: an owner packs again only what changed and opens only what is needed.

    `last_ms`: Kafka's time of its last interaction.
    """

    room: str
    last_ms: int
    data: bytes


class PartitionState(msgspec.Struct, array_like=True):
    """The content of a SNAPSHOT: every live room of the partition and the owner's balance.

    `clock_ms`: Kafka's time of the newest uplink record in it.
    """

    v: int
    balance: Balance
    clock_ms: int
    rooms: list[StoredRoom]


_room_decoder: Final = msgspec.msgpack.Decoder(RoomState)
_state_decoder: Final = msgspec.msgpack.Decoder(PartitionState)
_packer: Final = msgspec.msgpack.Encoder()


def encode_room(state: RoomState) -> StoredRoom:
    """Return a room as a snapshot holds it."""
    return StoredRoom(state.room, state.last_ms, zlib.compress(_packer.encode(state), 1))


def decode_room(stored: StoredRoom) -> RoomState:
    """Return the room that `encode_room` packed."""
    engine = zlib.decompressobj()
    try:
        plain = engine.decompress(stored.data, MAX_ROOM_BYTES)
        if not engine.eof or engine.unused_data:
            raise BadRecordError(BadRecord.TRUNCATED, f"room {stored.room} in a snapshot")
        return _room_decoder.decode(plain)
    except (zlib.error, *UNDECODABLE) as error:
        raise BadRecordError(BadRecord.UNDECODABLE, f"room {stored.room} in a snapshot: {error}") from None


def encode_state(state: PartitionState, chunk_bytes: int = MAX_BROADCAST_BYTES - 1024) -> list[bytes]:
    """Return a partition's state as the data of its SNAPSHOT chunks, at least one."""
    packed = _packer.encode(state)
    if len(packed) > MAX_STATE_BYTES:
        raise BadRecordError(BadRecord.TOO_LARGE, f"a state of {len(packed)} bytes, at most {MAX_STATE_BYTES}")
    return [packed[i : i + chunk_bytes] for i in range(0, len(packed), chunk_bytes)]


def decode_state(chunks: Sequence[bytes]) -> PartitionState:
    """Return the state that `encode_state` cut up."""
    try:
        state = _state_decoder.decode(b"".join(chunks))
    except UNDECODABLE as error:
        raise BadRecordError(BadRecord.UNDECODABLE, f"snapshot: {error}") from None
    if state.v != VERSION:
        raise BadRecordError(BadRecord.VERSION, f"snapshot version {state.v}, this reader knows {VERSION}")
    return state


# ---- presence, gateways, control, moderation
PRESENCE_INTERVAL_S: Final = 60.0


class Presence(msgspec.Struct, frozen=True):
    """Viewers of one room on one gateway. Users and connections apart: one user may watch on several devices.

    Sent at once when a room gets its first viewer there (the owner then puts the room's card into its next batch), on change at
    most every 2 s, and again every `PRESENCE_INTERVAL_S` without a change, so that a new owner knows all rooms soon. `card`:
    it asks for the room's card (an ingress may too, without viewers).
    """

    v: int
    room: RoomId
    gateway: str
    generation: Generation
    users: Count
    connections: Count
    at_ms: Millis
    card: bool = False


class GatewayState(Enum):
    """What a gateway does with new viewers."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


_Limit = Annotated[float, msgspec.Meta(ge=1e-3, le=1e15)]
_Measured = Annotated[float, msgspec.Meta(ge=0, le=1e15)]


class Limits(msgspec.Struct, frozen=True):
    """What one gateway can carry; a load test sets them. Others divide by them: none is 0."""

    connections: Annotated[int, msgspec.Meta(ge=1, le=2**31)] = 10_000
    joins_per_s: _Limit = 500.0
    cpu: _Limit = 0.7
    loop_lag_ms: _Limit = 50.0
    bytes_per_s: _Limit = 100e6
    packets_per_s: _Limit = 100e3


class HotRoom(msgspec.Struct, frozen=True):
    """A room with many viewers at a gateway."""

    room: str
    connections: Count


class LoadReport(msgspec.Struct, frozen=True):
    """One gateway's load, every second. Rates are per second over the last one; None: not known (never zero).

    `cpu` is the busy share of one core, `generation` the start time in milliseconds: a restarted gateway has another one.
    `delay_ms` is the longest from an interaction's acceptance to its push since the last report, `hot` the rooms with most
    viewers here.
    """

    v: int
    gateway: str
    generation: Generation
    state: GatewayState
    at_ms: Millis
    url: str
    host: str
    ip: str
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)]
    zone: str = ""
    limits: Limits = Limits()
    connections: Count | None = None
    users: Count | None = None
    rooms: Count | None = None
    joins_per_s: _Measured | None = None
    leaves_per_s: _Measured | None = None
    batches_per_s: _Measured | None = None
    bytes_per_s: _Measured | None = None
    packets_per_s: _Measured | None = None
    cpu: _Measured | None = None
    loop_lag_ms: _Measured | None = None
    rss_bytes: Count | None = None
    load1: _Measured | None = None
    io_per_s: _Measured | None = None
    sockets: Count | None = None
    slow: Count | None = None
    lag_records: Count | None = None
    delay_ms: _Measured | None = None
    hot: tuple[HotRoom, ...] = ()


class OrderKind(Enum):
    """What the pool may ask of a gateway; of the pool itself: not to change (`pause`), and to go on (`resume`)."""

    DRAIN = "drain"
    SHED = "shed"
    RESUME = "resume"
    PAUSE = "pause"


class Order(msgspec.Struct, frozen=True):
    """An order to one gateway, void for any other generation of it. `rate_per_s`: viewers a second, for `shed`.

    `gateway` "*": to the pool, by the operator `reason` names.
    """

    v: int
    gateway: str
    generation: Generation
    kind: OrderKind
    at_ms: Millis
    reason: str
    rate_per_s: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0


class RuleKind(Enum):
    """What a record of `moderation` sets: one mode of a room, one user's mute or ban in it, or a word it does not take."""

    MODE = "mode"
    MUTE = "mute"
    BAN = "ban"
    WORD = "word"


class Moderation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record of `moderation`: one rule, by which the last one of its key holds (`rule_key`).

    `name`: the mode, the user, or the word. `until_ms`: of mutes and bans; 0: lifted, -1: for good. `value`: the mode's
    value; of a word what to do (WordAction; null: taken off). `by`, `why`, `id`: who set it, why, and the request's id.
    `room` "*": all rooms.
    """

    v: int
    room: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9_-]{1,64}|\*)\Z")]
    at_ms: Millis
    kind: RuleKind
    name: str
    by: str = ""
    why: str = ""
    id: str = ""
    until_ms: int = 0
    value: Any = None


class Audit(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who did what in which room, to whom or what (`target`), and why. `what`: the details, as they were asked for."""

    v: int
    at_ms: Millis
    room: str
    by: str
    role: Role
    action: str
    target: str = ""
    why: str = ""
    id: str = ""
    what: Any = None


class DeadLetter(msgspec.Struct, frozen=True):
    """An uplink record that could not be used: where it lay, why, and its bytes."""

    v: int
    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    at_ms: Millis
    key: bytes
    value: bytes


def encode_json(record: msgspec.Struct) -> bytes:
    """Return the value of a record of any JSON topic."""
    return _encoder.encode(record)


class JsonReader(Generic[R]):
    """Reads the records of one JSON topic: `JsonReader(LoadReport).read(value)`."""

    def __init__(self, of: type[R]) -> None:
        self._decoder = msgspec.json.Decoder(of)

    def read(self, value: bytes | None) -> R:
        """Return the record, or raise `BadRecordError`. A tombstone (no value) is the caller's to see first."""
        if value is None:
            raise BadRecordError(BadRecord.UNDECODABLE, "no value")
        try:
            record = self._decoder.decode(value)
        except msgspec.ValidationError as error:
            raise _misfit(value, error) from None
        except UNDECODABLE as error:
            raise BadRecordError(BadRecord.UNDECODABLE, str(error)) from None
        if (version := getattr(record, "v", VERSION)) != VERSION:
            raise _foreign(version)
        return record


def schemas() -> dict[str, Any]:
    """Return the JSON Schema of the public `uplink` record; docs/schemas/uplink.json is made from it."""
    return msgspec.json.schema(Uplink)
