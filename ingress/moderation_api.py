"""Carries out the commands of hosts and operators, and answers them.

Owns which command does what. Refuses with problems. Called by `app`; the records, and their order,
are up to `moderation`.
"""

from collections.abc import Awaitable, Callable

import msgspec

from ingress import permissions
from ingress.announcements import AnnouncementService
from ingress.command_requests import AnnounceRequest, ClearRequest, CommandRequest, ModesRequest, SanctionRequest
from ingress.hosts import HostRecords
from ingress.moderation import CommandContext, ModerationService
from ingress.permissions import Command
from ingress.rate_limits import COMMANDS, RateLimits
from ingress.responses import ActiveSanction, AnnouncementResult, CommandResult, SanctionList, WordList
from ingress.room_policy import RoomPolicy
from ingress.room_status import RoomStatusService
from ingress.words import usable
from liveroom import clock
from liveroom.bodies import Announcement
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.moderation import EVERYWHERE, FOR_GOOD, Rules
from liveroom.records.control import RuleKind
from liveroom.records.snapshot import RoomChange
from liveroom.tickets import User


class ModerationApi:
    """Answers requests for commands."""

    def __init__(
        self,
        moderation: ModerationService,
        limits: RateLimits,
        rules: Rules,
        policy: RoomPolicy,
        hosts: HostRecords,
        statuses: RoomStatusService,
        announcements: AnnouncementService,
    ) -> None:
        self._moderation = moderation
        self._limits = limits
        self._rules = rules
        self._policy = policy
        self._hosts = hosts
        self._statuses = statuses
        self._announcements = announcements
        self._answers: dict[Command, Callable[[CommandRequest], Awaitable[msgspec.Struct]]] = {
            Command.STATE: lambda request: self._statuses.report(request.room),
            Command.MUTES: self._list,
            Command.BANS: self._list,
            Command.MUTE: self._sanction,
            Command.BAN: self._sanction,
            Command.UNMUTE: self._lift,
            Command.UNBAN: self._lift,
            Command.KICK: self._kick,
            Command.CLEAR: self._clear,
            Command.MODES: self._set_modes,
            Command.DISSOLVE: lambda request: self._moderation.dissolve(request.command, _context(request)),
            Command.REOPEN: lambda request: self._moderation.dissolve(request.command, _context(request)),
            Command.ROOM_WORDS: self._list_words,
            Command.WORDS: self._list_words,
            Command.SET_ROOM_WORD: self._set_word,
            Command.SET_WORD: self._set_word,
            Command.DROP_ROOM_WORD: self._drop_word,
            Command.DROP_WORD: self._drop_word,
            Command.ANNOUNCE: self._announce,
        }

    def check(self, command: Command, room: str | None, user: User) -> None:
        """Refuse a command that the user may not give, gives too often, or gives while banned or
        muted.

        `room`: None for commands about all rooms.
        """
        permissions.check_host(user, room, command)
        self._limits.take(COMMANDS, room or EVERYWHERE, user, clock.monotonic_s())
        self._policy.check_host(room or EVERYWHERE, user, clock.unix_ms())

    async def answer(self, request: CommandRequest) -> tuple[int, msgspec.Struct]:
        """Carry out a command that passed `check`; return the HTTP status and the body.

        The sender is recorded as a host first.
        """
        await self._hosts.note(request.room, request.user)
        answer = await self._answers[request.command](request)
        return (202 if isinstance(answer, CommandResult) else 200), answer

    async def _list(self, request: CommandRequest) -> SanctionList:
        kind = RuleKind.MUTE if request.command is Command.MUTES else RuleKind.BAN
        after, limit = request.query.get("after", ""), request.limit()
        users: list[ActiveSanction] = []
        for rule in self._rules.all_of(kind, request.room, clock.unix_ms()):
            if rule.name <= after:
                continue
            if len(users) == limit:
                return SanctionList(request.room, users, users[-1].user)
            users.append(ActiveSanction(rule.name, rule.until_ms, rule.at_ms, rule.by, rule.why))
        return SanctionList(request.room, users)

    def _check_target(self, request: CommandRequest, target: str) -> None:
        """Refuse a command about a host of the sender's own rank or above."""
        role = self._rules.role_of(request.room, target, clock.unix_ms())
        permissions.check_target(request.user, request.command, target, role)

    async def _sanction(self, request: CommandRequest) -> CommandResult:
        body: SanctionRequest = request.body
        self._check_target(request, body.user)
        until_ms = FOR_GOOD if body.for_s is None else clock.unix_ms() + body.for_s * 1000
        return await self._moderation.sanction(request.command, _context(request), body.user, until_ms)

    async def _lift(self, request: CommandRequest) -> CommandResult:
        target = request.target()
        self._check_target(request, target)
        return await self._moderation.sanction(request.command, _context(request), target, 0)

    async def _kick(self, request: CommandRequest) -> CommandResult:
        self._check_target(request, request.body.user)
        return await self._moderation.kick(_context(request), request.body.user)

    async def _clear(self, request: CommandRequest) -> CommandResult:
        body: ClearRequest = request.body
        user = body.user or await self._only_sender(request, body.message)
        if user:
            self._check_target(request, user)
        return await self._moderation.clear(_context(request), body.message, user)

    async def _only_sender(self, request: CommandRequest, message: str) -> str:
        """Return who sent a message, as far as the room's newest messages state it.

        Empty: nobody of whom it is known, or several users. Refuses messages of the sender's equals
        and betters. Here for the form of the command that version 0.1 has.
        """
        senders = await self._statuses.senders(request.room, message)
        for user, role in senders.items():
            self._check_target(request, user)
            permissions.check_target(request.user, request.command, user, None if role == Role.SERVICE else role)
        return next(iter(senders)) if len(senders) == 1 else ""

    async def _set_modes(self, request: CommandRequest) -> CommandResult:
        body: ModesRequest = request.body
        change = RoomChange(**{name: getattr(body, name) for name in RoomChange.__struct_fields__})
        if not change.modes():
            raise ProblemError(Code.SCHEMA, "name at least one mode")
        return await self._moderation.set_modes(_context(request), change)

    async def _list_words(self, request: CommandRequest) -> WordList:
        return WordList(dict(sorted(usable(self._rules.words.get(request.room, {})).items())))

    async def _set_word(self, request: CommandRequest) -> CommandResult:
        word, action = request.word(), request.body.action
        return await self._moderation.set_word(request.command, _context(request), word, action.value)

    async def _drop_word(self, request: CommandRequest) -> CommandResult:
        return await self._moderation.set_word(request.command, _context(request), request.word(), None)

    async def _announce(self, request: CommandRequest) -> CommandResult:
        body: AnnounceRequest = request.body
        rooms, context, at_ms = self._announcements.watched_rooms(), _context(request), clock.unix_ms()
        details = {"text": body.text, "link": body.link, "rooms": len(rooms)}
        await self._moderation.audit(Command.ANNOUNCE, context, at_ms, details)
        self._announcements.start(rooms, context, Announcement(body.text, body.link))
        return AnnouncementResult(context.id, Command.ANNOUNCE.value, at_ms, rooms=len(rooms))


def _context(request: CommandRequest) -> CommandContext:
    return CommandContext(request.room, request.user, request.id, request.why)
