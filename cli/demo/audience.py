"""The viewers of the demo, and what they see.

Owns the crowd and how it is checked: of a large crowd some 200 viewers run the whole session and
feed the ledger, the others count.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from cli.watch import line_of
from liveroom import clock
from liveroom.kinds import Kind
from viewer.delays import delay_ms
from viewer.effects import Delivered, Effect
from viewer.ledger import Ledger
from viewer.load import Crowd
from viewer.tally import Figures

CHECKED_VIEWERS: Final = 200
JOINS_PER_S: Final = 500.0
_NOTICED: Final = 6
_MAX_SAMPLES: Final = 20_000
_LOOK_S: Final = 0.05


class Observations:
    """What the checked viewers saw. It also keeps the last lines that the first viewer got."""

    def __init__(self, ledger: Ledger) -> None:
        self.seen: Counter[str] = Counter()
        self.last: deque[str] = deque(maxlen=_NOTICED)
        self.first_danmaku = asyncio.Event()
        self._ledger = ledger
        self._delays_ms: list[float] = []

    def on_effect(self, viewer: str, effect: Effect) -> None:
        """Take an effect of a viewer's session."""
        self._ledger.observe(viewer, effect)
        if isinstance(effect, Delivered):
            message = effect.message
            self.seen[message.kind] += 1
            if len(self._delays_ms) < _MAX_SAMPLES and (delay := delay_ms(message.at)) is not None:
                self._delays_ms.append(delay)
            if viewer == "crowd-0":
                self.last.append(f"{effect.room} {line_of(message)}")
            if message.kind == Kind.DANMAKU:
                self.first_danmaku.set()

    def take_delays_ms(self) -> list[float]:
        """Return the delays since the last call, from acceptance to receipt."""
        taken, self._delays_ms = self._delays_ms, []
        return taken


class DemoAudience:
    """The crowd in its rooms.

    `scheduler_url` is where viewers ask for a gateway; `viewers` are there from the start.
    """

    def __init__(self, scheduler_url: str, rooms: Sequence[str], viewers: int, most: int, ledger: Ledger) -> None:
        sample = sample_of(most, len(rooms))
        self.observations = Observations(ledger)
        self.checked = {rooms[viewer % len(rooms)] for viewer in range(0, most, sample)}
        self.most_joined = 0
        self._ledger = ledger
        self._crowd = Crowd(
            scheduler_url,
            rooms,
            viewers,
            joins_per_s=JOINS_PER_S,
            sample=sample,
            on_effect=self.observations.on_effect,
        )

    @asynccontextmanager
    async def present(self) -> AsyncIterator[None]:
        """Keep the viewers in their rooms while the block runs."""
        coming = asyncio.create_task(self._crowd.start())
        try:
            yield
        finally:
            coming.cancel()
            with suppress(asyncio.CancelledError):
                await coming
            await self._crowd.stop()

    async def grow(self, viewers: int, joins_per_s: float) -> None:
        """Let more viewers join until there are `viewers`."""
        await self._crowd.grow(viewers, joins_per_s)

    def shrink(self, viewers: int) -> None:
        """Let viewers leave until there are `viewers`."""
        for name in self._crowd.shrink(viewers):
            self._ledger.left(name)

    async def all_joined(self, timeout_s: float) -> bool:
        """Wait until all viewers are in their rooms at once; return False after `timeout_s`."""
        deadline = clock.monotonic_s() + timeout_s
        while (figures := self.figures()).joined < figures.wanted:
            if clock.monotonic_s() > deadline:
                return False
            await clock.sleep(_LOOK_S)
        return True

    def figures(self) -> Figures:
        """Return the crowd's counters."""
        figures = self._crowd.figures()
        self.most_joined = max(self.most_joined, figures.joined)
        return figures


def sample_of(viewers: int, rooms: int) -> int:
    """Return n, where every n-th viewer checks everything.

    It makes some 200 of them, in every room, since n and `rooms` share no factor.
    """
    sample = -(-viewers // CHECKED_VIEWERS)
    while math.gcd(sample, rooms) != 1:
        sample += 1
    return sample
