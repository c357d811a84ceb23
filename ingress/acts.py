"""What hosts and operators ask for over HTTP: who may (the table), what bodies they send, what they are told.

Owns the bodies of these requests. Refuses with problems. Called by `app`; what is written, and in which order, is `desk`'s.
"""

import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from aiohttp import web

from ingress import checks
from ingress.actions import BY_ACT, Act
from ingress.announcing import Announcer
from ingress.desk import Desk, Done, Request
from ingress.gate import Gate
from ingress.roomstate import RoomStates
from ingress.words import LibraryError, WordAction, check_word, usable
from liveroom.bodies import Announcement
from liveroom.errors import Code, ProblemError
from liveroom.moderation import EVERYWHERE, FOR_GOOD, Rules
from liveroom.records import ItemId, RoomChange, RuleKind, UserId
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
    """Take this message away (its `#index` in a package), or all that this user has sent so far: one of the two."""

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


REQUESTS: Final[dict[Act, type[msgspec.Struct]]] = {
    Act.MUTE: SanctionRequest,
    Act.BAN: SanctionRequest,
    Act.KICK: KickRequest,
    Act.CLEAR: ClearRequest,
    Act.MODES: ModesRequest,
    Act.DISSOLVE: WhyRequest,
    Act.REOPEN: WhyRequest,
    Act.SET_ROOM_WORD: WordRequest,
    Act.SET_WORD: WordRequest,
    Act.ANNOUNCE: AnnounceRequest,
}
_DECODERS: Final[dict[Act, msgspec.json.Decoder[Any]]] = {act: msgspec.json.Decoder(of) for act, of in REQUESTS.items()}


class Asked:
    """One request for an act, its sender known and allowed to."""

    def __init__(self, act: Act, request: web.Request, user: User, body: bytes) -> None:
        self.act = act
        self.user = user
        self.room = request.match_info.get("room", EVERYWHERE)
        self.match = request.match_info
        self.query = request.query
        self.body: Any = checks.decode(_DECODERS[act], body or b"{}") if act in _DECODERS else None
        key = request.headers.get("Idempotency-Key")
        id_ = checks.choose_id(getattr(self.body, "id", ""), key, secrets.token_hex(8))
        self.request = Request(self.room, user, id_, getattr(self.body, "why", ""))

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


Answer = msgspec.Struct


class Acts:
    """Answers requests for acts."""

    def __init__(self, desk: Desk, gate: Gate, rules: Rules, states: RoomStates, announcer: Announcer) -> None:
        self._desk = desk
        self._gate = gate
        self._rules = rules
        self._states = states
        self._announcer = announcer
        self._answers: dict[Act, Callable[[Asked], Awaitable[Answer]]] = {
            Act.STATE: lambda asked: self._states.state(asked.room),
            Act.MUTES: self._listed,
            Act.BANS: self._listed,
            Act.MUTE: self._sanction,
            Act.BAN: self._sanction,
            Act.UNMUTE: self._lift,
            Act.UNBAN: self._lift,
            Act.KICK: lambda asked: self._desk.kick(asked.request, asked.body.user),
            Act.CLEAR: self._clear,
            Act.MODES: self._modes,
            Act.DISSOLVE: lambda asked: self._desk.dissolve(asked.act, asked.request),
            Act.REOPEN: lambda asked: self._desk.dissolve(asked.act, asked.request),
            Act.ROOM_WORDS: self._words,
            Act.WORDS: self._words,
            Act.SET_ROOM_WORD: self._set_word,
            Act.SET_WORD: self._set_word,
            Act.DROP_ROOM_WORD: self._drop_word,
            Act.DROP_WORD: self._drop_word,
            Act.ANNOUNCE: self._announce,
        }

    def check(self, act: Act, room: str | None, user: User) -> None:
        """Refuse who may not do this, or does it too often."""
        if room is not None:
            checks.check_room(room, user)
        if user.role not in BY_ACT[act].roles:
            raise ProblemError(Code.FORBIDDEN, f"a {user.role.value} may not do that: {act.value}")
        self._gate.check_rates("act", room or EVERYWHERE, user, time.monotonic())

    async def answer(self, asked: Asked) -> tuple[int, Answer]:
        """Do it, and return status and body."""
        answer = await self._answers[asked.act](asked)
        return (202 if isinstance(answer, Done) else 200), answer

    async def _listed(self, asked: Asked) -> HeldList:
        kind = RuleKind.MUTE if asked.act is Act.MUTES else RuleKind.BAN
        after = asked.query.get("after", "")
        try:
            limit = int(asked.query.get("limit", "100"))
        except ValueError:
            limit = 0
        if not 1 <= limit <= MAX_LISTED:
            raise ProblemError(Code.BAD_REQUEST, f"limit is 1 to {MAX_LISTED}")
        users: list[Held] = []
        for rule in self._rules.all_of(kind, asked.room, _now_ms()):
            if rule.name <= after:
                continue
            if len(users) == limit:
                return HeldList(asked.room, users, users[-1].user)
            users.append(Held(rule.name, rule.until_ms, rule.at_ms, rule.by, rule.why))
        return HeldList(asked.room, users)

    async def _sanction(self, asked: Asked) -> Done:
        body: SanctionRequest = asked.body
        until_ms = FOR_GOOD if body.for_s is None else _now_ms() + body.for_s * 1000
        return await self._desk.sanction(asked.act, asked.request, body.user, until_ms)

    async def _lift(self, asked: Asked) -> Done:
        return await self._desk.sanction(asked.act, asked.request, asked.target(), 0)

    async def _clear(self, asked: Asked) -> Done:
        body: ClearRequest = asked.body
        if bool(body.message) == bool(body.user):
            raise ProblemError(Code.SCHEMA, "name either a message or a user")
        return await self._desk.clear(asked.request, body.message, body.user)

    async def _modes(self, asked: Asked) -> Done:
        body: ModesRequest = asked.body
        change = RoomChange(**{name: getattr(body, name) for name in RoomChange.__struct_fields__})
        if not change.modes():
            raise ProblemError(Code.SCHEMA, "name at least one mode")
        return await self._desk.set_modes(asked.request, change)

    async def _words(self, asked: Asked) -> WordList:
        return WordList(dict(sorted(usable(self._rules.words.get(asked.room, {})).items())))

    async def _set_word(self, asked: Asked) -> Done:
        word, body = asked.word(), asked.body
        known, most = self._rules.words.get(asked.room, {}), MAX_WORDS if asked.room == EVERYWHERE else MAX_ROOM_WORDS
        if word not in known and len(known) >= most:
            raise ProblemError(Code.LIMIT, f"at most {most} words; more go into a library file")
        return await self._desk.set_word(asked.act, asked.request, word, body.action.value)

    async def _drop_word(self, asked: Asked) -> Done:
        return await self._desk.set_word(asked.act, asked.request, asked.word(), None)

    async def _announce(self, asked: Asked) -> Done:
        body: AnnounceRequest = asked.body
        rooms = self._announcer.rooms()
        at_ms = _now_ms()
        await self._desk.audit(Act.ANNOUNCE, asked.request, at_ms, {"text": body.text, "link": body.link, "rooms": len(rooms)})
        self._announcer.begin(rooms, asked.request, Announcement(body.text, body.link))
        return Announced(asked.request.id, Act.ANNOUNCE.value, at_ms, rooms=len(rooms))


class Announced(Done, frozen=True, omit_defaults=True):
    """An announcement that is on its way to so many rooms. The same id again reaches those that it has not reached."""

    rooms: int = 0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
