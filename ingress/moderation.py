"""Writes the commands of hosts and operators: mutes, bans, modes, words, and who gave them.

Owns what is written, and in which order: the rule to `moderation` first, so that it holds
everywhere; then, together, what viewers see to `uplink` and the entry in `audit`. A command is done
when all of it is acknowledged. Refuses what the log does not take, more rules than a room may have
(`limit`), a change of what a better host has set (`forbidden`), and to lift what does not hold
(`not_found`): no record is written for a name that somebody invents. A command whose id was carried
out already writes no rule again, since a later command may have lifted it, and gets the same
answer. Called by `moderation_api`, and by `auto_moderation` for what the system does itself.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from ingress.log import LogWriter, write
from ingress.permissions import Command, check_undo
from ingress.requests import VIA
from ingress.responses import CommandResult
from liveroom import clock, metric_catalog
from liveroom.bodies import Clear, Sanction
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Kind, Role
from liveroom.moderation import EVERYWHERE, Rules, key_of
from liveroom.records.codec import BadRecordError, encode_json
from liveroom.records.control import Audit, Moderation, RuleKind, record_of
from liveroom.records.snapshot import RoomChange
from liveroom.records.uplink import Item, Uplink, encode_uplink
from liveroom.registry import Metrics
from liveroom.tickets import User
from liveroom.topics import AUDIT, MODERATION, UPLINK

SYSTEM: Final = User("system", Role.OPERATOR)
# Of one room, in force. A rule takes 1 to 2 KB at every ingress and gateway.
MAX_SANCTIONS: Final = {RuleKind.MUTE: 5_000, RuleKind.BAN: 5_000}
MAX_WORDS: Final = 5_000  # for all rooms
MAX_ROOM_WORDS: Final = 500


class CommandContext(NamedTuple):
    """The room, the user and the reason of a command.

    `id`: the request's; commands with the same id are carried out once. `details`: for the audit.
    """

    room: str
    by: User
    id: str
    why: str = ""
    details: Mapping[str, Any] = {}


_WEAKENED_BY: Final = {"allow": "muted_all"}  # a mode, and the one that its change makes milder
_encode: Final = msgspec.json.Encoder().encode


class ModerationService:
    """Writes commands. Its methods return after the acknowledgement of all that they write."""

    def __init__(self, writer: LogWriter, rules: Rules, metrics: Metrics) -> None:
        self._writer = writer
        self._rules = rules
        self._counts = {command: metrics.counter(metric_catalog.ACTS, command.value) for command in Command}

    async def sanction(self, command: Command, context: CommandContext, user: str, until_ms: int) -> CommandResult:
        """Mute or ban a user until `until_ms` (`FOR_GOOD`: without an end), or lift that (0)."""
        rule_kind, kind = _SANCTIONS[command]
        rule = await self._rule(context, rule_kind, user, until_ms=until_ms)
        body = Sanction(user, rule.until_ms, context.why)
        await self._publish(command, context, rule.at_ms, kind, body, target=user, details={"until_ms": rule.until_ms})
        return CommandResult(context.id, command.value, rule.at_ms, context.room, user, rule.until_ms)

    async def kick(self, context: CommandContext, user: str) -> CommandResult:
        """Remove a user from the room."""
        at_ms = clock.unix_ms()
        await self._publish(Command.KICK, context, at_ms, Kind.KICK, Sanction(user, 0, context.why), target=user)
        return CommandResult(context.id, Command.KICK.value, at_ms, context.room, user)

    async def clear(self, context: CommandContext, message: str, user: str) -> CommandResult:
        """Remove a message of a user, or without `message` all of the user's so far."""
        at_ms = clock.unix_ms()
        body = Clear(id=message, sender=user) if message else Clear(user=user, before_ms=at_ms)
        details = {"message": message} if message else None
        await self._publish(Command.CLEAR, context, at_ms, Kind.CLEAR, body, target=user, details=details)
        return CommandResult(context.id, Command.CLEAR.value, at_ms, context.room, user)

    async def set_modes(self, context: CommandContext, change: RoomChange) -> CommandResult:
        """Change modes of the room, each by a rule of its own; all of them, or none if one is
        refused.
        """
        modes = change.modes()
        for name, value in modes.items():
            self._checked(context, RuleKind.MODE, name, value=value)
        rules = await asyncio.gather(*(self._rule(context, RuleKind.MODE, name, value=modes[name]) for name in modes))
        at_ms = max(rule.at_ms for rule in rules)
        await self._publish(Command.MODES, context, at_ms, Kind.ROOM, change, details=modes)
        return CommandResult(context.id, Command.MODES.value, at_ms, context.room)

    async def dissolve(self, command: Command, context: CommandContext) -> CommandResult:
        """Dissolve the room, or open it again."""
        is_over = command is Command.DISSOLVE
        rule = await self._rule(context, RuleKind.MODE, "dissolved", value=is_over)
        await self._publish(command, context, rule.at_ms, Kind.DISSOLVE if is_over else Kind.REOPEN, None)
        return CommandResult(context.id, command.value, rule.at_ms, context.room)

    async def set_word(self, command: Command, context: CommandContext, word: str, value: str | None) -> CommandResult:
        """Set what a room (`EVERYWHERE`: all rooms) does with a word; None: nothing any more."""
        rule = await self._rule(context, RuleKind.WORD, word, value=value)
        await self._audit(command, context, rule.at_ms, word, {"action": value})
        self._counts[command].inc()
        return CommandResult(context.id, command.value, rule.at_ms, context.room)

    async def audit(self, command: Command, context: CommandContext, at_ms: int, details: dict[str, Any]) -> None:
        """Write the audit entry of a command that is carried out elsewhere."""
        await self._audit(command, context, at_ms, "", details)
        self._counts[command].inc()

    async def _rule(
        self, context: CommandContext, kind: RuleKind, name: str, *, until_ms: int = 0, value: Any = None
    ) -> Moderation:
        """Set or lift a rule everywhere; return it, or the rule that this command set before."""
        rule = self._checked(context, kind, name, until_ms=until_ms, value=value)
        if self._rules.done(rule) is not rule:
            await write(self._writer, MODERATION, key_of(rule), encode_json(record_of(rule)))
            self._rules.apply(rule)
        return rule

    def _checked(
        self, context: CommandContext, kind: RuleKind, name: str, *, until_ms: int = 0, value: Any = None
    ) -> Moderation:
        """Return a rule that may be written, or the one that this command has set before."""
        room, by = context.room, context.by
        rule = Moderation(
            Moderation.VERSION,
            room,
            clock.unix_ms(),
            kind,
            name,
            by.id,
            context.why,
            context.id,
            until_ms=until_ms,
            value=value,
            by_role=by.role.value,
            is_automatic=by is SYSTEM,
        )
        if (before := self._rules.done(rule)) is not None:
            return before
        for each in (name, _WEAKENED_BY.get(name, name)) if kind is RuleKind.MODE else (name,):
            self._check_undo(rule, by, self._rules.rule(kind, room, each, rule.at_ms))
        if kind is not RuleKind.MODE and not until_ms and value is None:
            self._check_there(rule)
        self._check_number(rule, by)
        return rule

    def _check_undo(self, rule: Moderation, by: User, in_force: Moderation | None) -> None:
        """Refuse to replace what a better host has set, and what any host has set for the system.

        So the mute by the system for some minutes does not end a longer one by a host.
        """
        if rule.is_automatic and in_force is not None and not in_force.is_automatic:
            raise ProblemError(Code.FORBIDDEN, "a host has set it")
        check_undo(by, in_force)

    def _check_there(self, rule: Moderation) -> None:
        """Refuse to lift what does not hold, so that invented names leave no records."""
        if self._rules.rule(rule.kind, rule.room, rule.name, rule.at_ms) is None:
            raise ProblemError(Code.NOT_FOUND, f"there is no such {rule.kind.value} in force")

    def _check_number(self, rule: Moderation, by: User) -> None:
        """Refuse a mute, ban or word above the number that a room may have.

        The system itself has half of the mutes, so that senders of forbidden words leave hosts
        space.
        """
        room = rule.room
        if rule.kind is RuleKind.WORD and rule.value is not None:
            words, most = self._rules.words.get(room, {}), MAX_WORDS if room == EVERYWHERE else MAX_ROOM_WORDS
            if rule.name not in words and len(words) >= most:
                raise ProblemError(Code.LIMIT, f"at most {most} words; remove one, or put more into a library file")
        elif rule.kind in MAX_SANCTIONS and rule.until_ms:
            most = MAX_SANCTIONS[rule.kind] // (2 if by is SYSTEM else 1)
            if not self._rules.may_add(rule.kind, room, rule.name, most, rule.at_ms):
                kind = rule.kind.value
                detail = f"at most {most} {kind}s in a room; lift one first (DELETE /v1/rooms/{room}/{kind}s/{{user}})"
                raise ProblemError(Code.LIMIT, detail)

    async def _publish(
        self,
        command: Command,
        context: CommandContext,
        at_ms: int,
        kind: Kind,
        body: msgspec.Struct | None,
        *,
        target: str = "",
        details: dict[str, Any] | None = None,
    ) -> None:
        """Write what viewers see and the audit entry, together."""
        by = context.by
        data = msgspec.Raw(_encode(body) if body is not None else b"{}")
        record = Uplink(
            Uplink.VERSION, context.room, context.id, by.id, at_ms, [Item(kind, data)], by.name, by.role, by.level, via=VIA
        )
        try:
            value = encode_uplink(record)
        except BadRecordError as error:
            raise ProblemError(Code.TOO_LARGE, error.detail) from None
        await _all(
            write(self._writer, UPLINK, context.room.encode(), value), self._audit(command, context, at_ms, target, details)
        )
        self._counts[command].inc()

    async def _audit(
        self, command: Command, context: CommandContext, at_ms: int, target: str, details: dict[str, Any] | None
    ) -> None:
        by = context.by
        what = {**(details or {}), **context.details} or None
        record = Audit(Audit.VERSION, at_ms, context.room, by.id, by.role, command.value, target, context.why, context.id, what)
        await write(self._writer, AUDIT, context.room.encode(), encode_json(record))


_SANCTIONS: Final = {
    Command.MUTE: (RuleKind.MUTE, Kind.MUTE),
    Command.UNMUTE: (RuleKind.MUTE, Kind.UNMUTE),
    Command.BAN: (RuleKind.BAN, Kind.BAN),
    Command.UNBAN: (RuleKind.BAN, Kind.UNBAN),
}


async def _all(*writes: Coroutine[Any, Any, None]) -> None:
    """Wait for all writes to end, then raise the first failure: none goes on unwatched."""
    results: Sequence[BaseException | None] = await asyncio.gather(*writes, return_exceptions=True)
    for result in results:
        if result is not None:
            raise result
