"""What an uplink record holds: its items by class, their bodies checked, and what a sanction makes.
Pure.

Owns the reading of bodies. Refuses one that is not of its kind (`BadBodyError`): viewers and other
readers may rely on `liveroom.bodies`. A field that a body does not have passes, and so does a mode
of danmaku that only a later version knows; `custom`, `dissolve` and `reopen` are not read. Called
by `broadcaster.rooms`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple
from zlib import crc32

import msgspec

from liveroom.bodies import BODY_OF, Clear, Danmaku, Mode, Sanction
from liveroom.far_times import AHEAD_MS
from liveroom.kinds import CLASS_OF, Class, Kind, is_host
from liveroom.nesting import UNDECODABLE
from liveroom.records.broadcast import NoticeEntry
from liveroom.records.codec import MAX_MILLIS, UserId
from liveroom.records.snapshot import RoomChange
from liveroom.records.uplink import Item, Uplink
from liveroom.topics import room_hash
from liveroom.wire import Notice, encode_frame

BAN_KNOWN_MS: Final = 2000  # until every ingress knows of a ban, twice over

NUMBERED: Final = frozenset(kind for kind, belongs in CLASS_OF.items() if belongs in {Class.RELIABLE, Class.BEST_EFFORT})
RELIABLE: Final = frozenset(kind for kind, belongs in CLASS_OF.items() if belongs is Class.RELIABLE)

_encode: Final = msgspec.json.Encoder().encode
_Danmaku: Final = msgspec.defstruct(
    "Danmaku",
    [("mode", str, Mode.SCROLL.value), ("mention", Annotated[list[UserId], msgspec.Meta(max_length=10)], [])],
    bases=(Danmaku,),
    frozen=True,
    omit_defaults=True,
)
_DECODERS: Final[dict[Kind, msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(of)
    for kind, of in (
        {kind: of for kind, of in BODY_OF.items() if kind is not Kind.CUSTOM}
        | {Kind.DANMAKU: _Danmaku, Kind.CLEAR: Clear, Kind.ROOM: RoomChange}
        | {kind: Sanction for kind, belongs in CLASS_OF.items() if belongs is Class.NOTICE}
    ).items()
}
_decode_danmaku: Final = _DECODERS[Kind.DANMAKU].decode
_DIGESTS: Final = {kind: kind.encode() for kind in BODY_OF}  # of kinds that no command of a host has
_BY_KIND_ALONE: Final = {Kind.DANMAKU, Kind.CUSTOM}


class BadBodyError(ValueError):
    """An interaction whose body its kind does not allow; nothing of its record was taken."""


class Contents(NamedTuple):
    """What a record's items are.

    - `likes`: their sum.
    - `numbered`, `reliable`: how many items take a number, and how many of those are reliable.
    - `sanctions`: the mutes, bans and kicks.
    - `clears`: the clears of whole users.
    - `digest`: of a record with something reliable, the same for the same content (`digest_of`).
    """

    likes: int
    numbered: int
    reliable: int
    sanctions: Sequence[tuple[Kind, Sanction]]
    clears: Sequence[Clear]
    digest: int = 0


ONE_DANMAKU: Final = Contents(0, 1, 0, (), ())


def check_danmaku(item: Item) -> None:
    """Raise BadBodyError unless the body is that of a danmaku."""
    try:
        _decode_danmaku(item.data)
    except UNDECODABLE as error:
        raise BadBodyError(f"danmaku: {error}") from None


def read_items(items: Sequence[Item]) -> Contents:
    """Return what the items of a record are, or raise BadBodyError."""
    likes = numbered = reliable = 0
    sanctions: list[tuple[Kind, Sanction]] = []
    clears: list[Clear] = []
    bodies: list[Any] = []
    for item in items:
        kind, body = item.kind, _body(item)
        bodies.append(body)
        if kind in NUMBERED:
            numbered += 1
            if kind in RELIABLE:
                reliable += 1
                if kind is Kind.CLEAR and body.user:
                    clears.append(body)
        elif kind is Kind.LIKE:
            likes += body.count
        else:
            sanctions.append((kind, body))
    return Contents(likes, numbered, reliable, sanctions, clears, digest_of(items, bodies) if reliable else 0)


def is_long_remembered(items: Sequence[Item]) -> bool:
    """Return whether the id of a record is remembered for each room, and across owners."""
    return any(item.kind in RELIABLE or CLASS_OF[item.kind] is Class.NOTICE for item in items)


def digest_of(items: Sequence[Item], bodies: Sequence[Any]) -> int:
    """Return 32 bits that differ where the items of two records do; 0: nothing is known of it.

    Bodies differ by the values of their fields, however they were written. Of danmaku and `custom`
    the kind alone counts: the lists of words may have changed what is masked in a text since, and
    nobody reads `custom`. Nothing is known of a record with a host's command: the ingress gives it
    other times when it is sent again.
    """
    digest = 0
    for item, body in zip(items, bodies, strict=True):
        if (of_kind := _DIGESTS.get(item.kind)) is None:
            return 0
        digest = crc32(b"" if item.kind in _BY_KIND_ALONE else _encode(body), crc32(of_kind, digest))
    return digest


def digest_of_message(kind: str, data: bytes) -> int:
    """Return the digest of a record that made this message alone; 0: nothing is known of it."""
    try:
        item = Item(Kind(kind), msgspec.Raw(data))
        return digest_of([item], [_body(item)])
    except ValueError:  # an earlier version took it unread, or a later one knows more
        return 0


def _body(item: Item) -> Any:
    """Return the body of an item, None where it is not read; raise BadBodyError."""
    if (decoder := _DECODERS.get(item.kind)) is None:
        return None
    try:
        return decoder.decode(item.data)
    except UNDECODABLE as error:
        raise BadBodyError(f"{item.kind.value}: {error}") from None


def notice_of(record: Uplink, room: int, kind: Kind, sanction: Sanction) -> tuple[NoticeEntry, bytes]:
    """Return the notice that its user gets of a sanction in the room with this hash."""
    by_role = record.role.value if is_host(record.role) else ""
    text = encode_frame(Notice(record.room, kind, record.id, record.at_ms, sanction.until_ms, sanction.why, by_role))
    return NoticeEntry(room, room_hash(sanction.user), len(text)), text


def clear_of(record: Uplink, user: str) -> Clear:
    """Return the `clear` that a ban implies.

    It also covers what the user sends until every ingress knows of the ban.
    """
    return Clear(user=user, before_ms=min(record.at_ms + BAN_KNOWN_MS, MAX_MILLIS))


def near_clears(record: Uplink, written_ms: int) -> Uplink | None:
    """Return the record with clears that hide nothing of the future; None: it has no others.

    `written_ms` is Kafka's time of the record. The clock of the host's ingress may be ahead: such a
    clear would hide what its user sends for as long.
    """
    latest_ms = written_ms + AHEAD_MS + BAN_KNOWN_MS
    items, is_far = [], False
    for item in record.items:
        clear = _body(item) if item.kind is Kind.CLEAR else None
        if clear is not None and clear.before_ms > latest_ms:
            is_far = True
            items.append(Item(Kind.CLEAR, msgspec.Raw(_encode(msgspec.structs.replace(clear, before_ms=written_ms)))))
        else:
            items.append(item)
    return msgspec.structs.replace(record, items=items) if is_far else None


def with_item(record: Uplink, kind: Kind, body: msgspec.Struct) -> Uplink:
    """Return this record with one other item, which is in no package."""
    return msgspec.structs.replace(record, items=[Item(kind, msgspec.Raw(_encode(body)))], package="")
