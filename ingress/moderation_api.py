"""What hosts and operators ask for over HTTP: who may (the table), what bodies they send, what they
are told.

Owns the bodies of these requests. Refuses with problems. Called by `app`; what is written, and in
which order, is up to `moderation`.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from aiohttp import web

from ingress import permissions, requests
from ingress.announcements import AnnouncementService
from ingress.moderation import CommandContext, Done, ModerationService
from ingress.permissions import Command
from ingress.rate_limits import COMMANDS, RateLimits
from ingress.room_status import RoomStatusService
from ingress.words import LibraryError, WordAction, check_word, usable
from liveroom import clock
from liveroom.bodies import Announcement
from liveroom.errors import Code, ProblemError
from liveroom.moderation import EVERYWHERE, FOR_GOOD, Rules
from liveroom.records.codec import ItemId, UserId
from liveroom.records.control import RuleKind
from liveroom.records.snapshot import RoomChange
from liveroom.tickets import User
from liveroom.topics import USER_ID

MAX_WORDS: Final = 5000
MAX_ROOM_WORDS: Final = 500
MAX_LISTED: Final = 1000
T = TypeVar("T")
Why = Annotated[str, msgspec.Meta(max_length=200, description="told to the user, and put down")]
Seconds = Annotated[int, msgspec.Meta(ge=1, le=315_360_000, description="for so long; left out or null: for good")]


class SanctionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mute or ban this user."""

    user: UserId
    for_s: Seconds | None = None
    why: Why = ""
    id: ItemId = ""


class KickRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Put this user out."""

    user: UserId
    why: Why = ""
    id: ItemId = ""


class ClearRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Take this message away (its `#index` in a package), or all that this user has sent so far:
    one of the two.
    """

    message: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9_.:-]{1,64}(#[0-9]{1,2})?)?\Z")] = ""
    user: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:@-]{0,64}\Z")] = ""
    why: Why = ""
    id: ItemId = ""


