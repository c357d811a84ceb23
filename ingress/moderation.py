"""What hosts and operators do: mutes, bans, modes, words; who does it, what is written where, in
which order.

Owns the writes: the rule to `moderation` first, so that it holds everywhere; then, at once, what
viewers see to `uplink` and who did what to `audit`; only then it is done. Refuses what the log does
not take. A command with an id that was done already writes no rule again (it might have been lifted
since), and gets the same answer. Called by `ingress.moderation_api`, and by
`ingress.auto_moderation` for what the system does by itself.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from ingress.log import LogWriter, unsent
from ingress.permissions import Command
from ingress.requests import VIA
from liveroom import clock, metric_catalog
from liveroom.bodies import Clear, Sanction
from liveroom.errors import Code, ProblemError
from liveroom.kafka import UnsentError
from liveroom.kinds import Kind, Role
from liveroom.moderation import Rules, key_of
from liveroom.records.codec import VERSION, BadRecordError, encode_json
from liveroom.records.control import Audit, Moderation, RuleKind
from liveroom.records.snapshot import RoomChange
from liveroom.records.uplink import Item, Uplink, encode_uplink
from liveroom.registry import Metrics
from liveroom.tickets import User
from liveroom.topics import AUDIT, MODERATION, UPLINK, Topic

SYSTEM: Final = User("system", Role.OPERATOR)


class Done(msgspec.Struct, frozen=True, omit_defaults=True):
    """An act that was done. `until_ms`: of mutes and bans; -1: for good."""

    id: str
    act: str
    at_ms: int
    room: str = ""
    user: str = ""
    until_ms: int = 0


class CommandContext(NamedTuple):
    """Who gives a command in which room, and why.

    `id`: the request's; the same one again is done once. `what`: for the audit.
    """

    room: str
    by: User
    id: str
    why: str = ""
    what: Mapping[str, Any] = {}


_encode: Final = msgspec.json.Encoder().encode


class ModerationService:
    """Writes what hosts do."""

    def __init__(self, writer: LogWriter, rules: Rules, metrics: Metrics) -> None:
        self._writer = writer
        self._rules = rules
        self._counts = {command: metrics.counter(metric_catalog.ACTS, command.value) for command in Command}

    async def sanction(self, command: Command, context: CommandContext, user: str, until_ms: int) -> Done:
        """Mute, ban, or lift one of these (`until_ms` 0)."""
        rule_kind, kind = _SANCTIONS[command]
        rule = await self._rule(context, rule_kind, user, until_ms=until_ms)
        body = Sanction(user, rule.until_ms, context.why)
        await self._tell(command, context, rule.at_ms, kind, body, target=user, what={"until_ms": rule.until_ms})
        return Done(context.id, command.value, rule.at_ms, context.room, user, rule.until_ms)

    async def kick(self, context: CommandContext, user: str) -> Done:
        """Put a user out."""
        at_ms = clock.unix_ms()
        await self._tell(Command.KICK, context, at_ms, Kind.KICK, Sanction(user, 0, context.why), target=user)
        return Done(context.id, Command.KICK.value, at_ms, context.room, user)

    async def clear(self, context: CommandContext, message: str, user: str) -> Done:
        """Take a message, or all of a user so far, off the screens."""
        at_ms = clock.unix_ms()
        body = Clear(message, user, at_ms if user else 0)
        await self._tell(Command.CLEAR, context, at_ms, Kind.CLEAR, body, target=user or message)
        return Done(context.id, Command.CLEAR.value, at_ms, context.room, user)

    async def set_modes(self, context: CommandContext, change: RoomChange) -> Done:
        """Change modes of the room."""
        modes = change.modes()
        rules = await asyncio.gather(*(self._rule(context, RuleKind.MODE, name, value=modes[name]) for name in modes))
        at_ms = max(rule.at_ms for rule in rules)
        await self._tell(Command.MODES, context, at_ms, Kind.ROOM, change, what=modes)
        return Done(context.id, Command.MODES.value, at_ms, context.room)

    async def dissolve(self, command: Command, context: CommandContext) -> Done:
        """Dissolve the room, or open it again."""
        is_over = command is Command.DISSOLVE
        rule = await self._rule(context, RuleKind.MODE, "dissolved", value=is_over)
        await self._tell(command, context, rule.at_ms, Kind.DISSOLVE if is_over else Kind.REOPEN, None)
        return Done(context.id, command.value, rule.at_ms, context.room)

    async def set_word(self, command: Command, context: CommandContext, word: str, value: str | None) -> Done:
        """Set what a room (or "*") does with a word; None: nothing any more."""
        rule = await self._rule(context, RuleKind.WORD, word, value=value)
        await self._audit(command, context, rule.at_ms, word, {"action": value})
        self._counts[command].inc()
        return Done(context.id, command.value, rule.at_ms, context.room)

    async def audit(self, command: Command, context: CommandContext, at_ms: int, what: dict[str, Any]) -> None:
        """Put down a command that is carried out elsewhere."""
        await self._audit(command, context, at_ms, "", what)
        self._counts[command].inc()

    async def _rule(
        self, context: CommandContext, kind: RuleKind, name: str, *, until_ms: int = 0, value: Any = None
    ) -> Moderation:
        """Let a rule hold from now on, here and everywhere; return it, or the one that this very
        command has set before.
        """
        rule = Moderation(
            VERSION,
            context.room,
            clock.unix_ms(),
            kind,
            name,
            context.by.id,
            context.why,
            context.id,
            until_ms=until_ms,
            value=value,
        )
        if (before := self._rules.done(rule)) is not None:
            return before
        await self._put(MODERATION, key_of(rule), encode_json(rule))
        self._rules.apply(rule)
        return rule

    async def _tell(
        self,
        command: Command,
        context: CommandContext,
        at_ms: int,
        kind: Kind,
        body: msgspec.Struct | None,
        *,
        target: str = "",
        what: dict[str, Any] | None = None,
    ) -> None:
        by = context.by
        data = msgspec.Raw(_encode(body) if body is not None else b"{}")
        record = Uplink(
            VERSION, context.room, context.id, by.id, at_ms, [Item(kind, data)], by.name, by.role, by.level, via=VIA
        )
        try:
            value = encode_uplink(record)
        except BadRecordError as error:
            raise ProblemError(Code.TOO_LARGE, error.detail) from None
        await _all(self._put(UPLINK, context.room.encode(), value), self._audit(command, context, at_ms, target, what))
        self._counts[command].inc()

    async def _audit(
        self, command: Command, context: CommandContext, at_ms: int, target: str, what: dict[str, Any] | None
    ) -> None:
        by = context.by
        told = {**(what or {}), **context.what} or None
        record = Audit(VERSION, at_ms, context.room, by.id, by.role, command.value, target, context.why, context.id, told)
        await self._put(AUDIT, context.room.encode(), encode_json(record))

    async def _put(self, topic: Topic, key: bytes, value: bytes) -> None:
        try:
            await self._writer.put(topic, key, value)
        except UnsentError as error:
            raise unsent(error) from error


_SANCTIONS: Final = {
    Command.MUTE: (RuleKind.MUTE, Kind.MUTE),
    Command.UNMUTE: (RuleKind.MUTE, Kind.UNMUTE),
    Command.BAN: (RuleKind.BAN, Kind.BAN),
    Command.UNBAN: (RuleKind.BAN, Kind.UNBAN),
}


async def _all(*works: Any) -> None:
    """Wait for all of these, then raise the first failure: none goes on unwatched."""
    results: Sequence[BaseException | None] = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if result is not None:
            raise result
