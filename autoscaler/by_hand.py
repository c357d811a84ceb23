"""What operators order by hand: a pause, a least number of gateways for a while, drains. Pure.

Owns which of that is in force. All of it comes from the log, so it binds whoever leads next. Called
by `autoscaler.pool`, which carries it out, and by `autoscaler.app`, which shows it.
"""

from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from liveroom.records.control import FLOOR, Order, OrderKind

POOL: Final = "*"  # addresses orders to the pool itself; no gateway can have this id
MAX_ASKED: Final = 1000


class Floor(NamedTuple):
    """How many gateways there are at least until `until_ms`, and the operator who wants that."""

    least: int
    until_ms: int
    by: str


class ByHand:
    """The orders of operators. `paused_by`: the operator who paused the pool, empty: nobody."""

    def __init__(self) -> None:
        self.paused_by = ""
        self._floor: Floor | None = None
        self._drains: dict[str, Order] = {}

    def apply(self, order: Order) -> None:
        """Apply an order of the log; the pool's own orders to gateways are ignored."""
        if order.gateway == POOL:
            self.paused_by = order.reason if order.kind is OrderKind.PAUSE else ""
        elif order.gateway == FLOOR:
            floor = Floor(order.least, order.until_ms, order.by)
            self._floor = self.joined(floor, order.at_ms) if order.least else None
        elif order.by and order.kind is OrderKind.DRAIN:
            self._drains.pop(order.gateway, None)
            self._drains[order.gateway] = order
            if len(self._drains) > MAX_ASKED:
                del self._drains[next(iter(self._drains))]

    def floor(self, now_ms: int) -> Floor | None:
        """Return the least number of gateways that is in force; `now_ms`: Unix milliseconds."""
        return self._floor if self._floor is not None and now_ms < self._floor.until_ms else None

    def joined(self, floor: Floor, now_ms: int) -> Floor:
        """Return `floor` and what is in force in one: the greater number, and the later end.

        So an order that comes twice, or beside another one, adds nothing and takes nothing away.
        """
        before = self.floor(now_ms)
        if before is None:
            return floor
        return floor._replace(least=max(before.least, floor.least), until_ms=max(before.until_ms, floor.until_ms))

    def is_drained(self, name: str, generation: int) -> bool:
        """Return whether an operator has ordered this start of a gateway to drain."""
        order = self._drains.get(name)
        return order is not None and order.generation == generation

    def drains(self, running: Collection[str], generation_of: Callable[[str], int | None]) -> tuple[str, ...]:
        """Return which of the gateways that run are to be drained, and forget what is over.

        That is a drain of a gateway that does not run, or that has started again since. A gateway
        whose generation is not known yet is left alone, and so is its order.
        """
        found = []
        for name, order in list(self._drains.items()):
            generation = generation_of(name)
            if name not in running or (generation is not None and generation > order.generation):
                del self._drains[name]
            elif generation == order.generation:
                found.append(name)
        return tuple(found)

    def why(self, name: str) -> str:
        """Return why a gateway is drained by hand, and by whom; empty where it is not."""
        order = self._drains.get(name)
        return f"drained by {order.by}: {order.reason}" if order is not None else ""
