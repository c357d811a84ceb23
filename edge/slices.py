"""Slices of time: long work in the loop that pushes to viewers, without delaying the pushes.

Owns the order in which tasks share that loop: one slice of `SLICE_S` for all of them together, then
every other task that is ready. It bounds neither the amount of work nor the time of one step; each
step must be far shorter than `SLICE_S`. `edge.pulls` runs its work here.
"""

import asyncio
from collections.abc import Generator
from typing import Final, TypeVar

from liveroom import clock

SLICE_S: Final = 0.002

T = TypeVar("T")


class Slices:
    """The slices of one gateway's long work."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def wait_turn(self) -> None:
        """Return when it is this task's turn to do something short, such as to send an answer."""
        async with self._turn:
            await clock.sleep(0)

    async def run(self, steps: Generator[None, None, T]) -> T:
        """Run a generator to its end and return its result; it yields after each step.

        Those that run at the same time take turns.
        """
        while True:
            async with self._turn:
                try:
                    end_s = clock.monotonic_s() + SLICE_S
                    while clock.monotonic_s() < end_s:
                        next(steps)
                except StopIteration as done:
                    result: T = done.value
                    return result
                finally:
                    await clock.sleep(0)  # within the turn, or the next one would work in the same turn of the loop
