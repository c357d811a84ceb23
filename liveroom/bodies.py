"""What an interaction of each kind carries: the `data` of uplink items and of messages, as viewers get it. Pure.

Ingress checks requests against these; foreign producers of `uplink` are asked to keep to them (docs/records.md).
"""

from enum import Enum
from typing import Annotated, Final

import msgspec

from liveroom.kinds import Kind

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
ShortText = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Mode(Enum):
    """How a danmaku moves over the stage."""

    SCROLL = "scroll"
    TOP = "top"
    BOTTOM = "bottom"
    REVERSE = "reverse"


class Danmaku(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A line of text over the stage. `color`: RGB. `size`: pixels. `reply`: id of a message; `mention`: user ids."""

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
    link: Annotated[str, msgspec.Meta(max_length=500, pattern=r"^(https://.*)?$")] = ""


class Clear(msgspec.Struct, frozen=True, omit_defaults=True):
    """Takes one message away (`id`, with its `#index` in a package), or all of one user so far (`user`)."""

    id: Annotated[str, msgspec.Meta(max_length=80)] = ""
    user: Annotated[str, msgspec.Meta(max_length=64)] = ""


class Sanction(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a mute, ban or kick says, and to whom. `until_ms`: milliseconds since 1970, -1: for good, 0: it is lifted."""

    user: Id
    until_ms: int = 0
    why: Annotated[str, msgspec.Meta(max_length=200)] = ""


BODY_OF: Final[dict[Kind, type[msgspec.Struct]]] = {
    Kind.DANMAKU: Danmaku,
    Kind.GIFT: Gift,
    Kind.LIKE: Like,
    Kind.ANNOUNCEMENT: Announcement,
}
