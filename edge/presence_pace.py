"""Which rooms' audiences are due for a report, when, and whether with the list of users. Pure.

Owns the pace. A room is reported at once when it gets its first viewer here, at most every
`MIN_INTERVAL_S` after that, and at least every `PRESENCE_INTERVAL_S` with the list of its users, so
that a new owner knows all rooms soon. `edge.presence_report` calls it. A check costs what is due,
not what is here.
"""

import heapq
import math
from collections.abc import Iterable
from itertools import islice
from typing import Final, NamedTuple

from edge.room import Audience
from liveroom.records.control import PRESENCE_INTERVAL_S

MIN_INTERVAL_S: Final = 1.5
AGAIN_AT_ONCE: Final = 400  # rooms that one check lists again: 20,000 take 2.5 s
CHANGED_AT_ONCE: Final = 1000  # 2 ms
_TICKS_PER_S: Final = 64  # a power of two: whole times stay whole
_GOLDEN: Final = 0.618034  # its multiples fill a range evenly, however many there are


class _Report(NamedTuple):
    """The last report of a room: when it went, when the next list is due, and what it said.

    `audience` is None where the owner may not have it.
    """

    at_s: float
    list_due_s: float
    audience: Audience | None


class Pace:
    """The last report of each room, and the rooms that wait for the next one."""

    def __init__(self) -> None:
        self._reported: dict[str, _Report] = {}
        self._waiting: dict[str, None] = {}
        self._again: dict[str, None] = {}
        self._repeats = 0
        self._tick_of: dict[str, int] = {}
        self._slots: dict[int, dict[str, None]] = {}
        self._ticks: list[int] = []

    def changed(self, rooms: Iterable[str]) -> None:
        """Note that the audiences of these rooms changed.

        Takes in `CHANGED_AT_ONCE` of them that it does not know yet; the caller passes the others
        again.
        """
        for room in list(islice((room for room in rooms if room not in self._waiting), CHANGED_AT_ONCE)):
            self._waiting[room] = None
            last = self._reported.get(room)
            self._schedule(room, last.at_s + MIN_INTERVAL_S if last is not None else 0.0)

    def due(self, now_s: float) -> list[str]:
        """Return the rooms that are due: those that changed, and those without a list for long.

        Each is returned once; the caller asks `wants` for it, at once or later.
        """
        for room in list(islice(self._again, AGAIN_AT_ONCE)):
            del self._again[room]
            if room in self._reported:
                self.failed(room, now_s)
        found: list[str] = []
        while self._ticks and self._ticks[0] <= now_s * _TICKS_PER_S:
            found += self._slots.pop(heapq.heappop(self._ticks))
        for room in found:
            del self._tick_of[room]
        return found

    def wants(self, room: str, audience: Audience, now_s: float, *, has_changes: bool) -> bool:
        """Return whether this audience needs a report; the room waits no longer.

        `has_changes`: a user came or left since the last report.
        """
        self._waiting.pop(room, None)
        last = self._reported.get(room)
        if last is None:
            self._unschedule(room)
            return audience.connections > 0
        self._schedule(room, last.list_due_s)
        return has_changes or last.audience != audience or now_s >= last.list_due_s

    def needs_list(self, room: str, now_s: float) -> bool:
        """Return whether the next report of a room must list its users.

        It must each `PRESENCE_INTERVAL_S`, and where the owner may not have the report before.
        """
        last = self._reported.get(room)
        return last is None or last.audience is None or now_s >= last.list_due_s or room in self._again

    def reported(self, room: str, audience: Audience, now_s: float, *, is_list: bool) -> None:
        """Note that a report is sent. If it may not arrive, `failed` takes this back.

        Lists that had to be repeated fall due again at different times, so that those of many rooms
        do not come together for ever.
        """
        self._waiting.pop(room, None)
        if not audience.connections:
            self._reported.pop(room, None)
            self._unschedule(room)
            return
        last = self._reported.get(room)
        list_due_s = now_s + PRESENCE_INTERVAL_S if is_list or last is None else last.list_due_s
        if is_list and last is not None and last.audience is None:
            self._repeats += 1
            list_due_s -= self._repeats * _GOLDEN % 1 * PRESENCE_INTERVAL_S / 2
        self._reported[room] = _Report(now_s, list_due_s, audience)
        if is_list:
            self._again.pop(room, None)
        self._schedule(room, list_due_s)

    def failed(self, room: str, now_s: float) -> None:
        """Note that nobody knows whether a report arrived: the room stays due, and needs a list."""
        last = self._reported.get(room)
        at_s = last.at_s if last is not None else now_s - MIN_INTERVAL_S
        self._reported[room] = _Report(at_s, now_s + PRESENCE_INTERVAL_S, None)
        self._waiting[room] = None
        self._schedule(room, at_s + MIN_INTERVAL_S)

    def list_again(self) -> None:
        """Make all rooms due with their lists, one after the other: their owners may have dropped
        them.
        """
        self._again = dict.fromkeys(self._reported)

    def _schedule(self, room: str, due_s: float) -> None:
        """Make a room due at `due_s`, and at no other time."""
        self._unschedule(room)
        tick = self._tick_of[room] = math.ceil(due_s * _TICKS_PER_S)
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = {}
            heapq.heappush(self._ticks, tick)
        slot[room] = None

    def _unschedule(self, room: str) -> None:
        tick = self._tick_of.pop(room, None)
        if tick is not None:
            del self._slots[tick][room]
