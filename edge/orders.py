"""What the pool orders of this gateway: drain, shed, or resume.

Owns the order that holds now. Ignores orders to other gateways, and to this one before its restart:
an order names the generation that it is for. Reads `control` from its beginning.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from edge.drain import drain
from edge.gateway import Gateway
from edge.shed import Shedding
from liveroom import topics
from liveroom.chance import Chance
from liveroom.consumers import records
from liveroom.kafka import TopicReader
from liveroom.records.control import Order, OrderKind
from liveroom.service import Runtime

log = structlog.get_logger()


class Orders:
    """The orders to one gateway.

    `start` makes a task of work. The gateway gives that of a group which ends with it: a drain
    that failed unseen would leave a gateway that takes nobody and moves nobody.
    """

    def __init__(
        self,
        gateway: Gateway,
        chance: Chance,
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]] = asyncio.create_task,
    ) -> None:
        self._start = start
        self._gateway = gateway
        self._shedding = Shedding(gateway, chance)
        self._moving: asyncio.Task[None] | None = None
        self._is_over = False

    def obey(self, order: Order) -> None:
        """Carry out an order of the pool. A later order replaces an earlier one."""
        gateway = self._gateway
        if self._is_over or (order.gateway, order.generation) != (gateway.settings.instance, gateway.generation):
            return
        log.info("ordered", kind=order.kind.value, reason=order.reason, rate_per_s=order.rate_per_s)
        self._stop()
        if order.kind is not OrderKind.SHED:
            self._shedding.forget()
        match order.kind:
            case OrderKind.DRAIN:
                gateway.draining = True
                self._moving = self._start(drain(gateway))
            case OrderKind.SHED:
                gateway.draining = False
                if order.rate_per_s > 0:
                    self._moving = self._start(self._shedding.shed(order.rate_per_s))
            case OrderKind.RESUME:
                gateway.draining = False

    def end(self) -> None:
        """Obey no more orders: the gateway ends, and drains by itself."""
        self._is_over = True
        self._stop()

    def _stop(self) -> None:
        """Ask no more viewers to move; those who were asked may still go."""
        if self._moving is not None:
            self._moving.cancel()
            self._moving = None


async def follow_orders(reader: TopicReader, orders: Orders, runtime: Runtime) -> None:
    """Read the pool's orders and obey them, for ever."""
    async for found in records(reader, topics.CONTROL, Order, runtime):
        for _, order in found:
            orders.obey(order)
