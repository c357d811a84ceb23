"""What hosts and operators do: mutes, bans, modes, words; who does it, what is written where, in which order.

Owns the writes: the rule to `moderation` first, so that it holds everywhere; then, at once, what viewers see to `uplink` and
who did what to `audit`; only then it is done. Refuses what the log does not take. A request with an id that was done already
writes no rule again (it might have been lifted since), and gets the same answer. Called by `ingress.acts`, and by
`ingress.entrance` for what the system does by itself.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from ingress.actions import Act
from liveroom import metrics
from liveroom.bodies import Clear, Sanction
from liveroom.errors import Code, ProblemError
from liveroom.kafka import UnsentError
from liveroom.kinds import Kind, Role
from liveroom.moderation import Rules, key_of
from liveroom.records import (
    VERSION,
    Audit,
    BadRecordError,
    Item,
    Moderation,
    RoomChange,
    RuleKind,
    Uplink,
    encode_json,
    encode_uplink,
)
from liveroom.service import Metrics
from liveroom.tickets import User
from liveroom.topics import AUDIT, MODERATION, UPLINK, Topic

SYSTEM: Final = User("system", Role.OPERATOR)
VIA: Final = "ingress"
RETRY_AFTER_S: Final = 1.0


class Queue(Protocol):
    """The log, as an ingress writes it."""

    waiting: int

    async def put(self, topic: Topic, key: bytes, value: bytes) -> None:
        """Return after the brokers' ack, or raise `UnsentError` within the time for it."""

    async def put_many(self, topic: Topic, records: Sequence[tuple[bytes, bytes]]) -> list[UnsentError | None]:
        """Write (key, value) records together; return of each why it got no ack within the time for it."""


class Done(msgspec.Struct, frozen=True, omit_defaults=True):
    """An act that was done. `until_ms`: of mutes and bans; -1: for good."""

    id: str
    act: str
    at_ms: int
    room: str = ""
    user: str = ""
    until_ms: int = 0


class Request(NamedTuple):
    """Who asks for an act in which room, and why.

    `id`: the request's; the same one again is done once. `what`: for the audit.
    """

    room: str
    by: User
    id: str
    why: str = ""
    what: Mapping[str, Any] = {}


_encode: Final = msgspec.json.Encoder().encode


