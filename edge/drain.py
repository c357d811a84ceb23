"""How viewers are moved away from a gateway: all of them at its end (drain), or some a second
because it has too many (shed).

Owns what the pool ordered and who has been asked to move. Ends who stays: 1012 after a drain, 4009
after a shed. Passes over orders to another gateway, or to this one before it was restarted. Called
by `edge.orders` and at SIGTERM.
"""

import asyncio
import contextlib
from collections import OrderedDict
from typing import Final

import structlog

from edge.gateway import Gateway
from edge.member import CLOSE_TIMEOUT_S, Member
from liveroom import clock
from liveroom.chance import Chance
from liveroom.closecodes import Close
from liveroom.records.control import Order, OrderKind
from liveroom.wire import Move, encode_frame

MOVE_SLICES: Final = 20
SHED_GRACE_S: Final = 5.0
SHED_FOR_S: Final = 30.0
log = structlog.get_logger()


class Drain:
    """Moves the viewers of one gateway."""

    def __init__(self, gateway: Gateway, chance: Chance) -> None:
        self._gateway = gateway
        self._chance = chance
        self._moving: asyncio.Task[None] | None = None
        self._asked: OrderedDict[Member, float] = OrderedDict()  # to move, and when; over several orders to shed

    def obey(self, order: Order) -> None:
        """Do what the pool asks. A later order takes the place of an earlier one."""
        gateway = self._gateway
        if (order.gateway, order.generation) != (gateway.settings.instance, gateway.generation):
            return  # another gateway's, or this one's before it was restarted
        log.info("ordered", kind=order.kind.value, reason=order.reason, rate_per_s=order.rate_per_s)
        self.stop()
        if order.kind is not OrderKind.SHED:
            self._asked.clear()
        match order.kind:
            case OrderKind.DRAIN:
                gateway.draining = True
                self._moving = asyncio.create_task(self.drain())
            case OrderKind.SHED:
                gateway.draining = False
                if order.rate_per_s > 0:
                    self._moving = asyncio.create_task(self.shed(order.rate_per_s))
            case OrderKind.RESUME:
                gateway.draining = False

    def stop(self) -> None:
        """Move nobody any more; who was asked to may still go."""
        if self._moving is not None:
            self._moving.cancel()
            self._moving = None

    async def drain(self) -> None:
        """Take nobody more, ask viewers in slices to move, end those who stay."""
        gateway, drain_s = self._gateway, self._gateway.settings.drain_s
        gateway.draining = True
        log.info("draining", viewers=len(gateway.members), over_s=drain_s)
        members = list(gateway.members)
        per_slice = -(-len(members) // MOVE_SLICES) or 1
        move = encode_frame(Move("drain"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                for start in range(0, len(members), per_slice):
                    for member in members[start : start + per_slice]:
                        member.send(move)
                    await clock.sleep(drain_s / 2 / MOVE_SLICES)
                await gateway.all_gone()
        for member in list(gateway.members):
            member.close(Close.SERVICE_RESTART)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await gateway.all_gone()
        for member in list(gateway.members):
            member.abort()

    async def shed(self, rate_per_s: float) -> None:
        """Ask so many viewers a second to move, chosen at random, for `SHED_FOR_S`; end those who
        do not.

        The pool says it again while it is wanted: a leader that has died, or was paused, says
        nothing more.
        """
        gateway, asked = self._gateway, self._asked
        until_s = clock.monotonic_s() + SHED_FOR_S
        move = encode_frame(Move("shed"))
        while asked or clock.monotonic_s() < until_s:
            await clock.sleep(1 / rate_per_s)
            now_s = clock.monotonic_s()
            staying = [member for member in gateway.members if member not in asked and not member.close_code]
            if staying and now_s < until_s:
                chosen = self._chance.choice(staying)
                chosen.send(move)
                asked[chosen] = now_s
            while asked:
                member, since_s = next(iter(asked.items()))
                if now_s - since_s < SHED_GRACE_S:
                    break
                del asked[member]
                member.close(Close.SHED)
