"""The body of each kind of interaction: the `data` of uplink items and of messages. Pure.

The ingress checks requests against these, and refuses a field that they do not have. The
broadcaster checks records of `uplink` against them (`broadcaster.items`), and passes over such a
field: a newer service may have written it.
"""

from enum import Enum
from typing import Annotated, Any, Final

import msgspec

from liveroom.kinds import Kind
from liveroom.records.codec import USER_PATTERN, NoUserOrId, UserId, named
from liveroom.users import MAX_USER_ID_CHARS, check_user_id

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
ShortText = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
NamedUserId = Annotated[str, named(*USER_PATTERN)]  # `check_user_id` refuses others with a message that names the right one
Link = Annotated[str, msgspec.Meta(max_length=500, pattern=r"^(https://[^\s]+)?\Z")]
Millis = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Mode(Enum):
    """How a danmaku moves over the video."""

    SCROLL = "scroll"
    TOP = "top"
    BOTTOM = "bottom"
    REVERSE = "reverse"


class Danmaku(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of text over the video.

    - `color`: RGB as one integer.
    - `mode`: how it moves.
    - `size`: font size in pixels.
    - `reply`: id of the message that it answers.
    - `mention`: ids of the users that it mentions.
    """

    text: ShortText
    color: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFF)] = 0xFFFFFF
    mode: Mode = Mode.SCROLL
    size: Annotated[int, msgspec.Meta(ge=12, le=64)] = 25
    reply: Annotated[str, msgspec.Meta(max_length=80)] = ""
    mention: Annotated[list[NamedUserId], msgspec.Meta(max_length=10)] = []

    def check_ids(self) -> None:
        """Raise UserIdError where a mention is no user id; the message names the right one."""
        for place, user in enumerate(self.mention):
            check_user_id(user, f"$.mention[{place}]")


class Gift(msgspec.Struct, frozen=True, omit_defaults=True):
    """A paid gift.

    - `gift`: which gift.
    - `combo`: the sender's running count of this gift.
    - `to`: whom it is for, a user id or any other text.
    """

    gift: Id
    count: Annotated[int, msgspec.Meta(ge=1, le=99_999)] = 1
    combo: Annotated[int, msgspec.Meta(ge=0, le=9_999_999)] = 0
    to: Annotated[str, msgspec.Meta(max_length=MAX_USER_ID_CHARS)] = ""


class Like(msgspec.Struct, frozen=True, omit_defaults=True):
    """Likes. A client may send the sum of several taps."""

    count: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1


class Announcement(msgspec.Struct, frozen=True, omit_defaults=True):
    """A text above the chat, shown until the next one; an empty text removes it."""

    text: Annotated[str, msgspec.Meta(max_length=500)]
    link: Link = ""


class RedPacket(msgspec.Struct, frozen=True, omit_defaults=True):
    """A red packet whose money viewers can grab.

    The service that issued `packet` decides who gets how much.

    - `count`: number of shares.
    - `opens_ms`: when it opens.
    """

    packet: Id
    text: Annotated[str, msgspec.Meta(max_length=200)] = ""
    count: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    opens_ms: Millis = 0


class Coupon(msgspec.Struct, frozen=True, omit_defaults=True):
    """A coupon that viewers can take.

    The service that issued `coupon` decides who gets one.

    - `count`: number of coupons.
    - `ends_ms`: until when it can be taken.
    """

    coupon: Id
    text: Annotated[str, msgspec.Meta(max_length=200)] = ""
    count: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    ends_ms: Millis = 0


class Goods(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something for sale, shown as a card.

    - `price`: in the smallest unit of `currency`, whose digits ISO 4217 names: 1200 is 12.00 USD,
      1200 JPY or 1.200 KWD.
    - `image`, `link`: https URLs.
    """

    goods: Id
    title: ShortText
    price: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    currency: Annotated[str, msgspec.Meta(pattern=r"^([A-Z]{3})?\Z")] = ""
    image: Link = ""
    link: Link = ""


class Visit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A notable viewer arrives or leaves; `badge` says how the viewer is shown."""

    badge: Annotated[str, msgspec.Meta(max_length=64)] = ""
    text: Annotated[str, msgspec.Meta(max_length=200)] = ""


class Custom(msgspec.Struct, frozen=True, omit_defaults=True):
    """Anything that an application defines: stickers, votes, effects.

    liveroom never interprets `body`, which is any JSON of up to 2 KiB.
    """

    type: Id
    body: Any = None


class Clear(msgspec.Struct, frozen=True, omit_defaults=True):
    """Removes one message, or all messages of a user so far.

    - `id`: the message, in a package with its `#index`.
    - `sender`: the user whose message it is, since two users may choose the same id. Empty in the
      clears of version 0.1: they remove every message with that id.
    - `user`: the user whose messages are all removed.
    - `before_ms`: messages that the user sent before this time are removed too if they arrive
      later. The `clear` of a ban sets it beyond the ban's own time, until the ban is known
      everywhere.
    """

    id: Annotated[str, msgspec.Meta(max_length=80)] = ""
    user: NoUserOrId = ""
    before_ms: Millis = 0
    sender: NoUserOrId = ""

    def takes(self, kind: str, message_id: str, user: str) -> bool:
        """Return whether this takes away a message of that kind, id and user that was numbered
        before it. Another clear stays.
        """
        if kind == Kind.CLEAR.value:
            return False
        if self.user != "" and user == self.user:
            return True
        return self.id != "" and message_id == self.id and self.sender in {"", user}


class Sanction(msgspec.Struct, frozen=True, omit_defaults=True):
    """A mute, ban or kick of `user`.

    - `until_ms`: its end in milliseconds since 1970; -1 means permanent, 0 lifted.
    - `why`: the reason, which the user sees.
    """

    user: UserId
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
