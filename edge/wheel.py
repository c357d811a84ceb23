"""A timing wheel: one timer for the whole gateway instead of one for each viewer. Pure.

Owns when each entry is due. An entry is in one slot; when it is due, `turn` hands it out once, and
the caller puts it back for its next time. Entries are never removed: the caller recognises one that
is obsolete when it is handed out. Times are rounded up to whole ticks, so nothing is early, and
reach one round ahead at most.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Wheel(Generic[T]):
    """A round of `slots` ticks of `tick_s` seconds each. `now_s`: the current time."""

    def __init__(self, tick_s: float, slots: int, now_s: float) -> None:
        self.tick_s = tick_s
        self._slots: list[list[T]] = [[] for _ in range(slots)]
        self._tick = int(now_s / tick_s)

    def put(self, entry: T, due_s: float) -> None:
        """Make `entry` due at `due_s`: not before the next tick, and within one round."""
        ahead = -int(-due_s // self.tick_s) - self._tick
        at = self._tick + min(max(ahead, 1), len(self._slots) - 1)
        self._slots[at % len(self._slots)].append(entry)

    def turn(self, now_s: float) -> Iterator[T]:
        """Take out and yield all entries that are due by `now_s`."""
        until = int(now_s / self.tick_s)
        if until - self._tick >= len(self._slots):
            self._tick = until - len(self._slots)  # the loop hung: each slot once is enough
        while self._tick < until:
            self._tick += 1
            index = self._tick % len(self._slots)
            due, self._slots[index] = self._slots[index], []
            yield from due
