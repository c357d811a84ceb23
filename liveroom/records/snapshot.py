"""The state that outlives an owner of a partition: the content of a SNAPSHOT. Pure.

Each room is packed on its own. The state of a partition and that of each room are typed sections
(`liveroom.records.sections`). An owner keeps the sections that it does not know and writes them
again, so that a later version finds them after an earlier one ruled in between.
"""

import zlib
from collections.abc import Sequence
from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812 - beside Layout
from typing import Annotated, Any, Final

import msgspec

from liveroom.nesting import UNDECODABLE
from liveroom.records.balance import Balance, decode_balance, encode_balance
from liveroom.records.broadcast import MAX_BROADCAST_BYTES
from liveroom.records.codec import BadRecord, BadRecordError, Count, Millis, UserId
from liveroom.records.sections import Section, SectionType, decode_sections, encode_sections

MAX_STATE_BYTES: Final = 512 * 1024 * 1024  # a partition's state unpacked; zlib can pack 1 GB of nothing into 1 MB
# MAX_ROOM_BYTES bounds one room of a snapshot, inflated. Ten minutes of 1,000 reliable interactions
# a second are 600,000 ids of at most 275 bytes (192 of the user, 64 of the interaction): 165 MB.
MAX_ROOM_BYTES: Final = 192 * 1024 * 1024


class Tombstone(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a `clear` removed.

    - `seq`, `rseq`: numbers of the `clear` itself; it removes only earlier messages.
    - `ids`: the removed messages, all of the same `sender`; empty: of whomever.
    - `user`: the user whose messages are all removed.
    - `before_ms`: messages that the user sent before this time are removed too if they arrive
      later.
    """

    seq: int
    rseq: int
    ids: list[str] = []
    user: str = ""
    before_ms: Millis = 0
    sender: str = ""


class RoomSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """A room's modes, as its room snapshot shows them.

    - `slow_s`: seconds between two messages of one user.
    - `muted_all`: only hosts and the users in `allow` may speak.
    - `followers_only`, `subscribers_only`: only followers or subscribers may speak.
    - `no_media`: only text is accepted.
    - `fold_identical`: identical danmaku become one with a count.
    - `limit_per_s`: danmaku per second, beyond which they are thinned; 0 means the system's limit.
    - `hidden`: for the application, which leaves the room out of its lists; liveroom has no lists
      of rooms.
    - `dissolved`: nobody may join or send.
    - `guests`: guests may join; if not, they are refused, and those inside are put out.
    - `restricted`: viewers and guests need a token that names the room in its `rooms`.
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
    guests: bool = True
    restricted: bool = False


class RoomChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """Modes of a room that change (`RoomSettings`); absent ones stay as they are.

    Readers pass over modes that they do not know.
    """

    slow_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] | msgspec.UnsetType = msgspec.UNSET
    muted_all: bool | msgspec.UnsetType = msgspec.UNSET
    allow: Annotated[list[UserId], msgspec.Meta(max_length=200)] | msgspec.UnsetType = msgspec.UNSET
    followers_only: bool | msgspec.UnsetType = msgspec.UNSET
    subscribers_only: bool | msgspec.UnsetType = msgspec.UNSET
    no_media: bool | msgspec.UnsetType = msgspec.UNSET
    fold_identical: bool | msgspec.UnsetType = msgspec.UNSET
    limit_per_s: Count | msgspec.UnsetType = msgspec.UNSET
    hidden: bool | msgspec.UnsetType = msgspec.UNSET
    guests: bool | msgspec.UnsetType = msgspec.UNSET
    restricted: bool | msgspec.UnsetType = msgspec.UNSET

    def modes(self) -> dict[str, Any]:
        """Return what changes, by name."""
        changed = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not msgspec.UNSET}
        return {name: _USUAL[name] if value == _USUAL.get(name) else value for name, value in changed.items()}


_USUAL: Final = msgspec.structs.asdict(RoomSettings())  # the very objects, or they would be written though they are usual


