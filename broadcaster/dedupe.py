"""Which interactions came before, so that a repeated gift counts once. Pure.

A record whose user and id were met within the window is a duplicate: `broadcaster.rooms` counts it
and drops it whole. Ids of reliable records and of sanctions are remembered for each room, for
`DEDUPE_MS` and across owners (`SeenIds`), with a digest of the content: so a second interaction
under an old id is told from a repetition. Other ids are remembered briefly and only here, which is
enough for a sender that tries again after a 503 (`RecentIds`). Time is Kafka's, never the wall
clock. Called by `broadcaster.rooms` and `broadcaster.room`.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

DEDUPE_MS: Final = 600_000
MAX_SEEN: Final = 600_000  # of one room: 1,000 reliable interactions a second
MAX_RECENT: Final = 1_000_000  # of one partition: 100,000 interactions a second
BEST_EFFORT_DEDUPE_MS: Final = 10_000


MetId = tuple[int, int]  # when it was first met, in Unix ms, and the digest of what it named; a plain tuple is made quickest


class SeenIds:
    """The ids of the last `window_ms` milliseconds, as keys that can be listed for a snapshot."""

    __slots__ = ("_met", "_order", "_window_ms")

    def __init__(self, window_ms: int, seen: dict[str, MetId]) -> None:
        self._window_ms = window_ms
        self._met = seen
        self._order: deque[str] | None = None  # made when needed: most rooms see no gift

    def __len__(self) -> int:
        return len(self._met)

    def meet(self, key: str, now_ms: int, digest: int) -> int | None:
        """Remember `key` with the digest of its content.

        Return the digest with which it was met within the window before; None: it was not.
        """
        met, order, since = self._met, self._order, now_ms - self._window_ms
        if order is None:
            order = self._order = deque(met)
        while order and (met[order[0]][0] <= since or len(order) >= MAX_SEEN):
            del met[order.popleft()]
        if (before := met.get(key)) is not None:
            return before[1]
        met[key] = now_ms, digest
        order.append(key)
        return None

    def forget(self, key: str) -> None:
        """Forget an id: what it named was not delivered, and may come again."""
        self._met.pop(key, None)
        self._order = None  # it is made again from what is left, which has the same order

    def since(self, at_ms: int) -> list[tuple[str, MetId]]:
        """Return all ids met after `at_ms`, oldest first."""
        return [(key, met) for key, met in self._met.items() if met[0] > at_ms]


class RecentIds:
    """The ids of the last `window_ms` milliseconds, of all rooms of a partition and of many a
    second.

    An id is kept as its 64-bit hash under this process's own secret: that takes a third less memory
    and half the time of a string. With a million ids in the window one new id in 10**13 is mistaken
    for another, and a best-effort message is then lost.
    """

    __slots__ = ("_at", "_oldest_ms", "_order", "_window_ms")

    def __len__(self) -> int:
        return len(self._at)

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._at: dict[int, int] = {}
        self._order: deque[int] = deque()
        self._oldest_ms = 0

    def meet(self, room: str, user: str, id_: str, now_ms: int) -> bool:
        """Remember an id; return whether it was met within the window before."""
        key, order = hash((room, user, id_)), self._order
        if order:
            if self._oldest_ms <= now_ms - self._window_ms:
                self._forget(now_ms)
            elif len(order) >= MAX_RECENT:
                del self._at[order.popleft()]
            if key in self._at:
                return True
        if not order:
            self._oldest_ms = now_ms
        self._at[key] = now_ms
        order.append(key)
        return False

    def forget(self, ids: Iterable[tuple[str, str, str]]) -> None:
        """Forget ids (room, user and id of each): what they named may come again."""
        for each in ids:
            self._at.pop(hash(each), None)
        self._order = deque(self._at)  # the same order, without them

    def _forget(self, now_ms: int) -> None:
        at, order, since = self._at, self._order, now_ms - self._window_ms
        while order:
            self._oldest_ms = at[order[0]]
            if self._oldest_ms > since:
                return
            del at[order.popleft()]
