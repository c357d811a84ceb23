"""A clock that stands until a test advances it: `with clock.running_on(ManualClock()) as ...`."""

import asyncio
import heapq
import itertools

SETTLE_TURNS = 20  # of the loop, in which what a sleeper does comes to rest


class ManualClock:
    """Time is what the test makes it; sleepers wake in the order in which they are due."""

    def __init__(self, now_s: float = 1_000_000.0) -> None:
        self.now_s = now_s
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def monotonic_s(self) -> float:
        """Return the time in seconds."""
        return self.now_s

    def unix_ns(self) -> int:
        """Return the time in nanoseconds."""
        return int(self.now_s * 1e9)

    async def sleep(self, delay_s: float) -> None:
        """Wait until the test has advanced the time by `delay_s`."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        due: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_s + delay_s, next(self._numbers), due))
        await due

    async def advance(self, delay_s: float) -> None:
        """Let `delay_s` pass: each sleeper wakes at its time, and acts before the next one."""
        end_s = self.now_s + delay_s
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= end_s:
            self.now_s, _, due = heapq.heappop(self._sleepers)
            if not due.done():  # a cancelled task has left it
                due.set_result(None)
                await self._settle()
        self.now_s = end_s

    async def _settle(self) -> None:
        for _ in range(SETTLE_TURNS):
            await asyncio.sleep(0)