class Seen(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The id of a reliable interaction of the last 10 minutes.

    `digest`: CRC-32 of its content; 0: not known, as in the snapshots of version 0.1.
    """

    user: str
    id: str
    at_ms: int
    digest: int = 0


class RoomFields(msgspec.Struct, array_like=True):
    """The state of one room that outlives an owner, in the section `ROOM_STATE`.

    - `epoch`: the room's epoch.
    - `seq`, `rseq`: newest numbers of all messages, and of reliable ones.
    - `likes`: the total, which viewers see.
    - `settings`, `announcement`: modes, and the current announcement.
    - `tombstones`: what was cleared.
    - `seen`: ids of reliable interactions, to recognise duplicates.
    - `recent`, `recent_reliable`: the last messages, as the lines that viewers get.
    - `last_ms`: Kafka's timestamp of the last interaction.
    """

    room: str
    epoch: int
    seq: int = 0
    rseq: int = 0
    likes: int = 0
    settings: RoomSettings = RoomSettings()
    announcement: bytes = b""
    tombstones: list[Tombstone] = []
    seen: list[Seen] = []
    recent: list[bytes] = []
    recent_reliable: list[bytes] = []
    last_ms: int = 0


class RoomState(RoomFields):
    """All of a room that outlives an owner. `others`: sections that only a later version knows."""

    others: tuple[Section, ...] = ()


class StoredRoom(msgspec.Struct, array_like=True, gc=False):
    """A room in a snapshot, packed on its own.

    So an owner packs only rooms that changed, and opens only those that it needs.

    - `last_ms`: Kafka's timestamp of the room's last interaction; 0 where nobody ever spoke.
    - `data`: the room's state.
    - `epoch`: the room's epoch; 0 where only its state has it, as version 0.1 writes it.
    - `is_chatter`: whether it holds nothing but what any viewer may bring about: best-effort
      messages, likes, and ids of notices, such as mutes by the system. Only such a room may be
      forgotten early.
    - `seen_ms`: Kafka's timestamp of the newest id in it that may not be forgotten for 10 minutes;
      0 for none.
    """

    room: str
    last_ms: int
    data: bytes
    epoch: int = 0
    is_chatter: bool = False
    seen_ms: int = 0


class PartitionState(msgspec.Struct):
    """The content of a SNAPSHOT: the owner's balance and every live room of the partition.

    `clock_ms` is Kafka's timestamp of the newest uplink record that it reflects. `others`: sections
    that only a later version knows. `epoch_floor`: no room that is not here may get an epoch below
    this; version 0.1 writes none.
    """

    balance: Balance
    clock_ms: int
    rooms: list[StoredRoom]
    others: tuple[Section, ...] = ()
    epoch_floor: int = 1


_room_decoder: Final = msgspec.msgpack.Decoder(RoomFields)
_rooms_decoder: Final = msgspec.msgpack.Decoder(list[StoredRoom])
_packer: Final = msgspec.msgpack.Encoder()
_CLOCK: Final = Layout("<q")
_FLOOR: Final = Layout("<I")
_OF_ROOM: Final = frozenset({int(SectionType.ROOM_STATE)})
_OF_STATE: Final = frozenset(
    map(int, (SectionType.BALANCE, SectionType.CLOCK, SectionType.STORED_ROOMS, SectionType.EPOCH_FLOOR))
)


def encode_room(state: RoomState) -> StoredRoom:
    """Return a room in the form that a snapshot contains."""
    is_chatter = not (state.rseq or state.others) and state.settings == RoomSettings()
    seen_ms = state.seen[-1].at_ms if state.seen else 0
    return StoredRoom(state.room, state.last_ms, zlib.compress(pack_room(state), 1), state.epoch, is_chatter, seen_ms)


def pack_room(state: RoomState) -> bytes:
    """Return the sections of a room, before they are compressed."""
    *fields, others = msgspec.structs.astuple(state)
    return encode_sections([(SectionType.ROOM_STATE, _packer.encode(fields)), *others])


def decode_room(stored: StoredRoom) -> RoomState:
    """Return the room that `encode_room` packed; raise BadRecordError if it cannot be read."""
    engine = zlib.decompressobj()
    try:
        plain = engine.decompress(stored.data, MAX_ROOM_BYTES)
        if not engine.eof or engine.unused_data:
            raise BadRecordError(BadRecord.TRUNCATED, f"room {stored.room} in a snapshot")
        state = unpack_room(plain)
    except (zlib.error, *UNDECODABLE) as error:
        raise BadRecordError(BadRecord.UNDECODABLE, f"room {stored.room} in a snapshot: {error}") from None
    if state.room != stored.room:
        raise BadRecordError(BadRecord.UNDECODABLE, f"room {stored.room} in a snapshot is {state.room}")
    return state


def unpack_room(plain: bytes) -> RoomState:
    """Return the room that `pack_room` wrote. Raises BadRecordError and the errors of a decoder."""
    sections = decode_sections(plain, 0, _OF_ROOM, as_owner=True)
    fields = _room_decoder.decode(sections.of(SectionType.ROOM_STATE))
    return RoomState(**msgspec.structs.asdict(fields), others=sections.others)


def encode_state(state: PartitionState, chunk_bytes: int = MAX_BROADCAST_BYTES - 1024) -> list[bytes]:
    """Return a partition's state as the data of SNAPSHOT chunks of `chunk_bytes`, at least one.

    Raises BadRecordError if the state exceeds `MAX_STATE_BYTES`.
    """
    packed = encode_sections(
        [
            (SectionType.BALANCE, encode_balance(state.balance)),
            (SectionType.CLOCK, _CLOCK.pack(state.clock_ms)),
            (SectionType.STORED_ROOMS, _packer.encode(state.rooms)),
            (SectionType.EPOCH_FLOOR, _FLOOR.pack(state.epoch_floor)),
            *state.others,
        ]
    )
    if len(packed) > MAX_STATE_BYTES:
        raise BadRecordError(BadRecord.TOO_LARGE, f"a state of {len(packed)} bytes, at most {MAX_STATE_BYTES}")
    return [packed[i : i + chunk_bytes] for i in range(0, len(packed), chunk_bytes)]


def decode_state(chunks: Sequence[bytes]) -> PartitionState:
    """Return the state that `encode_state` cut into `chunks`.

    Raises BadRecordError if it cannot be read.
    """
    sections = decode_sections(b"".join(chunks), 0, _OF_STATE, as_owner=True)
    try:
        (clock_ms,) = _CLOCK.unpack(sections.of(SectionType.CLOCK))
        rooms = _rooms_decoder.decode(sections.of(SectionType.STORED_ROOMS))
        floor = sections.of(SectionType.EPOCH_FLOOR)
        epoch_floor = _FLOOR.unpack(floor)[0] if floor else 1
    except LayoutError:
        raise BadRecordError(BadRecord.TRUNCATED, "a snapshot's clock or its floor of epochs") from None
    except UNDECODABLE as error:
        raise BadRecordError(BadRecord.UNDECODABLE, f"snapshot: {error}") from None
    balance = decode_balance(sections.of(SectionType.BALANCE))
    return PartitionState(balance, clock_ms, rooms, sections.others, epoch_floor)