class Desk:
    """Writes what hosts do."""

    def __init__(self, queue: Queue, rules: Rules, made: Metrics) -> None:
        self._queue = queue
        self._rules = rules
        self._counts = {act: made.counter(metrics.ACTS, act.value) for act in Act}

    async def sanction(self, act: Act, request: Request, user: str, until_ms: int) -> Done:
        """Mute, ban, or lift one of these (`until_ms` 0)."""
        rule_kind, kind = _SANCTIONS[act]
        rule = await self._rule(request, rule_kind, user, until_ms=until_ms)
        body = Sanction(user, rule.until_ms, request.why)
        await self._tell(act, request, rule.at_ms, kind, body, target=user, what={"until_ms": rule.until_ms})
        return Done(request.id, act.value, rule.at_ms, request.room, user, rule.until_ms)

    async def kick(self, request: Request, user: str) -> Done:
        """Put a user out."""
        at_ms = _now_ms()
        await self._tell(Act.KICK, request, at_ms, Kind.KICK, Sanction(user, 0, request.why), target=user)
        return Done(request.id, Act.KICK.value, at_ms, request.room, user)

    async def clear(self, request: Request, message: str, user: str) -> Done:
        """Take a message, or all of a user so far, off the screens."""
        at_ms = _now_ms()
        body = Clear(message, user, at_ms if user else 0)
        await self._tell(Act.CLEAR, request, at_ms, Kind.CLEAR, body, target=user or message)
        return Done(request.id, Act.CLEAR.value, at_ms, request.room, user)

    async def set_modes(self, request: Request, change: RoomChange) -> Done:
        """Change modes of the room."""
        modes = change.modes()
        rules = await asyncio.gather(*(self._rule(request, RuleKind.MODE, name, value=modes[name]) for name in modes))
        at_ms = max(rule.at_ms for rule in rules)
        await self._tell(Act.MODES, request, at_ms, Kind.ROOM, change, what=modes)
        return Done(request.id, Act.MODES.value, at_ms, request.room)

    async def dissolve(self, act: Act, request: Request) -> Done:
        """Dissolve the room, or open it again."""
        is_over = act is Act.DISSOLVE
        rule = await self._rule(request, RuleKind.MODE, "dissolved", value=is_over)
        await self._tell(act, request, rule.at_ms, Kind.DISSOLVE if is_over else Kind.REOPEN, None)
        return Done(request.id, act.value, rule.at_ms, request.room)

    async def set_word(self, act: Act, request: Request, word: str, value: str | None) -> Done:
        """Set what a room (or "*") does with a word; None: nothing any more."""
        rule = await self._rule(request, RuleKind.WORD, word, value=value)
        await self._audit(act, request, rule.at_ms, word, {"action": value})
        self._counts[act].inc()
        return Done(request.id, act.value, rule.at_ms, request.room)

    async def audit(self, act: Act, request: Request, at_ms: int, what: dict[str, Any]) -> None:
        """Put down an act that is written elsewhere."""
        await self._audit(act, request, at_ms, "", what)
        self._counts[act].inc()

    async def _rule(self, request: Request, kind: RuleKind, name: str, *, until_ms: int = 0, value: Any = None) -> Moderation:
        """Let a rule hold from now on, here and everywhere; return it, or the one that this very request has set before."""
        rule = Moderation(
            VERSION, request.room, _now_ms(), kind, name, request.by.id, request.why, request.id, until_ms=until_ms, value=value
        )
        if (before := self._rules.done(rule)) is not None:
            return before
        await self._put(MODERATION, key_of(rule), encode_json(rule))
        self._rules.apply(rule)
        return rule

    async def _tell(
        self,
        act: Act,
        request: Request,
        at_ms: int,
        kind: Kind,
        body: msgspec.Struct | None,
        *,
        target: str = "",
        what: dict[str, Any] | None = None,
    ) -> None:
        by = request.by
        data = msgspec.Raw(_encode(body) if body is not None else b"{}")
        record = Uplink(
            VERSION, request.room, request.id, by.id, at_ms, [Item(kind, data)], by.name, by.role, by.level, via=VIA
        )
        try:
            value = encode_uplink(record)
        except BadRecordError as error:
            raise ProblemError(Code.TOO_LARGE, error.detail) from None
        await _all(self._put(UPLINK, request.room.encode(), value), self._audit(act, request, at_ms, target, what))
        self._counts[act].inc()

    async def _audit(self, act: Act, request: Request, at_ms: int, target: str, what: dict[str, Any] | None) -> None:
        by = request.by
        told = {**(what or {}), **request.what} or None
        record = Audit(VERSION, at_ms, request.room, by.id, by.role, act.value, target, request.why, request.id, told)
        await self._put(AUDIT, request.room.encode(), encode_json(record))

    async def _put(self, topic: Topic, key: bytes, value: bytes) -> None:
        try:
            await self._queue.put(topic, key, value)
        except UnsentError as error:
            raise ProblemError(Code.QUEUE_UNAVAILABLE, retry_after_s=RETRY_AFTER_S) from error


_SANCTIONS: Final = {
    Act.MUTE: (RuleKind.MUTE, Kind.MUTE),
    Act.UNMUTE: (RuleKind.MUTE, Kind.UNMUTE),
    Act.BAN: (RuleKind.BAN, Kind.BAN),
    Act.UNBAN: (RuleKind.BAN, Kind.UNBAN),
}


async def _all(*works: Any) -> None:
    """Wait for all of these, then raise the first failure: none goes on unwatched."""
    results: Sequence[BaseException | None] = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if result is not None:
            raise result


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
