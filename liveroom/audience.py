"""How many users watch each room of a partition, from the records of `presence`. Pure.

Owns the counts by gateway, and which rooms' sums must be published again. Counts of a gateway that
fell silent, or that was restarted since, are dropped. Called by the partition's task, which passes
the time in seconds.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from liveroom.records.control import Presence

PUBLISH_INTERVAL_S: Final = 1.0
GATEWAY_SILENCE_S: Final = 10.0


class Viewers(NamedTuple):
    """Users and connections: one user may watch on several devices."""

    users: int
    connections: int


class _Count(NamedTuple):
    """What one gateway reported of a room; `devices` is None where it does not say."""

    viewers: Viewers
    devices: int | None


NOBODY: Final = Viewers(0, 0)


class _Gateway:
    """One gateway: its start generation, when it last reported, and the rooms it counts in."""

    __slots__ = ("generation", "reported_s", "rooms")

    def __init__(self, generation: int, reported_s: float) -> None:
        self.generation = generation
        self.reported_s = reported_s
        self.rooms: set[str] = set()


class Audience:
    """The viewers of rooms. `publishes`: whether the caller takes out what changed (`due`)."""

    def __init__(self, *, publishes: bool = True) -> None:
        self._publishes = publishes
        self._rooms: dict[str, dict[str, _Count]] = {}
        self._gateways: dict[str, _Gateway] = {}
        self._unpublished: dict[str, None] = {}
        self._published: dict[str, tuple[float, Viewers]] = {}
        self._published_empty: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._rooms)

    def rooms(self) -> list[str]:
        """Return the rooms that somebody watches."""
        return list(self._rooms)

    def update(self, record: Presence, now_s: float) -> bool:
        """Take a gateway's count of one room; return whether the gateway needs a room snapshot.

        It needs one when the room became local there, and when it asks for one.
        """
        gateway = self._gateway_of(record.gateway, record.generation, now_s)
        if gateway is None:
            return False
        by_gateway = self._rooms.setdefault(record.room, {})
        before = by_gateway.get(record.gateway)
        now = Viewers(record.users, record.connections)
        if now.connections:
            by_gateway[record.gateway] = _Count(now, record.devices)
            gateway.rooms.add(record.room)
        else:
            self._leave(record.room, record.gateway)
            gateway.rooms.discard(record.room)
        if before is None or before.viewers != now:
            self._note(record.room)
        return record.card or (now.connections > 0 and before is None)

    def gateway_reported(self, name: str, generation: int, now_s: float) -> None:
        """Note that a gateway is alive; counts of an earlier generation of it are dropped."""
        self._gateway_of(name, generation, now_s)

    def expire(self, now_s: float) -> None:
        """Drop the counts of silent gateways, and forget rooms that were published as empty."""
        for name in [name for name, gateway in self._gateways.items() if now_s - gateway.reported_s > GATEWAY_SILENCE_S]:
            self._forget(name)
        for room, at_s in list(self._published_empty.items()):
            if now_s - at_s < PUBLISH_INTERVAL_S:
                break
            del self._published_empty[room], self._published[room]

    def due(self, now_s: float) -> Iterator[tuple[str, Viewers]]:
        """Yield the rooms whose sums changed and may be published again.

        A sum counts as published once the caller has taken it.
        """
        for room in list(self._unpublished):
            viewers = self.of(room)
            at_s, published = self._published.get(room, (float("-inf"), NOBODY))
            if viewers != published and now_s - at_s < PUBLISH_INTERVAL_S:
                continue
            del self._unpublished[room]
            if viewers == published:
                continue
            self._published[room] = now_s, viewers
            if room in self._rooms:
                self._published_empty.pop(room, None)
            else:
                self._published_empty[room] = now_s
            yield room, viewers

    def publish_all_again(self) -> None:
        """Publish all sums again: after a take-over the rooms do not know them."""
        self._published.clear()
        self._published_empty.clear()
        self._unpublished.update(dict.fromkeys(self._rooms))

    @property
    def has_unpublished(self) -> bool:
        """Whether a sum changed that was not published."""
        return bool(self._unpublished)

    def of(self, room: str) -> Viewers:
        """Return the sums over all gateways for a room."""
        counts = [count.viewers for count in self._rooms.get(room, {}).values()]
        return Viewers(sum(count.users for count in counts), sum(count.connections for count in counts))

    def devices(self, room: str) -> int | None:
        """Return how many devices watch a room; None where a gateway of it does not say.

        A user who watches at two gateways on one device counts twice, as its `users` do.
        """
        devices = 0
        for count in self._rooms.get(room, {}).values():
            if count.devices is None:
                return None
            devices += count.devices
        return devices

    def _gateway_of(self, name: str, generation: int, now_s: float) -> _Gateway | None:
        """Return the gateway; None where `generation` is earlier than the one that is known."""
        gateway = self._gateways.get(name)
        if gateway is not None and generation < gateway.generation:
            return None
        if gateway is not None and generation > gateway.generation:
            self._forget(name)
            gateway = None
        if gateway is None:
            gateway = self._gateways[name] = _Gateway(generation, now_s)
        gateway.reported_s = now_s
        return gateway

    def _forget(self, name: str) -> None:
        for room in self._gateways.pop(name).rooms:
            self._leave(room, name)
            self._note(room)

    def _note(self, room: str) -> None:
        """Note that a room's sums changed, unless it is empty and nobody heard of it."""
        if not self._publishes:
            return
        if room in self._rooms or room in self._published:
            self._unpublished[room] = None
        else:
            self._unpublished.pop(room, None)

    def _leave(self, room: str, gateway: str) -> None:
        by_gateway = self._rooms.get(room, {})
        by_gateway.pop(gateway, None)
        if not by_gateway:
            self._rooms.pop(room, None)
