"""Which rooms' audiences are due for a report, and when. Pure.

Owns the pace. A room is reported at once when it gets its first viewer here, at most every
`MIN_INTERVAL_S` after that, and at least every `PRESENCE_INTERVAL_S`, so that a new owner knows all
rooms soon. `edge.presence_report` calls it.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from edge.room import Audience
from liveroom.records.control import PRESENCE_INTERVAL_S

MIN_INTERVAL_S: Final = 2.0


class _Report(NamedTuple):
    at_s: float
    audience: Audience


class Pace:
    """The last report of each room, and the rooms that wait for the next one."""

    def __init__(self) -> None:
        self._reported: dict[str, _Report] = {}
        self._waiting: dict[str, None] = {}

    def changed(self, rooms: Iterable[str]) -> None:
        """Note that the audiences of these rooms changed."""
        self._waiting.update(dict.fromkeys(rooms))

    def due(self, now_s: float) -> Iterator[str]:
        """Yield the rooms that are due: those that changed, and those without a report for long."""
        for room in list(self._waiting):
            last = self._reported.get(room)
            if last is None or now_s - last.at_s >= MIN_INTERVAL_S:
                yield room
        for room, last in list(self._reported.items()):
            if now_s - last.at_s >= PRESENCE_INTERVAL_S and room not in self._waiting:
                yield room

    def wants(self, room: str, audience: Audience, now_s: float) -> bool:
        """Return whether this audience needs a report; the room waits no longer."""
        self._waiting.pop(room, None)
        last = self._reported.get(room)
        if last is None:
            return audience.connections > 0
        return last.audience != audience or now_s - last.at_s >= PRESENCE_INTERVAL_S

    def reported(self, room: str, audience: Audience, now_s: float) -> None:
        """Note that a report was sent."""
        if audience.connections:
            self._reported[room] = _Report(now_s, audience)
        else:
            self._reported.pop(room, None)

    def failed(self, room: str) -> None:
        """Note that a report was not sent: the room stays due."""
        self._waiting[room] = None
