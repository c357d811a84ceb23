"""Token buckets, a single one and many by key. Pure.

Called by `ingress.rate_limits`, `liveroom.budgets`, the scheduler (addresses), the gateway (joins),
and for a room's limit in the broadcaster.
"""

from itertools import islice
from typing import Any, Final

_FEW: Final = 1024
MAX_NAMES: Final = 100_000  # of callers that one table keeps
_ROUNDING_S: Final = 1e-9


class Bucket:
    """Lets `rate` a second pass on average, and at most `burst` at once. Starts full.

    Its times (`now`) have `ticks_per_s` units a second: 1 for seconds, 1000 for milliseconds. A
    clock that went back adds nothing.
    """

    __slots__ = ("_at", "_burst", "_left", "_rate", "_ticks_per_s")

    def __init__(self, rate: float, burst: float, now: float, ticks_per_s: int = 1) -> None:
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._at = now
        self._ticks_per_s = ticks_per_s

    def change(self, rate: float, burst: float) -> None:
        """Use another rate and burst from the last call of `left` or `take` on."""
        self._rate = rate
        self._burst = burst

    def lower(self, left: float) -> None:
        """Let at most `left` pass at the time of the last call."""
        self._left = min(self._left, left)

    def left(self, now: float) -> float:
        """Return how much may pass at once now."""
        passed = now - self._at
        if passed > 0:
            self._left += passed * self._rate / self._ticks_per_s
        if self._left > self._burst:
            self._left = float(self._burst)
        self._at = now
        return self._left

    def spend(self, cost: float) -> None:
        """Take out `cost`, which the caller saw in `left`."""
        self._left -= cost

    def take(self, now: float) -> float:
        """Take one; return 0, or in how many seconds there is one again."""
        left = self.left(now)
        if left >= 1:
            self._left = left - 1
            return 0.0
        return (1 - left) / self._rate


def drop_oldest(kept: dict[Any, Any], most: int) -> None:
    """Drop the quarter of `kept` that was put in first, where it holds more than `most`.

    Whoever is dropped counts as new: too many names make a limit milder for some, and never refuse
    anybody.
    """
    if len(kept) > most:
        for key in list(islice(kept, len(kept) // 4 + 1)):
            del kept[key]


class Buckets:
    """A bucket for every key, each kept as one number: when it will be full again (GCRA).

    Full buckets are forgotten, and the oldest of more than `most`. Times are seconds of any clock.
    """

    __slots__ = ("_full_s", "_interval_s", "_most", "_sweep_at", "_tolerance_s")

    def __init__(self, rate: float, burst: float, most: int = MAX_NAMES) -> None:
        self._most = most
        self._interval_s = 1 / rate
        self._tolerance_s = (burst - 1) / rate
        self._full_s: dict[str, float] = {}
        self._sweep_at = min(most, _FEW)

    def __len__(self) -> int:
        return len(self._full_s)

    def take(self, key: str, now_s: float, cost: float = 1.0) -> float:
        """Take `cost`; return 0, or in how many seconds there is so much again.

        A cost above the burst waits for a full bucket.
        """
        if cost != 1.0:
            if wait_s := self.wait_s(key, now_s, cost):
                return wait_s
            self.charge(key, now_s, cost)
            return 0.0
        full_s = max(self._full_s.get(key, now_s), now_s)  # the usual cost, in half the time
        if (wait_s := full_s - now_s - self._tolerance_s) > _ROUNDING_S:
            return wait_s
        self._full_s[key] = full_s + self._interval_s
        if len(self._full_s) > self._sweep_at:
            self._sweep(now_s)
        return 0.0

    def wait_s(self, key: str, now_s: float, cost: float = 1.0) -> float:
        """Return 0 where `take` would take `cost`, or in how many seconds it would."""
        full_s = max(self._full_s.get(key, now_s), now_s)
        wait_s = full_s - now_s + min((cost - 1) * self._interval_s, self._tolerance_s) - self._tolerance_s
        return wait_s if wait_s > _ROUNDING_S else 0.0

    def charge(self, key: str, now_s: float, cost: float) -> None:
        """Take `cost`, also where there is less: then the bucket takes so much longer to fill."""
        self._full_s[key] = max(self._full_s.get(key, now_s), now_s) + cost * self._interval_s
        if len(self._full_s) > self._sweep_at:
            self._sweep(now_s)

    def _sweep(self, now_s: float) -> None:
        self._full_s = {key: at_s for key, at_s in self._full_s.items() if at_s > now_s}
        drop_oldest(self._full_s, self._most * 3 // 4)  # or soon every call would sweep
        self._sweep_at = min(self._most, max(_FEW, 2 * len(self._full_s)))
