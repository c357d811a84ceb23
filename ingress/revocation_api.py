"""Carries out the commands about tokens and connections: revoke, list, lift; list and end.

Owns how many revocations there may be, and when one ends. Refuses with problems. Called by `app`;
`user_connections` asks the gateways.
"""

import heapq
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from ingress import permissions
from ingress.command_requests import CommandRequest, RevokeRequest
from ingress.log import LogWriter, unsent, write
from ingress.moderation import CommandContext, ModerationService
from ingress.permissions import Command
from ingress.rate_limits import COMMANDS, RateLimits
from ingress.responses import CommandResult, RevocationEntry, RevocationList, UserConnectionList
from ingress.user_connections import UserConnectionService
from liveroom import clock
from liveroom.errors import Code, ProblemError
from liveroom.kafka import UnsentError
from liveroom.limits import Bucket
from liveroom.moderation import EVERYWHERE, REMEMBERED_MS
from liveroom.records.codec import encode_json
from liveroom.records.revocations import ConnectionOrderKind, Revocation
from liveroom.revocations import MAX_OF_TARGET, MAX_REVOCATIONS, Revocations
from liveroom.settings import IngressSettings
from liveroom.tickets import User
from liveroom.topics import REVOCATIONS

PER_S: Final = 50.0  # of all callers together, services too: each command walks the members of every gateway
BURST: Final = 200.0


class RevocationApi:
    """Answers requests for these commands."""

    def __init__(
        self,
        settings: IngressSettings,
        writer: LogWriter,
        revocations: Revocations,
        moderation: ModerationService,
        limits: RateLimits,
        connections: UserConnectionService,
    ) -> None:
        self._settings = settings
        self._writer = writer
        self._revocations = revocations
        self._moderation = moderation
        self._limits = limits
        self._connections = connections
        self._left = Bucket(PER_S, BURST, clock.monotonic_s())
        self._answers: dict[Command, Callable[[CommandRequest], Awaitable[msgspec.Struct]]] = {
            Command.REVOKE: self._revoke,
            Command.REVOCATIONS: self._list,
            Command.LIFT_REVOCATION: self._lift,
            Command.CONNECTIONS: self._list_connections,
            Command.END_CONNECTIONS: self._end_connections,
        }
        self.commands = frozenset(self._answers)

    def check(self, command: Command, _: str | None, user: User) -> None:
        """Refuse a command that the user may not give, or that comes too often."""
        permissions.check_host(user, None, command)
        now_s = clock.monotonic_s()
        self._limits.take(COMMANDS, EVERYWHERE, user, now_s)
        if wait_s := self._left.take(now_s):
            raise ProblemError(Code.RATE_USER, "all operators and services together are too fast", retry_after_s=wait_s)

    async def answer(self, request: CommandRequest) -> tuple[int, msgspec.Struct]:
        """Carry out a command that passed `check`; return the HTTP status and the body."""
        answer = await self._answers[request.command](request)
        return (202 if isinstance(answer, CommandResult) else 200), answer

    # ---- revocations
    async def _revoke(self, request: CommandRequest) -> RevocationEntry:
        revocation = self._revocation(request)
        before = self._revocations.get(revocation.id)
        if before is None:
            if len(self._revocations) >= MAX_REVOCATIONS:
                detail = f"at most {MAX_REVOCATIONS} revocations; lift some, or revoke all tokens issued before a time"
                raise ProblemError(Code.LIMIT, detail)
            if self._revocations.count_of(revocation.user, revocation.device) >= MAX_OF_TARGET:
                raise ProblemError(Code.LIMIT, f"at most {MAX_OF_TARGET} revocations of the same tokens; lift old ones")
            await write(self._writer, REVOCATIONS, revocation.id.encode(), encode_json(revocation))
            self._revocations.apply(revocation)
        elif _is_repeated(revocation, before, request.body):
            revocation = before
        else:
            raise ProblemError(Code.SCHEMA, "another revocation has this id")
        await self._audit(request, revocation.at_ms, revocation)
        return _entry(revocation)

    def _revocation(self, request: CommandRequest) -> Revocation:
        """Return the revocation that a request describes, or refuse it."""
        body: RevokeRequest = request.body
        settings, now_s = self._settings, clock.unix_s()
        if not body.user and body.device:
            raise ProblemError(Code.SCHEMA, "a device is one of a user: name the user too")
        if not body.user and body.issued_before_s is None:
            raise ProblemError(Code.SCHEMA, "name a user, or issued_before_s")
        # Tokens name whole seconds: one of this second may have been issued before this moment.
        before_s = int(now_s) + 1 if body.issued_before_s is None else body.issued_before_s
        if before_s > now_s + settings.token_leeway_s + 1:
            raise ProblemError(Code.SCHEMA, "issued_before_s is in the future; it is in seconds, as iat is")
        until_ms = int((before_s + settings.token_life_s + settings.token_leeway_s) * 1000)
        at_ms = clock.unix_ms()
        if until_ms <= at_ms:
            raise ProblemError(Code.SCHEMA, "issued_before_s is so long ago that every such token has expired")
        return Revocation(
            Revocation.VERSION, request.id, at_ms, before_s, until_ms, body.user, body.device, request.user.id, request.why
        )

    async def _list(self, request: CommandRequest) -> RevocationList:
        after, limit, now_ms = request.query.get("after", ""), request.limit(), clock.unix_ms()
        found = (each for each in self._revocations if each.id > after and now_ms < each.until_ms)
        first = heapq.nsmallest(limit + 1, found, key=lambda each: each.id)
        return RevocationList([_entry(each) for each in first[:limit]], first[limit - 1].id if len(first) > limit else "")

    async def _lift(self, request: CommandRequest) -> CommandResult:
        id_, at_ms = request.revocation_id(), clock.unix_ms()
        try:
            await self._writer.put(REVOCATIONS, id_.encode(), None)
        except UnsentError as error:
            raise unsent(error) from error
        lifted = self._revocations.get(id_)
        self._revocations.withdraw(id_)
        await self._audit(request, at_ms, lifted)
        return CommandResult(id_, request.command.value, at_ms, user=lifted.user if lifted is not None else "")

    # ---- connections
    async def _list_connections(self, request: CommandRequest) -> UserConnectionList:
        return await self._connections.order(request.target(), ConnectionOrderKind.LIST)

    async def _end_connections(self, request: CommandRequest) -> UserConnectionList:
        ended = await self._connections.order(request.target(), ConnectionOrderKind.END)
        details = {"user": ended.user, "ended": ended.total, "missing": ended.missing}
        await self._moderation.audit(request.command, _context(request), clock.unix_ms(), details)
        return ended

    async def _audit(self, request: CommandRequest, at_ms: int, about: Revocation | None) -> None:
        details = msgspec.to_builtins(_entry(about)) if about is not None else {"id": request.revocation_id()}
        await self._moderation.audit(request.command, _context(request), at_ms, details)


def _context(request: CommandRequest) -> CommandContext:
    return CommandContext(EVERYWHERE, request.user, request.id, request.why)


def _is_repeated(revocation: Revocation, before: Revocation, body: RevokeRequest) -> bool:
    """Return whether a request is the one that set the revocation `before` a moment ago."""
    return (
        (before.user, before.device) == (revocation.user, revocation.device)
        and body.issued_before_s in {None, before.issued_before_s}
        and revocation.at_ms - before.at_ms < REMEMBERED_MS
    )


def _entry(of: Revocation) -> RevocationEntry:
    return RevocationEntry(of.id, of.at_ms, of.issued_before_s, of.until_ms, of.user, of.device, of.by, of.why)
