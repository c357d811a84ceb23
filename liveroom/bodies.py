"""What an interaction of each kind carries: the `data` of uplink items and of messages, as viewers
get it. Pure.

Ingress checks requests against these; foreign producers of `uplink` are asked to keep to them
(docs/records.md).
"""

from enum import Enum
from typing import Annotated, Any, Final

import msgspec

from liveroom.kinds import Kind

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
ShortText = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Link = Annotated[str, msgspec.Meta(max_length=500, pattern=r"^(https://[^\s]+)?\Z")]
Millis = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Mode(Enum):
    """How a danmaku moves over the stage."""

    SCROLL = "scroll"
    TOP = "top"
    BOTTOM = "bottom"
    REVERSE = "reverse"


class Danmaku(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A line of text over the stage.

    `color`: RGB. `size`: pixels. `reply`: id of a message; `mention`: user ids.
    """

    text: ShortText
    color: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFF)] = 0xFFFFFF
    mode: Mode = Mode.SCROLL
    size: Annotated[int, msgspec.Meta(ge=12, le=64)] = 25
    reply: Annotated[str, msgspec.Meta(max_length=80)] = ""
    mention: Annotated[list[Id], msgspec.Meta(max_length=10)] = []


class Gift(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A gift that was paid for. `combo`: the sender's running count of this gift."""

    gift: Id
    count: Annotated[int, msgspec.Meta(ge=1, le=99_999)] = 1
    combo: Annotated[int, msgspec.Meta(ge=0, le=9_999_999)] = 0
    to: Annotated[str, msgspec.Meta(max_length=64)] = ""


class Like(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Likes; a client may send the sum of several taps."""

    count: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1


class Announcement(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A text above the chat until the next one; an empty one takes it away."""

    text: Annotated[str, msgspec.Meta(max_length=500)]
    link: Link = ""


class RedPacket(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A red packet to grab.

    Who gets what is decided by the service behind `packet`. `count`: shares; `opens_ms`: when it
    opens.
    """

    packet: Id
    text: Annotated[str, msgspec.Meta(max_length=200)] = ""
    count: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    opens_ms: Millis = 0


class Coupon(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A coupon to take.

    Who gets one is decided by the service behind `coupon`. `ends_ms`: until when it can be taken.
    """

    coupon: Id
    text: Annotated[str, msgspec.Meta(max_length=200)] = ""
    count: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    ends_ms: Millis = 0


class Goods(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A card of something for sale. `price`: in the smallest unit of `currency`."""

    goods: Id
    title: ShortText
    price: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    currency: Annotated[str, msgspec.Meta(pattern=r"^([A-Z]{3})?\Z")] = ""
    image: Link = ""
    link: Link = ""


class Visit(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Somebody notable comes or goes. `badge`: how they are shown."""

    badge: Annotated[str, msgspec.Meta(max_length=64)] = ""
    text: Annotated[str, msgspec.Meta(max_length=200)] = ""


class Custom(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Whatever an application wants: stickers, votes, effects.

    Nobody here looks into `body` (any JSON, 2 KiB).
    """

    type: Id
    body: Any = None


class Clear(msgspec.Struct, frozen=True, omit_defaults=True):
    """Takes one message away (`id`, with its `#index` in a package), or all of one user so far
    (`user`).

    `before_ms`: what this user sent before then and comes later goes too: a ban's own goes beyond
    it by the time that the ban needs to be known everywhere.
    """

    id: Annotated[str, msgspec.Meta(max_length=80)] = ""
    user: Annotated[str, msgspec.Meta(max_length=64)] = ""
    before_ms: Millis = 0


class Sanction(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a mute, ban or kick says, and to whom.

    `until_ms`: milliseconds since 1970, -1: for good, 0: it is lifted.
    """

    user: Id
    until_ms: int = 0
    why: Annotated[str, msgspec.Meta(max_length=200)] = ""


MAX_CUSTOM_BYTES: Final = 2048

BODY_OF: Final[dict[Kind, type[msgspec.Struct]]] = {
    Kind.DANMAKU: Danmaku,
    Kind.GIFT: Gift,
    Kind.LIKE: Like,
    Kind.RED_PACKET: RedPacket,
    Kind.COUPON: Coupon,
    Kind.GOODS: Goods,
    Kind.ANNOUNCEMENT: Announcement,
    Kind.ENTER: Visit,
    Kind.LEAVE: Visit,
    Kind.CUSTOM: Custom,
}
