"""Removes members from rooms: users who are banned or kicked, and everybody from a dissolved room.

Owns no state. A member that is in another room too keeps its connection; otherwise the connection
ends with the close code of the reason. A ban by a host of the member's own rank or below does not
hold (`liveroom.moderation.binds`). Called by `edge.fanout` and by the reader of the rules.
"""

from collections.abc import Iterator

from edge.hub import SLICE, Hub
from edge.room import Room, Subscriber
from liveroom import clock
from liveroom.closecodes import Close
from liveroom.errors import Code
from liveroom.kinds import Kind, Role
from liveroom.moderation import binds, holds
from liveroom.records.control import Moderation, RuleKind
from liveroom.topics import room_hash
from liveroom.wire import Error, Notice, encode_frame


def notice_of(kind: Kind, rule: Moderation) -> bytes:
    """Return the text that reports a rule to the user whom it is about."""
    return encode_frame(Notice(rule.room, kind, rule.id, rule.at_ms, rule.until_ms, rule.why))


class Bans:
    """Puts members out of the rooms of a hub: after a ban, a kick, or when a room is dissolved."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def on_rule(self, rule: Moderation) -> None:
        """Put out the user whom a new rule bans."""
        if rule.kind is not RuleKind.BAN or not holds(rule, clock.unix_ms()):
            return
        hash_ = room_hash(rule.room)
        for member in self._hub.connections_of(room_hash(rule.name)):
            if hash_ in member.rooms and binds(rule, member.role):
                member.send(notice_of(Kind.BAN, rule))
                self._put_out(member, member.rooms[hash_], Code.BANNED, Close.BANNED)

    def kick(self, room: int, user: int) -> None:
        """Put all connections of a user out of a room. Both are hashes (`room_hash`).

        Operators stay: nobody ranks before them. The ingress refuses the kick of any host that it
        knows; it need not know an operator who only watches.
        """
        for member in self._hub.connections_of(user):
            if room in member.rooms and member.role is not Role.OPERATOR:
                self._put_out(member, member.rooms[room], Code.KICKED, Close.KICKED)

    def dissolve(self, room: Room) -> Iterator[None]:
        """Put everybody out of a room; yields between slices."""
        for number, member in enumerate([*room.members, *room.waiting], 1):
            if room.hash in member.rooms:
                self._put_out(member, room, Code.ROOM_DISSOLVED, Close.ROOM_DISSOLVED)
            if number % SLICE == 0:
                yield

    def _put_out(self, member: Subscriber, room: Room, code: Code, close: Close) -> None:
        self._hub.leave(member, room.name, clock.monotonic_s())
        member.send(encode_frame(Error(code.value, room=room.name)))
        if not member.rooms:
            member.close(close)
