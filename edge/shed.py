"""Shed: a gateway with too many viewers moves some of them away each second.

Owns the choice of viewers, the list of those who were asked to move, and the end of those who stay
(4009). `edge.orders` starts and cancels it.
"""

from collections import OrderedDict
from typing import Final

from edge.gateway import Gateway
from edge.member import Member
from liveroom import clock
from liveroom.chance import Chance
from liveroom.closecodes import Close
from liveroom.wire import Move, encode_frame

SHED_GRACE_S: Final = 5.0
SHED_FOR_S: Final = 30.0


class Shedding:
    """The viewers of one gateway who were asked to move, over several orders to shed."""

    def __init__(self, gateway: Gateway, chance: Chance) -> None:
        self._gateway = gateway
        self._chance = chance
        self._asked: OrderedDict[Member, float] = OrderedDict()  # when each was asked

    def forget(self) -> None:
        """Let those who were asked to move stay."""
        self._asked.clear()

    async def shed(self, rate_per_s: float) -> None:
        """Ask `rate_per_s` viewers a second to move, chosen at random; close those who stay.

        It asks for `SHED_FOR_S` and ends when all who were asked have left. The pool repeats its
        order while that is wanted: a leader that died or was paused repeats nothing.
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
