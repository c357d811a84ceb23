"""The members of a gateway, and what their frames ask.

Owns the members, how many of them a user and an address have, and the parts that serve them: rooms
(`edge.hub`), joins, bans, revocations, send queues, pull grants. Answers a frame of an unknown
type, which a newer client sent, with an error, and refuses any other one outside the protocol by
closing with 4010.
`edge.upgrade` adds members, `edge.keepalive` checks them as time passes, `edge.drain` and
`edge.shed` move them away.
"""

import asyncio
from typing import Final

from edge.bans import Bans
from edge.hub import Hub
from edge.joins import Joins
from edge.member import CLOSE_TIMEOUT_S, TURN_S, Member
from edge.pull_grants import PullGrant, PullGrants
from edge.send_queue import SendQueues
from edge.sse_connection import SseConnection
from edge.wheel import Wheel
from liveroom import clock, metric_catalog
from liveroom.budgets import Holdings
from liveroom.closecodes import TABLE, Close
from liveroom.errors import Code
from liveroom.moderation import Rules
from liveroom.refusals import RefusalLog
from liveroom.registry import Metrics
from liveroom.revocations import Revocations
from liveroom.settings import EdgeSettings
from liveroom.topics import valid_room
from liveroom.wire import (
    BadFrameError,
    Beat,
    Error,
    Heartbeat,
    Join,
    Leave,
    Left,
    UnknownFrameError,
    decode_client_frame,
    encode_frame,
)

TICK_S: Final = 0.25
WHEEL_SLOTS: Final = 64


class Gateway:
    """The members of one gateway. It hosts them (`edge.member.MemberHost`).

    `generation`: when it started, in milliseconds of Unix time; tickets and orders name it. It is
    set again once Kafka's time is known (`edge.load_report.begin_generation`).
    `refusals`: the log of them, by default one that names no users. `wheel`: when each member is
    checked next. `held`: the connections of each user and address.
    `taken_in`, `leaves`: members so far. `draining`: it admits nobody more.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        hub: Hub,
        rules: Rules,
        metrics: Metrics,
        generation: int,
        refusals: RefusalLog | None = None,
    ) -> None:
        self.settings = settings
        self.hub = hub
        self._refusals = refusals = refusals if refusals is not None else RefusalLog()
        self.joins = Joins(hub, rules, metrics, settings, refusals)
        self.bans = Bans(hub, rules, refusals)
        self.generation = generation
        self.was_silent = False
        self.members: dict[Member, None] = {}
        self.sse_connections: dict[str, SseConnection] = {}
        self.queues: SendQueues[Member] = SendQueues(
            settings.slow_unsent_bytes, settings.max_unsent_bytes, settings.max_unsent_total_bytes, settings.max_unsent_s
        )
        self.wheel: Wheel[Member] = Wheel(TICK_S, WHEEL_SLOTS, clock.monotonic_s())
        self.grants = PullGrants()
        self.revocations = Revocations()
        self.taken_in = 0
        self.leaves = 0
        self.draining = False
        self.held = Holdings(user=settings.max_user_connections, address=settings.max_per_address)
        self._emptied = asyncio.Event()
        self._closes = {code: metrics.counter(metric_catalog.CLOSES, str(code)) for code in TABLE}
        self._other_closes = {name: metrics.counter(metric_catalog.CLOSES, name) for name in ("none", "other")}

    # ---- who is here
    def take_in(self, member: Member) -> None:
        """Add a member that has taken over its connection."""
        self.members[member] = None
        self.taken_in += 1
        rooms = member.ticket_rooms, member.named_rooms
        self.grants.grant(member.pull, PullGrant(member.user, member.role, *rooms, member.device, member.issued_s))
        if isinstance(member, SseConnection):
            self.sse_connections[member.pull] = member
        self.held.add(member.caller)
        self.wheel.put(member, clock.monotonic_s() + min(TURN_S, self.settings.handshake_timeout_s))

    async def all_gone(self) -> None:
        """Return when there is no member."""
        if self.members:
            self._emptied.clear()
            await self._emptied.wait()

    # ---- what members report (edge.member.MemberHost)
    def received(self, member: Member, text: bytes) -> None:
        """Do what a viewer's frame asks."""
        try:
            frame = decode_client_frame(text)
        except UnknownFrameError as error:
            self._refuse(member, Code.UNKNOWN_FRAME, "unknown", detail=str(error))
            return
        except BadFrameError:
            member.close(Close.BAD_FRAME)
            return
        match frame:
            case Join():
                self.joins.join(member, frame)
            case Leave():
                if self.hub.leave(member, frame.room, clock.monotonic_s()):
                    member.send(encode_frame(Left(frame.room)))
                else:
                    self._refuse(member, Code.NOT_IN_ROOM, "leave", room=frame.room[:64])
            case Heartbeat():
                member.send(encode_frame(Beat(clock.unix_ms())))

    def _refuse(self, member: Member, code: Code, frame: str, *, detail: str = "", room: str = "") -> None:
        """Send a member the refusal of a frame that is no join, and log it."""
        self._refusals.refused(code, frame, member.request_id, room=valid_room(room), user=member.user)
        member.send(encode_frame(Error(code.value, detail, room, request_id=member.request_id)))

    def closes(self, member: Member, code: Close, reason: str) -> None:
        """Log that the gateway ends a member's connection."""
        rooms = [room.name for room in member.rooms.values()]
        self._refusals.closed(code, reason, member.request_id, rooms=rooms, user=member.user)

    def ending(self, member: Member) -> None:
        """Take a member that is ending out of its rooms.

        It has `CLOSE_TIMEOUT_S` to close its side; then the wheel aborts it.
        """
        now_s = clock.monotonic_s()
        self.hub.drop(member, now_s)
        self.wheel.put(member, now_s + CLOSE_TIMEOUT_S)

    def lost(self, member: Member) -> None:
        """Forget a member whose connection is gone."""
        now_s = clock.monotonic_s()
        self.hub.drop(member, now_s)
        if self.members.pop(member, "gone") == "gone":
            return
        self.leaves += 1
        self.sse_connections.pop(member.pull, None)
        if not self.members:
            self._emptied.set()
        code = member.close_code
        counter = self._closes.get(code)
        (counter if counter is not None else self._other_closes["other" if code else "none"]).inc()
        self.grants.end(member.pull, now_s + self.settings.pull_for_s)
        self.held.remove(member.caller)

    def relieve(self) -> None:
        """Close the viewers with the largest queues, because too much waits for all together."""
        for member in self.queues.in_the_way():
            member.close(Close.SLOW)
