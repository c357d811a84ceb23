"""Counts the recent offences of users and rooms. Pure. Called by `auto_moderation`."""

from collections import deque

from liveroom.limits import MAX_NAMES, drop_oldest


class Offences:
    """Counts offences by key, and reports when one key has `limit` of them within `window_s`.

    `limit` 0: never. At most `most` keys are kept; beyond that the oldest ones start from 0.
    """

    def __init__(self, limit: int, window_s: float, most: int = MAX_NAMES) -> None:
        self._most = most
        self._limit = limit
        self._window_s = window_s
        self._at: dict[tuple[str, ...], deque[float]] = {}
        self._swept_s = 0.0

    def __len__(self) -> int:
        return len(self._at)

    def add(self, key: tuple[str, ...], now_s: float) -> bool:
        """Count one offence; return whether it reaches the limit. The count then starts from 0."""
        if not self._limit:
            return False
        if now_s - self._swept_s > self._window_s:
            self._swept_s = now_s
            self._at = {known: at for known, at in self._at.items() if at[-1] > now_s - self._window_s}
        drop_oldest(self._at, self._most - 1)
        at = self._at.setdefault(key, deque())
        while at and at[0] <= now_s - self._window_s:
            at.popleft()
        at.append(now_s)
        if len(at) < self._limit:
            return False
        del self._at[key]
        return True