class ModesRequest(RoomChange, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Modes to change; those left out stay as they are."""

    why: Why = ""
    id: ItemId = ""


class WhyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing but why."""

    why: Why = ""
    id: ItemId = ""


class WordRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to do with texts that have the word."""

    action: WordAction
    why: Why = ""
    id: ItemId = ""


class AnnounceRequest(Announcement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A text above the chat of every room that is watched now."""

    why: Why = ""
    id: ItemId = ""


class Held(msgspec.Struct, frozen=True, omit_defaults=True):
    """A mute or ban that holds. `until_ms` -1: for good."""

    user: str
    until_ms: int
    at_ms: int
    by: str
    why: str = ""


class HeldList(msgspec.Struct, frozen=True):
    """Mutes or bans that hold, by user; `after`: name it to get the next ones, "" at the end."""

    room: str
    users: list[Held]
    after: str = ""


class WordList(msgspec.Struct, frozen=True):
    """Words and what is done with them."""

    words: dict[str, WordAction]


REQUESTS: Final[dict[Command, type[msgspec.Struct]]] = {
    Command.MUTE: SanctionRequest,
    Command.BAN: SanctionRequest,
    Command.KICK: KickRequest,
    Command.CLEAR: ClearRequest,
    Command.MODES: ModesRequest,
    Command.DISSOLVE: WhyRequest,
    Command.REOPEN: WhyRequest,
    Command.SET_ROOM_WORD: WordRequest,
    Command.SET_WORD: WordRequest,
    Command.ANNOUNCE: AnnounceRequest,
}
_DECODERS: Final[dict[Command, msgspec.json.Decoder[Any]]] = {
    command: msgspec.json.Decoder(of) for command, of in REQUESTS.items()
}


class CommandRequest:
    """One request for a command, its sender known and allowed to."""

    def __init__(self, command: Command, request: web.Request, user: User, body: bytes, new_id: str) -> None:
        self.command = command
        self.room = request.match_info.get("room", EVERYWHERE)
        self.match = request.match_info
        self.query = request.query
        self.body: Any = requests.decode(_DECODERS[command], body or b"{}") if command in _DECODERS else None
        key = request.headers.get("Idempotency-Key")
        id_ = requests.choose_id(getattr(self.body, "id", ""), key, new_id)
        self.context = CommandContext(self.room, user, id_, getattr(self.body, "why", ""))

    def target(self) -> str:
        """Return the user in the path."""
        user = self.match["user"]
        if not USER_ID.match(user):
            raise ProblemError(Code.NOT_FOUND, "not a user's id")
        return user

    def word(self) -> str:
        """Return the word in the path."""
        try:
            return check_word(self.match["word"])
        except LibraryError as error:
            raise ProblemError(Code.SCHEMA, str(error)) from None


class ModerationApi:
    """Answers requests for commands."""

    def __init__(
        self,
        moderation: ModerationService,
        limits: RateLimits,
        rules: Rules,
        statuses: RoomStatusService,
        announcements: AnnouncementService,
    ) -> None:
        self._moderation = moderation
        self._limits = limits
        self._rules = rules
        self._statuses = statuses
        self._announcements = announcements
        self._answers: dict[Command, Callable[[CommandRequest], Awaitable[msgspec.Struct]]] = {
            Command.STATE: lambda request: self._statuses.report(request.room),
            Command.MUTES: self._listed,
            Command.BANS: self._listed,
            Command.MUTE: self._sanction,
            Command.BAN: self._sanction,
            Command.UNMUTE: self._lift,
            Command.UNBAN: self._lift,
            Command.KICK: lambda request: self._moderation.kick(request.context, request.body.user),
            Command.CLEAR: self._clear,
            Command.MODES: self._modes,
            Command.DISSOLVE: lambda request: self._moderation.dissolve(request.command, request.context),
            Command.REOPEN: lambda request: self._moderation.dissolve(request.command, request.context),
            Command.ROOM_WORDS: self._words,
            Command.WORDS: self._words,
            Command.SET_ROOM_WORD: self._set_word,
            Command.SET_WORD: self._set_word,
            Command.DROP_ROOM_WORD: self._drop_word,
            Command.DROP_WORD: self._drop_word,
            Command.ANNOUNCE: self._announce,
        }

    def check(self, command: Command, room: str | None, user: User) -> None:
        """Refuse who may not do this, or does it too often."""
        permissions.check_host(user, room, command)
        self._limits.take(COMMANDS, room or EVERYWHERE, user, clock.monotonic_s())

    async def answer(self, request: CommandRequest) -> tuple[int, msgspec.Struct]:
        """Do it, and return status and body."""
        answer = await self._answers[request.command](request)
        return (202 if isinstance(answer, Done) else 200), answer

    async def _listed(self, request: CommandRequest) -> HeldList:
        kind = RuleKind.MUTE if request.command is Command.MUTES else RuleKind.BAN
        after = request.query.get("after", "")
        try:
            limit = int(request.query.get("limit", "100"))
        except ValueError:
            limit = 0
        if not 1 <= limit <= MAX_LISTED:
            raise ProblemError(Code.BAD_REQUEST, f"limit is 1 to {MAX_LISTED}")
        users: list[Held] = []
        for rule in self._rules.all_of(kind, request.room, clock.unix_ms()):
            if rule.name <= after:
                continue
            if len(users) == limit:
                return HeldList(request.room, users, users[-1].user)
            users.append(Held(rule.name, rule.until_ms, rule.at_ms, rule.by, rule.why))
        return HeldList(request.room, users)

    async def _sanction(self, request: CommandRequest) -> Done:
        body: SanctionRequest = request.body
        until_ms = FOR_GOOD if body.for_s is None else clock.unix_ms() + body.for_s * 1000
        return await self._moderation.sanction(request.command, request.context, body.user, until_ms)

    async def _lift(self, request: CommandRequest) -> Done:
        return await self._moderation.sanction(request.command, request.context, request.target(), 0)

    async def _clear(self, request: CommandRequest) -> Done:
        body: ClearRequest = request.body
        if bool(body.message) == bool(body.user):
            raise ProblemError(Code.SCHEMA, "name either a message or a user")
        return await self._moderation.clear(request.context, body.message, body.user)

    async def _modes(self, request: CommandRequest) -> Done:
        body: ModesRequest = request.body
        change = RoomChange(**{name: getattr(body, name) for name in RoomChange.__struct_fields__})
        if not change.modes():
            raise ProblemError(Code.SCHEMA, "name at least one mode")
        return await self._moderation.set_modes(request.context, change)

    async def _words(self, request: CommandRequest) -> WordList:
        return WordList(dict(sorted(usable(self._rules.words.get(request.room, {})).items())))

    async def _set_word(self, request: CommandRequest) -> Done:
        word, body = request.word(), request.body
        known, most = self._rules.words.get(request.room, {}), MAX_WORDS if request.room == EVERYWHERE else MAX_ROOM_WORDS
        if word not in known and len(known) >= most:
            raise ProblemError(Code.LIMIT, f"at most {most} words; more go into a library file")
        return await self._moderation.set_word(request.command, request.context, word, body.action.value)

    async def _drop_word(self, request: CommandRequest) -> Done:
        return await self._moderation.set_word(request.command, request.context, request.word(), None)

    async def _announce(self, request: CommandRequest) -> Done:
        body: AnnounceRequest = request.body
        rooms = self._announcements.watched_rooms()
        at_ms = clock.unix_ms()
        await self._moderation.audit(
            Command.ANNOUNCE, request.context, at_ms, {"text": body.text, "link": body.link, "rooms": len(rooms)}
        )
        self._announcements.start(rooms, request.context, Announcement(body.text, body.link))
        return Announced(request.context.id, Command.ANNOUNCE.value, at_ms, rooms=len(rooms))


class Announced(Done, frozen=True, omit_defaults=True):
    """An announcement that is on its way to so many rooms.

    The same id again reaches those that it has not reached.
    """

    rooms: int = 0
