"""Permissions: which roles may send or command what, and which restrictions stop it. Pure.

Owns the tables of interactions and commands, and the checks that need nothing else. Refuses with
`ProblemError`. The routes, the OpenAPI document and the table in docs/ingress.md are made from the
tables.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple

from liveroom.errors import Code, ProblemError
from liveroom.kinds import Kind, Role, is_host, may_undo, outranks
from liveroom.records.control import Moderation
from liveroom.tickets import User
from liveroom.topics import ROOM_ID

SPEAKERS: Final = frozenset(Role) - {Role.GUEST}
HOSTS: Final = frozenset(role for role in Role if is_host(role))
OWNERS: Final = frozenset({Role.STREAMER, Role.OPERATOR})
SELLERS: Final = OWNERS | {Role.SERVICE}
BACKENDS: Final = frozenset({Role.OPERATOR, Role.SERVICE})
OPERATORS: Final = frozenset({Role.OPERATOR})

FREE: Final = HOSTS | {Role.SERVICE}  # no room mode applies to them


class Restriction(Enum):
    """A state that can stop an interaction: a mode of the room, or a mute or ban of the user."""

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
    """A kind that users send to a room, with the roles that may and the restrictions that apply.

    `path`: the last part of its route. `about`: its summary in the documents. `claimed_by`: the
    further roles that may send it where the setting `viewers_may_claim_payment` is on.
    """

    kind: Kind
    path: str
    roles: frozenset[Role]
    stopped_by: frozenset[Restriction]
    about: str
    claimed_by: frozenset[Role] = frozenset()

    def allows(self, role: Role, *, may_claim: bool) -> bool:
        """Return whether `role` may send it. `may_claim`: the setting is on."""
        return role in self.roles or (may_claim and role in self.claimed_by)


INTERACTIONS: Final = (
    Interaction(Kind.DANMAKU, "danmaku", SPEAKERS, _SPEECH, "Send a danmaku"),
    Interaction(Kind.GIFT, "gifts", BACKENDS, _ANY, "Show a paid gift", SPEAKERS),
    Interaction(Kind.LIKE, "likes", SPEAKERS, _ANY, "Send one like, or the sum of many"),
    Interaction(Kind.RED_PACKET, "red-packets", BACKENDS, _ANY, "Show a red packet", SELLERS),
    Interaction(Kind.COUPON, "coupons", BACKENDS, _ANY, "Show a coupon", SELLERS),
    Interaction(Kind.GOODS, "goods", SELLERS, _ANY, "Show a card of goods"),
    Interaction(Kind.ANNOUNCEMENT, "announcements", HOSTS, _ANY | {Restriction.MUTED}, "Set the text above the chat"),
    Interaction(Kind.ENTER, "enters", BACKENDS, _ANY, "Announce that a notable viewer arrived"),
    Interaction(Kind.LEAVE, "leaves", BACKENDS, _ANY, "Announce that a notable viewer left"),
    Interaction(Kind.CUSTOM, "custom", SPEAKERS, _MEDIA, "Send data that only the application understands"),
)
BY_KIND: Final = {interaction.kind: interaction for interaction in INTERACTIONS}


class Command(Enum):
    """A command of a host, operator or service."""

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
    REVOKE = "revoke"
    REVOCATIONS = "revocations"
    LIFT_REVOCATION = "lift_revocation"
    CONNECTIONS = "connections"
    END_CONNECTIONS = "end_connections"


class CommandRoute(NamedTuple):
    """The route of a command, and the roles that may give it."""

    command: Command
    method: str
    path: str
    roles: frozenset[Role]
    about: str


_ROOM: Final = "/v1/rooms/{room}"
COMMAND_ROUTES: Final = (
    CommandRoute(Command.STATE, "GET", _ROOM, HOSTS | BACKENDS, "Report the room: sequence numbers, totals, modes"),
    CommandRoute(Command.MUTES, "GET", f"{_ROOM}/mutes", HOSTS, "List the mutes in force, by user"),
    CommandRoute(Command.MUTE, "POST", f"{_ROOM}/mutes", HOSTS, "Mute a user, for a time or without an end"),
    CommandRoute(Command.UNMUTE, "DELETE", f"{_ROOM}/mutes/{{user}}", HOSTS, "Lift a mute"),
    CommandRoute(Command.BANS, "GET", f"{_ROOM}/bans", HOSTS, "List the bans in force, by user"),
    CommandRoute(
        Command.BAN, "POST", f"{_ROOM}/bans", HOSTS, "Ban a user, for a time or without an end, and clear the user's messages"
    ),
    CommandRoute(Command.UNBAN, "DELETE", f"{_ROOM}/bans/{{user}}", HOSTS, "Lift a ban"),
    CommandRoute(Command.KICK, "POST", f"{_ROOM}/kicks", HOSTS, "Remove a user from the room; the user may come back"),
    CommandRoute(
        Command.CLEAR, "POST", f"{_ROOM}/clears", HOSTS, "Remove one message of a user, or all of them, from all screens"
    ),
    CommandRoute(Command.MODES, "PATCH", f"{_ROOM}/modes", HOSTS, "Change the room's modes"),
    CommandRoute(
        Command.DISSOLVE, "POST", f"{_ROOM}/dissolve", OWNERS, "Close the room: everybody is removed, nobody may enter or send"
    ),
    CommandRoute(Command.REOPEN, "POST", f"{_ROOM}/reopen", OWNERS, "Open a dissolved room again"),
    CommandRoute(Command.ROOM_WORDS, "GET", f"{_ROOM}/words", HOSTS, "List the words of this room"),
    CommandRoute(
        Command.SET_ROOM_WORD, "PUT", f"{_ROOM}/words/{{word}}", HOSTS, "Set the action on texts with a word in this room"
    ),
    CommandRoute(
        Command.DROP_ROOM_WORD, "DELETE", f"{_ROOM}/words/{{word}}", HOSTS, "Remove a word from the list of this room"
    ),
    CommandRoute(
        Command.WORDS, "GET", "/v1/words", OPERATORS, "List the words of all rooms; those of library files are not listed"
    ),
    CommandRoute(Command.SET_WORD, "PUT", "/v1/words/{word}", OPERATORS, "Set the action on texts with a word in all rooms"),
    CommandRoute(Command.DROP_WORD, "DELETE", "/v1/words/{word}", OPERATORS, "Remove a word from the list of all rooms"),
    CommandRoute(
        Command.ANNOUNCE, "POST", "/v1/announcements", OPERATORS, "Announce to all rooms that have viewers, at a limited pace"
    ),
    CommandRoute(
        Command.BULK,
        "POST",
        "/v1/interactions",
        frozenset({Role.SERVICE}),
        "Publish many interactions, with an outcome for each",
    ),
    CommandRoute(
        Command.REVOKE, "POST", "/v1/revocations", BACKENDS, "Revoke the tokens of a user, of one device, or of a time"
    ),
    CommandRoute(Command.REVOCATIONS, "GET", "/v1/revocations", BACKENDS, "List the revocations in force, by id"),
    CommandRoute(Command.LIFT_REVOCATION, "DELETE", "/v1/revocations/{id}", BACKENDS, "Lift a revocation"),
    CommandRoute(
        Command.CONNECTIONS, "GET", "/v1/users/{user}/connections", BACKENDS, "List the connections of a user at all gateways"
    ),
    CommandRoute(
        Command.END_CONNECTIONS,
        "DELETE",
        "/v1/users/{user}/connections",
        BACKENDS,
        "End the connections of a user; the user may come back",
    ),
)
ON_USERS: Final = frozenset({Command.MUTE, Command.UNMUTE, Command.BAN, Command.UNBAN, Command.KICK, Command.CLEAR})
BY_COMMAND: Final = {route.command: route for route in COMMAND_ROUTES}


def check_room(room: str, user: User) -> None:
    """Refuse what is not a room's id, and rooms that the user's token is not for."""
    if not ROOM_ID.match(room):
        raise ProblemError(Code.ROOM_INVALID)
    user.check_permits(room)


def check_sender(user: User, room: str, interactions: Iterable[Interaction], *, may_claim: bool) -> None:
    """Refuse a user whose role may not send one of these, or whose token is for other rooms.

    `may_claim`: the setting `viewers_may_claim_payment` is on.
    """
    check_room(room, user)
    for interaction in interactions:
        if not interaction.allows(user.role, may_claim=may_claim):
            if interaction.claimed_by:
                raise ProblemError(Code.FORBIDDEN, f"{interaction.kind.value} comes from the service that took the payment")
            raise ProblemError(Code.FORBIDDEN, f"the role {user.role.value} may not send {interaction.kind.value}")


def check_host(user: User, room: str | None, command: Command) -> None:
    """Refuse a user who may not give this command, or not in this room (None: all rooms).

    A command about all rooms needs a token that is not for some rooms only.
    """
    if room is not None:
        check_room(room, user)
    elif user.rooms is not None:
        raise ProblemError(Code.FORBIDDEN, "a command about all rooms needs a token without the claim rooms")
    if user.role not in BY_COMMAND[command].roles:
        raise ProblemError(Code.FORBIDDEN, f"the role {user.role.value} may not use the command {command.value}")


def check_target(user: User, command: Command, target: str, role: str | None) -> None:
    """Refuse a command about a host of the sender's own rank or above.

    `target`, `role`: the user whom the command is about, and the role that is on record for that
    user in the room; None: no host. Hosts may clear their own messages.
    """
    if role is None or outranks(user.role, role) or (command is Command.CLEAR and target == user.id):
        return
    raise ProblemError(
        Code.FORBIDDEN,
        f"the role {user.role.value} may not use the command {command.value} on a host with the role {role}",
    )


def check_undo(user: User, rule: Moderation | None) -> None:
    """Refuse to change or lift a rule in force that somebody of a higher rank set.

    `rule`: the rule in force that the command replaces; None: there is none. Every host may change
    what the system set by itself.
    """
    if rule is None or rule.is_automatic or may_undo(user.role, rule.by_role):
        return
    raise ProblemError(
        Code.FORBIDDEN, f"the role {user.role.value} may not change what a host with the role {rule.by_role} has set"
    )
