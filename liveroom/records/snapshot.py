"""What outlives an owner of a partition: the content of a SNAPSHOT, each room packed on its own.

Pure.
"""

import zlib
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec

from liveroom.nesting import UNDECODABLE
from liveroom.records.broadcast import MAX_BROADCAST_BYTES, Balance
from liveroom.records.codec import VERSION, BadRecord, BadRecordError, Count, Millis, UserId

MAX_STATE_BYTES: Final = 512 * 1024 * 1024  # a partition's state unpacked; zlib can pack 1 GB of nothing into 1 MB
MAX_ROOM_BYTES: Final = (
    64 * 1024 * 1024
)  # one room of a snapshot, inflated: ten minutes of ids of the busiest room are a tenth of it


class Tombstone(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a `clear` took away: the messages `ids`, or all of `user`, up to itself, which is
    message (`seq`, `rseq`).

    `before_ms`: what the user sent before then goes too where it comes later.
    """

    seq: int
    rseq: int
    ids: list[str] = []
    user: str = ""
    before_ms: Millis = 0


class RoomSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """A room's modes, as its card shows them.

    `slow_s`: seconds between two messages of one user. `muted_all`: only hosts and `allow` may
    speak. `no_media`: text only. `fold_identical`: identical danmaku become one with a count.
    `limit_per_s`: danmaku a second, more are thinned (0: the system's limit). `hidden`: for the
    application, whose lists of rooms leave this one out; liveroom itself lists none. `dissolved`:
    nobody may enter or send.
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
    """All that outlives an owner of one room.

    `recent` and `recent_reliable` are message lines, as viewers get them.
    """

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
    """A room in a snapshot, packed on its own: an owner packs again only what changed and opens
    only what is needed.

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
