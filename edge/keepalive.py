"""Time on a gateway: who is silent, who must be sent something, who takes too little, who waits for
a snapshot too long.

Owns the one clock that turns the gateway's wheel; there is no timer for a viewer. Ends members with
4005, 4006 and 4008, lets late members in without their room's snapshot, and has late connections,
pull grants and empty rooms forgotten.
"""

import gc
from collections.abc import Callable, Iterable
from typing import Final

from aiohttp.web_protocol import RequestHandler

from edge.gateway import TICK_S, Gateway
from edge.hub import waiting_too_long
from edge.member import CLOSE_TIMEOUT_S, TURN_S, Member
from edge.upgrade import Upgrades
from liveroom import clock
from liveroom.closecodes import Close
from liveroom.wire import Beat, encode_frame

LATE_HEARTBEATS: Final = 3
SNAPSHOT_WAIT_S: Final = 1.0
FREEZE_AFTER_JOINS: Final = 5000


class KeepAlive:
    """The clock of one gateway."""

    def __init__(self, gateway: Gateway, upgrades: Upgrades) -> None:
        self._gateway = gateway
        self._upgrades = upgrades

    async def run(self, connections: Callable[[], Iterable[RequestHandler]]) -> None:
        """Turn the wheel, for ever.

        `connections`: those that are still aiohttp's, so have sent no whole request.
        """
        gateway = self._gateway
        frozen_at = joins_before = 0
        while True:
            await clock.sleep(TICK_S)
            self.turn()
            self._upgrades.end_late(connections())
            if gateway.taken_in - frozen_at >= FREEZE_AFTER_JOINS and gateway.joins == joins_before:  # the wave is over
                frozen_at = gateway.taken_in
                gc.collect(1)
                gc.freeze()  # members live long: a full collection need not look at them
            joins_before = gateway.joins

    def turn(self) -> None:
        """Look at the members whose time has come, and at all that waits."""
        gateway = self._gateway
        now_s = clock.monotonic_s()
        beat = encode_frame(Beat(clock.unix_ms()))
        for member in gateway.wheel.turn(now_s):
            self._look_at(member, now_s, beat)
        self._end_snapshot_waits(now_s)
        for member in gateway.queues.too_old(now_s):
            member.close(Close.SLOW)
        gateway.grants.expire(now_s)
        gateway.hub.forget_vacant(now_s)

    def _look_at(self, member: Member, now_s: float, beat: bytes) -> None:
        if member.transport is None:
            return
        if member.close_code:
            if now_s - member.closing_s >= CLOSE_TIMEOUT_S:
                member.abort()
            return
        gateway = self._gateway
        silent_s = now_s - member.received_s
        timeout_s = gateway.settings.handshake_timeout_s
        member.frames = 0
        if silent_s > gateway.settings.heartbeat_s * LATE_HEARTBEATS:
            member.close(Close.HEARTBEAT_LATE)
        elif not member.rooms and silent_s >= timeout_s:
            member.close(Close.HANDSHAKE_LATE)
        else:
            if member not in gateway.queues and all(now_s - room.pushed_s >= TURN_S for room in member.rooms.values()):
                member.send(beat)
            gateway.wheel.put(member, now_s + TURN_S if member.rooms else min(now_s + TURN_S, member.received_s + timeout_s))

    def _end_snapshot_waits(self, now_s: float) -> None:
        """Ask again for the snapshots that are still waited for, and let in who has waited long
        enough.
        """
        gateway = self._gateway
        for room in gateway.hub.rooms.values():
            if room.waiting or room.owed:
                gateway.want_snapshot(room, now_s)  # who came within a second of the last question found it asked already
        for member, room in waiting_too_long(gateway.hub.rooms.values(), now_s, SNAPSHOT_WAIT_S):
            room.owed[member] = None
            gateway.let_in(member, room)
