"""Moderation rules that are over, or have an end, and when their records leave the topic. Pure.

The topic `moderation` is compacted, so the last record of a mute that has ended would stay in it
for ever, and every service would read it at every start. A record without a value, a withdrawal,
lets Kafka delete it.

Theory of operation. Kafka has no compare-and-set, so a withdrawal may land just behind a record
that sets the same rule again, and would delete that one too. Three things together prevent it:

1. A withdrawal waits `WITHDRAW_MS` after the end of a rule, and after this ingress first read it.
   By then no earlier write of the rule is under way, and no request can refer to it by its id.
2. Nobody obeys a withdrawal of a rule that holds (`Rules.withdraw`): the rule stays in force at
   every ingress and gateway that runs.
3. Every ingress that reads such a withdrawal writes the rule again, after a while and unless a
   later record of the key has come. Kafka compacts a segment only once it is full or old, and an
   ingress that starts in between reads both records and does the same.

Such a repeat may land just behind a record that lifts the rule, in turn. So it names the offset of
the record that it repeats: nobody obeys a repeat behind a later record (`Rules.apply`), and every
ingress that reads one writes again what holds, as after a withdrawal.

A key whose newest record this version cannot read or apply is left alone: the rule may hold for a
later version, which withdraws it by itself.

The pace of withdrawals grows with the number of rules that are over, so that they leave the topic
faster than commands can make them. Beyond half of `MAX_ENDED` the oldest do not wait any more.
"""

import heapq
from typing import Final

from liveroom.moderation import ended_at, key_of
from liveroom.records.control import Moderation

WITHDRAW_MS: Final = 900_000  # above the 10 minutes for which a request is known by its id
SPREAD_MS: Final = 600_000
REPEAT_MS: Final = 2_000
AGAIN_MS: Final = 60_000
MAX_ENDED: Final = 100_000
LEAST_PER_CHECK: Final = 20
MOST_PER_CHECK: Final = 500
DRAIN_CHECKS: Final = 60


class EndedRules:
    """The rules whose records must be withdrawn, or written again, by when. Times are Unix ms."""

    def __init__(self, most: int = MAX_ENDED) -> None:
        self._most = most
        self._due: dict[bytes, int] = {}
        self._order: list[tuple[int, bytes]] = []
        self._lost: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._due)

    def note(self, rule: Moderation, now_ms: int, spread_ms: int) -> None:
        """Note the newest record of a rule."""
        key, end_ms = key_of(rule), ended_at(rule)
        self._lost.pop(key, None)
        if end_ms is None:
            self._due.pop(key, None)
        else:
            self._put(key, max(end_ms, now_ms) + WITHDRAW_MS + spread_ms)

    def withdrawn(self, key: bytes) -> None:
        """Note that the records of a rule that is over were withdrawn."""
        self._due.pop(key, None)

    def lost(self, key: bytes, now_ms: int, spread_ms: int) -> None:
        """Note that the topic's last record of a key is not what holds."""
        if len(self._lost) < self._most:
            self._lost[key] = now_ms + REPEAT_MS + spread_ms * REPEAT_MS // SPREAD_MS

    def unreadable(self, key: bytes) -> None:
        """Note that the newest record of a rule cannot be read: a later version wrote it, and it
        may hold.
        """
        self._due.pop(key, None)
        self._lost.pop(key, None)

    def due(self, now_ms: int) -> list[bytes]:
        """Return the keys to withdraw now: in a second as many as keep their number bounded.

        The caller calls `failed` for one that it could not withdraw.
        """
        pace = min(MOST_PER_CHECK, max(LEAST_PER_CHECK, len(self._due) // DRAIN_CHECKS))
        found: list[bytes] = []
        while self._order and len(found) < pace:
            is_full = len(self._due) - len(found) > self._most // 2
            if self._order[0][0] > now_ms + (WITHDRAW_MS if is_full else 0):  # never before the end of a rule
                break
            at_ms, key = heapq.heappop(self._order)
            if self._due.get(key) == at_ms:
                found.append(key)
        return found

    def failed(self, key: bytes, now_ms: int) -> None:
        """Note that a withdrawal was not written: it is due again later."""
        if key in self._due:
            self._put(key, now_ms + AGAIN_MS)

    def to_repeat(self, now_ms: int) -> list[bytes]:
        """Return the keys of which what holds must be written now, at most `MOST_PER_CHECK`.

        They stay until their records have been read.
        """
        found = [key for key, at_ms in self._lost.items() if at_ms <= now_ms][:MOST_PER_CHECK]
        for key in found:
            self._lost[key] = now_ms + AGAIN_MS
        return found

    def _put(self, key: bytes, at_ms: int) -> None:
        if key not in self._due and len(self._due) >= self._most:
            return
        self._due[key] = at_ms
        heapq.heappush(self._order, (at_ms, key))
        if len(self._order) > 2 * self._most:
            self._order = [(due_ms, each) for each, due_ms in self._due.items()]
            heapq.heapify(self._order)
