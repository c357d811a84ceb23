"""Counts the recent offences of users and rooms. Pure. Called by `auto_moderation`."""

from collections import deque


class Offences:
    """Counts offences by key, and reports when one key has `limit` of them within `window_s`.

    `limit` 0: never.
    """

    def __init__(self, limit: int, window_s: float) -> None:
        self._limit = limit
        self._window_s = window_s
        self._at: dict[tuple[str, ...], deque[float]] = {}
        self._swept_s = 0.0

    def add(self, key: tuple[str, ...], now_s: float) -> bool:
        """Count one offence; return whether it reaches the limit. The count then starts from 0."""
        if not self._limit:
            return False
        if now_s - self._swept_s > self._window_s:
            self._swept_s = now_s
            self._at = {known: at for known, at in self._at.items() if at[-1] > now_s - self._window_s}
        at = self._at.setdefault(key, deque())
        while at and at[0] <= now_s - self._window_s:
            at.popleft()
        at.append(now_s)
        if len(at) < self._limit:
            return False
        del self._at[key]
        return True
