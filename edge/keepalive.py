"""Keep-alive: what a gateway does as time passes. Missed heartbeats, late joins, quiet connections.

Owns the one task that turns the gateway's wheel; no viewer has a timer. Closes members with 4005
(three heartbeats missed), 4006 (no room joined in time) and 4008 (too slow), and sends a heartbeat
to those to whom nothing was sent for a while. It also ends the waits for snapshots, old pull grants
and empty rooms.
"""

import gc
from typing import Final

from edge.gateway import TICK_S, Gateway
from edge.member import CLOSE_TIMEOUT_S, TURN_S, Member
from liveroom import clock
from liveroom.closecodes import Close
from liveroom.wire import Beat, encode_frame

LATE_HEARTBEATS: Final = 3
FREEZE_AFTER_JOINS: Final = 5000


class KeepAlive:
    """The turning wheel of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def run(self) -> None:
        """Turn the wheel, for ever."""
        gateway = self._gateway
        frozen_at = joins_before = 0
        while True:
            await clock.sleep(TICK_S)
            self.turn()
            joins = gateway.joins.arrived
            if gateway.taken_in - frozen_at >= FREEZE_AFTER_JOINS and joins == joins_before:  # the wave is over
                frozen_at = gateway.taken_in
                gc.collect(1)
                gc.freeze()  # members live long: a full collection need not visit them
            joins_before = joins

    def turn(self) -> None:
        """Check the members whose time has come, and everything that waits."""
        gateway = self._gateway
        now_s = clock.monotonic_s()
        beat = encode_frame(Beat(clock.unix_ms()))
        for member in gateway.wheel.turn(now_s):
            self._check(member, now_s, beat)
        gateway.joins.end_waits(now_s)
        for member in gateway.queues.too_old(now_s):
            member.close(Close.SLOW)
        gateway.grants.expire(now_s)
        gateway.hub.forget_vacant(now_s)

    def _check(self, member: Member, now_s: float, beat: bytes) -> None:
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
