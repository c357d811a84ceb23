"""Drain: a gateway moves all its viewers away.

Owns the pace at which viewers are asked to move, and the end of those who stay (1012). Called on
SIGTERM, and by `edge.orders` when the pool orders it.
"""

import asyncio
import contextlib
from typing import Final

import structlog

from edge.gateway import Gateway
from edge.member import CLOSE_TIMEOUT_S
from liveroom import clock
from liveroom.closecodes import Close
from liveroom.wire import Move, encode_frame

MOVE_SLICES: Final = 20
log = structlog.get_logger()


async def drain(gateway: Gateway) -> None:
    """Admit nobody more, ask viewers in slices to move, close those who stay.

    It returns when all are gone, at the latest `drain_s` and `CLOSE_TIMEOUT_S` after it began.
    """
    drain_s = gateway.settings.drain_s
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
