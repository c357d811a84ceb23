"""Removes members from rooms: banned or kicked users, and those whom a room's modes keep out.

A member that is in another room too keeps its connection; otherwise the connection ends with the
close code of the reason. A ban or kick by a host of the member's own rank or below does not hold
(`liveroom.moderation.binds`, `NoticeHead.is_for`). A mode may concern many members, so `run` puts
them out in slices. Called by `edge.fanout` and by the reader of the rules.
"""

import asyncio
from collections.abc import Iterator

from edge.hub import SLICE, Hub
from edge.room import Room, Subscriber
from liveroom import clock
from liveroom.closecodes import Close
from liveroom.errors import Code
from liveroom.kinds import Kind
from liveroom.moderation import Rules, binds, holds, refusal_by_modes
from liveroom.records.control import LATER_MODES, Moderation, RuleKind
from liveroom.refusals import RefusalLog
from liveroom.topics import room_hash
from liveroom.wire import Error, Notice, encode_frame


def notice_of(kind: Kind, rule: Moderation) -> bytes:
    """Return the text that reports a rule to the user whom it is about."""
    return encode_frame(Notice(rule.room, kind, rule.id, rule.at_ms, rule.until_ms, rule.why))


class Bans:
    """Puts members out of the rooms of a hub: after a ban, a kick, or a change of `rules`."""

    def __init__(self, hub: Hub, rules: Rules, refusals: RefusalLog) -> None:
        self._hub = hub
        self._rules = rules
        self._refusals = refusals
        self._closed: dict[str, None] = {}
        self._has_closed = asyncio.Event()

    def on_rule(self, rule: Moderation) -> None:
        """Put out the user whom a new rule bans, and soon those whom a mode keeps out."""
        if rule.kind is RuleKind.MODE and rule.name in LATER_MODES and room_hash(rule.room) in self._hub.rooms:
            self._closed[rule.room] = None
            self._has_closed.set()
        if rule.kind is not RuleKind.BAN or not holds(rule, clock.unix_ms()):
            return
        hash_ = room_hash(rule.room)
        for member in self._hub.connections_of(room_hash(rule.name)):
            if hash_ in member.rooms and binds(rule, member.role):
                member.send(notice_of(Kind.BAN, rule))
                self._put_out(member, member.rooms[hash_], Code.BANNED, Close.BANNED, rule.why, rule.until_ms)

    async def run(self) -> None:
        """Put out the members whom the modes of their rooms keep out, for ever."""
        while True:
            await self._has_closed.wait()
            self._has_closed.clear()
            while self._closed:
                name = next(iter(self._closed))
                del self._closed[name]
                room = self._hub.rooms.get(room_hash(name))
                for _ in self._sweep(room) if room is not None else ():
                    await clock.sleep(0)

    def _sweep(self, room: Room) -> Iterator[None]:
        """Put out the members whom the room's modes keep out; yields between slices."""
        for number, member in enumerate([*room.members, *room.waiting], 1):
            why = refusal_by_modes(self._rules.settings(room.name), room.name, member.role, member.named_rooms)
            if why is not None and room.hash in member.rooms:
                self._put_out(member, room, Code.FORBIDDEN, Close.NORMAL, why)
            if number % SLICE == 0:
                yield

    def kick(self, member: Subscriber, room: Room) -> None:
        """Put a connection out of a room."""
        if room.hash in member.rooms:
            self._put_out(member, room, Code.KICKED, Close.KICKED)

    def dissolve(self, room: Room) -> Iterator[None]:
        """Put everybody out of a room; yields between slices."""
        for number, member in enumerate([*room.members, *room.waiting], 1):
            if room.hash in member.rooms:
                self._put_out(member, room, Code.ROOM_DISSOLVED, Close.ROOM_DISSOLVED)
            if number % SLICE == 0:
                yield

    def _put_out(self, member: Subscriber, room: Room, code: Code, close: Close, detail: str = "", until_ms: int = 0) -> None:
        self._hub.leave(member, room.name, clock.monotonic_s())
        self._refusals.put_out(code, member.request_id, room=room.name, user=member.user)
        member.send(encode_frame(Error(code.value, detail, room.name, until_ms=until_ms, request_id=member.request_id)))
        if not member.rooms:
            member.close(close)
