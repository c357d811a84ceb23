"""Who may do what, and in which state of a room: the one table, and the checks that need nothing
else. Pure.

Refuses with `ProblemError`. The routes, the OpenAPI document, the table in docs/ingress.md and the
tests are made from it.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple

from liveroom.errors import Code, ProblemError
from liveroom.kinds import Kind, Role
from liveroom.tickets import User
from liveroom.topics import ROOM_ID

SPEAKERS: Final = frozenset(Role) - {Role.GUEST}
HOSTS: Final = frozenset({Role.STREAMER, Role.MODERATOR, Role.OPERATOR})
OWNERS: Final = frozenset({Role.STREAMER, Role.OPERATOR})
SELLERS: Final = OWNERS | {Role.SERVICE}
BACKENDS: Final = frozenset({Role.OPERATOR, Role.SERVICE})
OPERATORS: Final = frozenset({Role.OPERATOR})

FREE: Final = HOSTS | {Role.SERVICE}  # no room mode holds for them


class Restriction(Enum):
    """What may keep somebody from doing something: the room's modes and the user's own mutes and
    bans.
    """

    DISSOLVED = "dissolved"
    BANNED = "banned"
    MUTED = "muted"
    ROOM_MUTED = "muted_all"
    FOLLOWERS = "followers_only"
    SUBSCRIBERS = "subscribers_only"
    SLOW = "slow_s"
    NO_MEDIA = "no_media"


_ANY: Final = frozenset({Restriction.DISSOLVED, Restriction.BANNED})
_SPEECH: Final = _ANY | {
    Restriction.MUTED,
    Restriction.ROOM_MUTED,
    Restriction.FOLLOWERS,
    Restriction.SUBSCRIBERS,
    Restriction.SLOW,
}
_MEDIA: Final = _SPEECH | {Restriction.NO_MEDIA}


class Interaction(NamedTuple):
    """A kind that is sent to a room: the last part of its path, which roles may, which states
    forbid it.
    """

    kind: Kind
    path: str
    roles: frozenset[Role]
    stopped_by: frozenset[Restriction]
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


class Command(Enum):
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


class CommandRoute(NamedTuple):
    """How a command is asked for, and who may."""

    command: Command
    method: str
    path: str
    roles: frozenset[Role]
    about: str


_ROOM: Final = "/v1/rooms/{room}"
COMMAND_ROUTES: Final = (
    CommandRoute(Command.STATE, "GET", _ROOM, HOSTS | BACKENDS, "The room as it is: numbers, totals, modes"),
    CommandRoute(Command.MUTES, "GET", f"{_ROOM}/mutes", HOSTS, "Mutes that hold, by user"),
    CommandRoute(Command.MUTE, "POST", f"{_ROOM}/mutes", HOSTS, "Mute a user for a time or for good"),
    CommandRoute(Command.UNMUTE, "DELETE", f"{_ROOM}/mutes/{{user}}", HOSTS, "Lift a mute"),
    CommandRoute(Command.BANS, "GET", f"{_ROOM}/bans", HOSTS, "Bans that hold, by user"),
    CommandRoute(
        Command.BAN, "POST", f"{_ROOM}/bans", HOSTS, "Ban a user for a time or for good, and clear what the user said"
    ),
    CommandRoute(Command.UNBAN, "DELETE", f"{_ROOM}/bans/{{user}}", HOSTS, "Lift a ban"),
    CommandRoute(Command.KICK, "POST", f"{_ROOM}/kicks", HOSTS, "Put a user out of the room; it may come back"),
    CommandRoute(Command.CLEAR, "POST", f"{_ROOM}/clears", HOSTS, "Take one message off all screens, or all of a user"),
    CommandRoute(Command.MODES, "PATCH", f"{_ROOM}/modes", HOSTS, "Change the room's modes"),
    CommandRoute(
        Command.DISSOLVE, "POST", f"{_ROOM}/dissolve", OWNERS, "Close the room: all are put out, nobody may send or enter"
    ),
    CommandRoute(Command.REOPEN, "POST", f"{_ROOM}/reopen", OWNERS, "Open a dissolved room again"),
    CommandRoute(Command.ROOM_WORDS, "GET", f"{_ROOM}/words", HOSTS, "Words this room does not take"),
    CommandRoute(Command.SET_ROOM_WORD, "PUT", f"{_ROOM}/words/{{word}}", HOSTS, "Set what this room does with a word"),
    CommandRoute(Command.DROP_ROOM_WORD, "DELETE", f"{_ROOM}/words/{{word}}", HOSTS, "Take a word off this room's list"),
    CommandRoute(Command.WORDS, "GET", "/v1/words", OPERATORS, "Words no room takes, beside the library files"),
    CommandRoute(Command.SET_WORD, "PUT", "/v1/words/{word}", OPERATORS, "Set what all rooms do with a word"),
    CommandRoute(Command.DROP_WORD, "DELETE", "/v1/words/{word}", OPERATORS, "Take a word off the list for all rooms"),
    CommandRoute(Command.ANNOUNCE, "POST", "/v1/announcements", OPERATORS, "Announce to all rooms that are watched, paced"),
    CommandRoute(
        Command.BULK, "POST", "/v1/interactions", frozenset({Role.SERVICE}), "Publish many interactions; an outcome for each"
    ),
)
BY_COMMAND: Final = {route.command: route for route in COMMAND_ROUTES}


def check_room(room: str, user: User) -> None:
    """Refuse what is no room, and rooms that the token is not for."""
    if not ROOM_ID.match(room):
        raise ProblemError(Code.ROOM_INVALID)
    if user.rooms and room not in user.rooms:
        raise ProblemError(Code.FORBIDDEN, "the token is for other rooms")


def check_sender(user: User, room: str, interactions: Iterable[Interaction]) -> None:
    """Refuse who may not send one of these, or nothing to this room."""
    check_room(room, user)
    for interaction in interactions:
        if user.role not in interaction.roles:
            raise ProblemError(Code.FORBIDDEN, f"a {user.role.value} may not send a {interaction.kind.value}")


def check_host(user: User, room: str | None, command: Command) -> None:
    """Refuse who may not give this command, in this room where it is one of a room."""
    if room is not None:
        check_room(room, user)
    if user.role not in BY_COMMAND[command].roles:
        raise ProblemError(Code.FORBIDDEN, f"a {user.role.value} may not do that: {command.value}")
