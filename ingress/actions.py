"""Who may do what, and in which state of a room: the one table. Data only, pure.

The routes, the OpenAPI document, the table in docs/ingress.md and the tests are made from it.
"""

from enum import Enum
from typing import Final, NamedTuple

from liveroom.kinds import Kind, Role

SPEAKERS: Final = frozenset(Role) - {Role.GUEST}
HOSTS: Final = frozenset({Role.STREAMER, Role.MODERATOR, Role.OPERATOR})
OWNERS: Final = frozenset({Role.STREAMER, Role.OPERATOR})
SELLERS: Final = OWNERS | {Role.SERVICE}
BACKENDS: Final = frozenset({Role.OPERATOR, Role.SERVICE})
OPERATORS: Final = frozenset({Role.OPERATOR})

FREE: Final = HOSTS | {Role.SERVICE}  # no room mode holds for them


class State(Enum):
    """What may keep somebody from doing something: the room's modes and the user's own mutes and bans."""

    DISSOLVED = "dissolved"
    BANNED = "banned"
    MUTED = "muted"
    ROOM_MUTED = "muted_all"
    FOLLOWERS = "followers_only"
    SUBSCRIBERS = "subscribers_only"
    SLOW = "slow_s"
    NO_MEDIA = "no_media"


_ANY: Final = frozenset({State.DISSOLVED, State.BANNED})
_SPEECH: Final = _ANY | {State.MUTED, State.ROOM_MUTED, State.FOLLOWERS, State.SUBSCRIBERS, State.SLOW}
_MEDIA: Final = _SPEECH | {State.NO_MEDIA}


class Interaction(NamedTuple):
    """A kind that is sent to a room: the last part of its path, which roles may, which states forbid it."""

    kind: Kind
    path: str
    roles: frozenset[Role]
    stopped_by: frozenset[State]
    about: str


INTERACTIONS: Final = (
    Interaction(Kind.DANMAKU, "danmaku", SPEAKERS, _SPEECH, "Say a line"),
    Interaction(Kind.GIFT, "gifts", SPEAKERS, _ANY, "Show a gift that was paid for"),
    Interaction(Kind.LIKE, "likes", SPEAKERS, _ANY, "Like, once or many times in a sum"),
    Interaction(Kind.RED_PACKET, "red-packets", SELLERS, _ANY, "Show a red packet"),
    Interaction(Kind.COUPON, "coupons", SELLERS, _ANY, "Show a coupon"),
    Interaction(Kind.GOODS, "goods", SELLERS, _ANY, "Show a card of goods"),
    Interaction(Kind.ANNOUNCEMENT, "announcements", HOSTS, _ANY, "Set the text above the chat"),
    Interaction(Kind.ENTER, "enters", BACKENDS, _ANY, "Tell that somebody notable came"),
    Interaction(Kind.LEAVE, "leaves", BACKENDS, _ANY, "Tell that somebody notable went"),
    Interaction(Kind.CUSTOM, "custom", SPEAKERS, _MEDIA, "Send what only the application understands"),
)
BY_KIND: Final = {interaction.kind: interaction for interaction in INTERACTIONS}


class Act(Enum):
    """What hosts and operators do."""

    MUTE = "mute"
    UNMUTE = "unmute"
    MUTES = "mutes"
    BAN = "ban"
    UNBAN = "unban"
    BANS = "bans"
    KICK = "kick"
    CLEAR = "clear"
    MODES = "modes"
    DISSOLVE = "dissolve"
    REOPEN = "reopen"
    STATE = "state"
    ROOM_WORDS = "room_words"
    SET_ROOM_WORD = "set_room_word"
    DROP_ROOM_WORD = "drop_room_word"
    WORDS = "words"
    SET_WORD = "set_word"
    DROP_WORD = "drop_word"
    ANNOUNCE = "announce"
    BULK = "bulk"


class Route(NamedTuple):
    """How an act is asked for, and who may."""

    act: Act
    method: str
    path: str
    roles: frozenset[Role]
    about: str


_ROOM: Final = "/v1/rooms/{room}"
ROUTES: Final = (
    Route(Act.STATE, "GET", _ROOM, HOSTS | BACKENDS, "The room as it is: numbers, totals, modes"),
    Route(Act.MUTES, "GET", f"{_ROOM}/mutes", HOSTS, "Mutes that hold, by user"),
    Route(Act.MUTE, "POST", f"{_ROOM}/mutes", HOSTS, "Mute a user for a time or for good"),
    Route(Act.UNMUTE, "DELETE", f"{_ROOM}/mutes/{{user}}", HOSTS, "Lift a mute"),
    Route(Act.BANS, "GET", f"{_ROOM}/bans", HOSTS, "Bans that hold, by user"),
    Route(Act.BAN, "POST", f"{_ROOM}/bans", HOSTS, "Ban a user for a time or for good, and clear what the user said"),
    Route(Act.UNBAN, "DELETE", f"{_ROOM}/bans/{{user}}", HOSTS, "Lift a ban"),
    Route(Act.KICK, "POST", f"{_ROOM}/kicks", HOSTS, "Put a user out of the room; it may come back"),
    Route(Act.CLEAR, "POST", f"{_ROOM}/clears", HOSTS, "Take one message off all screens, or all of a user"),
    Route(Act.MODES, "PATCH", f"{_ROOM}/modes", HOSTS, "Change the room's modes"),
    Route(Act.DISSOLVE, "POST", f"{_ROOM}/dissolve", OWNERS, "Close the room: all are put out, nobody may send or enter"),
    Route(Act.REOPEN, "POST", f"{_ROOM}/reopen", OWNERS, "Open a dissolved room again"),
    Route(Act.ROOM_WORDS, "GET", f"{_ROOM}/words", HOSTS, "Words this room does not take"),
    Route(Act.SET_ROOM_WORD, "PUT", f"{_ROOM}/words/{{word}}", HOSTS, "Set what this room does with a word"),
    Route(Act.DROP_ROOM_WORD, "DELETE", f"{_ROOM}/words/{{word}}", HOSTS, "Take a word off this room's list"),
    Route(Act.WORDS, "GET", "/v1/words", OPERATORS, "Words no room takes, beside the library files"),
    Route(Act.SET_WORD, "PUT", "/v1/words/{word}", OPERATORS, "Set what all rooms do with a word"),
    Route(Act.DROP_WORD, "DELETE", "/v1/words/{word}", OPERATORS, "Take a word off the list for all rooms"),
    Route(Act.ANNOUNCE, "POST", "/v1/announcements", OPERATORS, "Announce to all rooms that are watched, paced"),
    Route(Act.BULK, "POST", "/v1/interactions", frozenset({Role.SERVICE}), "Publish many interactions; an outcome for each"),
)
BY_ACT: Final = {route.act: route for route in ROUTES}
