"""The kinds of interaction, their classes, and the roles of users. Data only, pure."""

from enum import Enum, IntEnum, StrEnum
from typing import Final


class Kind(StrEnum):
    """The kind of an interaction or message. A later version may have more."""

    __hash__ = str.__hash__  # Enum's own hash is Python code, and every item's kind is looked up

    DANMAKU = "danmaku"
    GIFT = "gift"
    LIKE = "like"
    RED_PACKET = "red_packet"
    COUPON = "coupon"
    GOODS = "goods"
    ANNOUNCEMENT = "announcement"
    ENTER = "enter"
    LEAVE = "leave"
    CUSTOM = "custom"
    ROOM = "room"
    CLEAR = "clear"
    DISSOLVE = "dissolve"
    REOPEN = "reopen"
    MUTE = "mute"
    UNMUTE = "unmute"
    BAN = "ban"
    UNBAN = "unban"
    KICK = "kick"


class Class(Enum):
    """How interactions of a kind reach viewers.

    - RELIABLE: numbered in `seq` and `rseq`, never thinned.
    - BEST_EFFORT: numbered in `seq`, may be thinned.
    - FOLDED: added to a sum in the batch's header, without a number.
    - NOTICE: sent to one user, without a number, which would be a hole for all others.
    """

    RELIABLE = "reliable"
    BEST_EFFORT = "best_effort"
    FOLDED = "folded"
    NOTICE = "notice"


CLASS_OF: Final[dict[Kind, Class]] = {
    Kind.DANMAKU: Class.BEST_EFFORT,
    Kind.GIFT: Class.RELIABLE,
    Kind.LIKE: Class.FOLDED,
    Kind.RED_PACKET: Class.RELIABLE,
    Kind.COUPON: Class.RELIABLE,
    Kind.GOODS: Class.RELIABLE,
    Kind.ANNOUNCEMENT: Class.RELIABLE,
    Kind.ENTER: Class.BEST_EFFORT,
    Kind.LEAVE: Class.BEST_EFFORT,
    Kind.CUSTOM: Class.BEST_EFFORT,
    Kind.ROOM: Class.RELIABLE,
    Kind.CLEAR: Class.RELIABLE,
    Kind.DISSOLVE: Class.RELIABLE,
    Kind.REOPEN: Class.RELIABLE,
    Kind.MUTE: Class.NOTICE,
    Kind.UNMUTE: Class.NOTICE,
    Kind.BAN: Class.NOTICE,
    Kind.UNBAN: Class.NOTICE,
    Kind.KICK: Class.NOTICE,
}


class Role(StrEnum):
    """The role of a user, from the token. A viewer's message has it as text, like `Kind`."""

    __hash__ = str.__hash__

    GUEST = "guest"
    VIEWER = "viewer"
    STREAMER = "streamer"
    MODERATOR = "moderator"
    OPERATOR = "operator"
    SERVICE = "service"


HOSTS_OF_ROOMS: Final = frozenset({Role.STREAMER, Role.MODERATOR})  # of the rooms that their tokens name
_HOSTS: Final = HOSTS_OF_ROOMS | {Role.OPERATOR}
_RANK: Final[dict[str, int]] = {
    Role.GUEST: 0,
    Role.VIEWER: 0,
    Role.MODERATOR: 1,
    Role.STREAMER: 2,
    Role.OPERATOR: 3,
    Role.SERVICE: 3,
}
_HIGHEST: Final = max(_RANK.values())


def outranks(role: str, other: str) -> bool:
    """Return whether a user with `role` may act on one with the role `other`.

    Nobody may act on an equal or a better: operators rank before streamers, these before
    moderators, and these before all who are no hosts. Nobody ranks before a service, nor before a
    role that only a later version knows.
    """
    return _RANK.get(role, _HIGHEST) > _RANK.get(other, _HIGHEST)


def may_undo(role: str, set_by: str | None) -> bool:
    """Return whether a host with `role` may change or lift a rule that the role `set_by` set.

    That needs at least the same rank: an equal's rule may be lifted, a better's may not. None: an
    earlier version wrote the rule without a role, and every host may lift it, as then.
    """
    return set_by is None or not outranks(set_by, role)


def is_host(role: Role) -> bool:
    """Return whether a user with `role` moderates: a moderator, a streamer, or an operator."""
    return role in _HOSTS


class Outcome(Enum):
    """What the owner of a partition did with an interaction. Each taken one has exactly one."""

    NUMBERED = "numbered"
    FOLDED = "folded"
    NOTICED = "noticed"
    SKIPPED = "skipped"
    DUPLICATE = "duplicate"
    DEAD_LETTERED = "dead_lettered"


class RecordType(IntEnum):
    """The three records of the `broadcast` topic."""

    CLAIM = 1
    BATCH = 2
    SNAPSHOT = 3
