"""Which rooms' audiences are due for a report, when, and whether with the list of users. Pure.

Owns the pace. A room is reported at once when it gets its first viewer here, at most every
`MIN_INTERVAL_S` after that, and at least every `PRESENCE_INTERVAL_S` with the list of its users, so
that a new owner knows all rooms soon. `edge.presence_report` calls it.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from edge.room import Audience
from liveroom.records.control import PRESENCE_INTERVAL_S

MIN_INTERVAL_S: Final = 1.5


class _Report(NamedTuple):
    """The last report of a room: when it went, when the last list went, and what it said.

    `audience` is None where the owner may not have it.
    """

    at_s: float
    listed_s: float
    audience: Audience | None


class Pace:
    """The last report of each room, and the rooms that wait for the next one."""

    def __init__(self) -> None:
        self._reported: dict[str, _Report] = {}
        self._waiting: dict[str, None] = {}

    def changed(self, rooms: Iterable[str]) -> None:
        """Note that the audiences of these rooms changed."""
        self._waiting.update(dict.fromkeys(rooms))

    def due(self, now_s: float) -> Iterator[str]:
        """Yield the rooms that are due: those that changed, and those without a list for long."""
        for room in list(self._waiting):
            last = self._reported.get(room)
            if last is None or now_s - last.at_s >= MIN_INTERVAL_S:
                yield room
        for room, last in list(self._reported.items()):
            if now_s - last.listed_s >= PRESENCE_INTERVAL_S and room not in self._waiting:
                yield room

    def wants(self, room: str, audience: Audience, now_s: float, *, has_changes: bool) -> bool:
        """Return whether this audience needs a report; the room waits no longer.

        `has_changes`: a user came or left since the last report.
        """
        self._waiting.pop(room, None)
        last = self._reported.get(room)
        if last is None:
            return audience.connections > 0
        return has_changes or last.audience != audience or now_s - last.listed_s >= PRESENCE_INTERVAL_S

    def needs_list(self, room: str, now_s: float) -> bool:
        """Return whether the next report of a room must list its users.

        It must each `PRESENCE_INTERVAL_S`, and where the owner may not have the report before.
        """
        last = self._reported.get(room)
        return last is None or last.audience is None or now_s - last.listed_s >= PRESENCE_INTERVAL_S

    def reported(self, room: str, audience: Audience, now_s: float, *, is_list: bool) -> None:
        """Note that a report was sent."""
        if audience.connections:
            last = self._reported.get(room)
            self._reported[room] = _Report(now_s, now_s if is_list or last is None else last.listed_s, audience)
        else:
            self._reported.pop(room, None)

    def failed(self, room: str, now_s: float) -> None:
        """Note that nobody knows whether a report arrived: the room stays due, and needs a list."""
        last = self._reported.get(room)
        self._reported[room] = _Report(last.at_s if last is not None else now_s - MIN_INTERVAL_S, now_s, None)
        self._waiting[room] = None

    def list_again(self, now_s: float) -> None:
        """Make all rooms due with their lists: their owners may have dropped them."""
        for room in list(self._reported):
            self.failed(room, now_s)
