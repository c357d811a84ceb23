"""How fast something may go: a token bucket, and many of them by key.

Pure; times are seconds of any clock.
"""

from typing import Final

_FEW: Final = 1024
_ROUNDING_S: Final = 1e-9


class Bucket:
    """Lets `rate` a second through on average, and at most `burst` at once."""

    __slots__ = ("_at_s", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: float, now_s: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at_s = now_s

    def take(self, now_s: float) -> float:
        """Take one; return 0, or in how many seconds there is one again."""
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._rate


class Buckets:
    """A bucket for every key, each one number: when it will be full again (GCRA).

    Full ones are forgotten.
    """

    __slots__ = ("_full_s", "_interval_s", "_sweep_at", "_tolerance_s")

    def __init__(self, rate: float, burst: float) -> None:
        self._interval_s = 1 / rate
        self._tolerance_s = (burst - 1) / rate
        self._full_s: dict[str, float] = {}
        self._sweep_at = _FEW

    def __len__(self) -> int:
        return len(self._full_s)

    def take(self, key: str, now_s: float, cost: float = 1.0) -> float:
        """Take `cost`; return 0, or in how many seconds there is so much again.

        More than the burst waits for a full one.
        """
        full_s = max(self._full_s.get(key, now_s), now_s)
        wait_s = full_s - now_s + min((cost - 1) * self._interval_s, self._tolerance_s) - self._tolerance_s
        if wait_s > _ROUNDING_S:
            return wait_s
        self._full_s[key] = full_s + cost * self._interval_s
        if len(self._full_s) > self._sweep_at:
            self._full_s = {key: at_s for key, at_s in self._full_s.items() if at_s > now_s}
            self._sweep_at = max(_FEW, 2 * len(self._full_s))
        return 0.0
