"""Which rooms' audiences to report, and when. Pure.

Owns the pace: at once when a room gets its first viewer here (its snapshot is wanted) or loses its
last one, else at most every 2 s, and again every `PRESENCE_INTERVAL_S` so that a new owner knows
all rooms soon. Called by the edge's reporter.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from liveroom.records.control import PRESENCE_INTERVAL_S

MIN_INTERVAL_S: Final = 2.0


class _Told(NamedTuple):
    at_s: float
    users: int
    connections: int


class Pace:
    """What was told of each room, and what is to be told next."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}
        self._waiting: dict[str, None] = {}

    def changed(self, rooms: Iterable[str]) -> None:
        """Note that the audiences of these rooms changed."""
        self._waiting.update(dict.fromkeys(rooms))

    def due(self, now_s: float) -> Iterator[str]:
        """Give the rooms to look at now: those that changed and may be told, and those not told for
        long.
        """
        for room in list(self._waiting):
            told = self._told.get(room)
            if told is None or now_s - told.at_s >= MIN_INTERVAL_S:
                yield room
        for room, told in list(self._told.items()):
            if now_s - told.at_s >= PRESENCE_INTERVAL_S and room not in self._waiting:
                yield room

    def wants(self, room: str, users: int, connections: int, now_s: float) -> bool:
        """Say whether these numbers are to be told; takes the room off the list."""
        self._waiting.pop(room, None)
        told = self._told.get(room)
        if told is None:
            return connections > 0
        return (told.users, told.connections) != (users, connections) or now_s - told.at_s >= PRESENCE_INTERVAL_S

    def told(self, room: str, users: int, connections: int, now_s: float) -> None:
        """Note what was told."""
        if connections:
            self._told[room] = _Told(now_s, users, connections)
        else:
            self._told.pop(room, None)

    def failed(self, room: str) -> None:
        """Note that a report could not be sent: it stays due."""
        self._waiting[room] = None
