"""What an uplink record holds: its items by class, their bodies checked, and what a sanction makes.
Pure.

Owns the reading of the bodies that the broadcaster acts on (likes, clears, modes, sanctions); all
others pass unread. Refuses a body that its kind does not allow (`BadBodyError`). Called by
`broadcaster.rooms`.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from liveroom.bodies import Clear, Like, Sanction
from liveroom.far_times import AHEAD_MS
from liveroom.kinds import CLASS_OF, Class, Kind, is_host
from liveroom.nesting import UNDECODABLE
from liveroom.records.broadcast import NoticeEntry
from liveroom.records.codec import MAX_MILLIS
from liveroom.records.snapshot import RoomChange
from liveroom.records.uplink import Item, Uplink
from liveroom.topics import room_hash
from liveroom.wire import Notice, encode_frame

BAN_KNOWN_MS: Final = 2000  # until every ingress knows of a ban, twice over

NUMBERED: Final = frozenset(kind for kind, belongs in CLASS_OF.items() if belongs in {Class.RELIABLE, Class.BEST_EFFORT})
RELIABLE: Final = frozenset(kind for kind, belongs in CLASS_OF.items() if belongs is Class.RELIABLE)

T = TypeVar("T")

_like_decoder: Final = msgspec.json.Decoder(Like)
_sanction_decoder: Final = msgspec.json.Decoder(Sanction)
_encode: Final = msgspec.json.Encoder().encode
_CHECKED: Final[dict[Kind, msgspec.json.Decoder[Any]]] = {
    Kind.CLEAR: msgspec.json.Decoder(Clear),
    Kind.ROOM: msgspec.json.Decoder(RoomChange),
}


class BadBodyError(ValueError):
    """An interaction whose body its kind does not allow; nothing of its record was taken."""


class Contents(NamedTuple):
    """What a record's items are: the sum of likes, how many items take a number and how many of
    those are reliable, the sanctions, and the clears of whole users.
    """

    likes: int
    numbered: int
    reliable: int
    sanctions: Sequence[tuple[Kind, Sanction]]
    clears: Sequence[Clear]


ONE_DANMAKU: Final = Contents(0, 1, 0, (), ())


def read_items(items: Sequence[Item]) -> Contents:
    """Return what the items of a record are, or raise `BadBodyError`."""
    likes = numbered = reliable = 0
    sanctions: list[tuple[Kind, Sanction]] = []
    clears: list[Clear] = []
    for item in items:
        kind = item.kind
        if kind in NUMBERED:
            numbered += 1
            if kind in RELIABLE:
                reliable += 1
                if (decoder := _CHECKED.get(kind)) is not None:
                    body = _body(decoder, item)
                    if kind is Kind.CLEAR and body.user:
                        clears.append(body)
        elif kind is Kind.LIKE:
            likes += _body(_like_decoder, item).count
        else:
            sanctions.append((kind, _body(_sanction_decoder, item)))
    return Contents(likes, numbered, reliable, sanctions, clears)


def _body(decoder: msgspec.json.Decoder[T], item: Item) -> T:
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
        clear = _body(_CHECKED[Kind.CLEAR], item) if item.kind is Kind.CLEAR else None
        if clear is not None and clear.before_ms > latest_ms:
            is_far = True
            items.append(Item(Kind.CLEAR, msgspec.Raw(_encode(msgspec.structs.replace(clear, before_ms=written_ms)))))
        else:
            items.append(item)
    return msgspec.structs.replace(record, items=items) if is_far else None


def with_item(record: Uplink, kind: Kind, body: msgspec.Struct) -> Uplink:
    """Return this record with one other item, which is in no package."""
    return msgspec.structs.replace(record, items=[Item(kind, msgspec.Raw(_encode(body)))], package="")
