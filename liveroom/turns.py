"""Long work in short steps: other tasks run where the steps of a turn have cost enough.

Such work is a generator that yields after each step what it cost, in entries of lists that it went
through. Owns the cost of a turn. `edge.presence_report` and `broadcaster.audience_reader` call it
for lists of users.
"""

from collections.abc import Generator
from typing import Final, TypeVar

from liveroom import clock

TURN_COST: Final = 5_000  # 1 to 2 ms
T = TypeVar("T")


class TurnBudget:
    """What the tasks of one owner may do in one turn of the event loop, all together."""

    def __init__(self) -> None:
        self._cost = 0

    async def spend(self, cost: int) -> None:
        """Take note of work; return in a later turn where this one has done enough."""
        self._cost += cost
        if self._cost >= TURN_COST:
            self._cost = 0
            await clock.sleep(0)

    async def run(self, steps: Generator[int, None, T]) -> T:
        """Run a generator to its end and return its result."""
        while True:
            try:
                cost = next(steps)
            except StopIteration as done:
                result: T = done.value
                return result
            await self.spend(cost)


def run_at_once(steps: Generator[object, None, T]) -> T:
    """Run a generator to its end within this turn and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
