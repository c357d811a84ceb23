"""How many users watch each room of a partition, from the records of `presence`. Pure.

Owns the counts by gateway, and which rooms' sums must be published again. A user at several
gateways is one: gateways list their users (`liveroom.user_lists`). One of version 0.1 reports a
count alone, which is added, and so is that of a gateway whose list has not come.

Counts of a gateway that fell silent are left out, and come back as it reports again; those of one
that was restarted are dropped. Called by the partition's task and the reader of `presence`, which
pass the time in seconds of a monotonic clock.
"""

from collections import deque
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Final, NamedTuple

from liveroom.records.control import PRESENCE_INTERVAL_S, Presence
from liveroom.user_lists import MAX_GATEWAYS, UserLists, unpack

PUBLISH_INTERVAL_S: Final = 1.0
SILENCE_S: Final = 2.0  # with one report a second; what follows takes less than the rest of 3 s
STEP_S: Final = 1.0
AHEAD_S: Final = 0.7  # at most 1 s old reports and this are below SILENCE_S: where all are silent, nobody is
GATEWAY_SILENCE_S: Final = 10.0
UNREPORTED_S: Final = 2.5 * PRESENCE_INTERVAL_S
OLD_AT_ONCE: Final = 1000
AT_ONCE: Final = 10_000  # entries of lists that one call goes through: 1 to 2 ms


class Viewers(NamedTuple):
    """Users and connections: one user may watch on several devices."""

    users: int
    connections: int


NOBODY: Final = Viewers(0, 0)


class PoolClock:
    """The time by which a gateway is silent: Kafka's, of the newest report of any gateway.

    It stands still while all are silent: then Kafka, its reader or the whole pool stands still, and
    who watches is not known. After that, and after a jump of the brokers' clocks, it goes on from
    where it stood: between two reports it advances by at most `STEP_S`. Until the next report comes
    it follows the caller's clock, for at most `AHEAD_S`.
    """

    def __init__(self) -> None:
        self._at_ms: int | None = None
        self._read_s = 0.0
        self._s = 0.0

    @property
    def reported_s(self) -> float:
        """The time of the newest report in seconds."""
        return self._s

    def report(self, at_ms: int, now_s: float) -> None:
        """Note a report that Kafka took at `at_ms` and that was read at `now_s`."""
        if self._at_ms is not None:
            self._s += min(max(0.0, (at_ms - self._at_ms) / 1000), STEP_S)
        self._at_ms, self._read_s = at_ms, now_s

    def now(self, now_s: float) -> float:
        """Return the time in seconds."""
        return self._s if self._at_ms is None else self._s + min(max(0.0, now_s - self._read_s), AHEAD_S)


class _Count:
    """What one gateway reported of a room.

    `devices`: None where it does not say. `serial`: of its last record; None for version 0.1.
    `is_listed`: its list is whole. `next_part`: of the list that is coming; None where none is.
    `reported_s`: by the pool's clock.
    """

    __slots__ = ("devices", "gateway", "is_listed", "next_part", "reported_s", "room", "serial", "viewers")

    def __init__(self, room: str, gateway: "_Gateway") -> None:
        self.room = room
        self.gateway = gateway
        self.viewers = NOBODY
        self.devices: int | None = None
        self.serial: int | None = None
        self.is_listed = False
        self.next_part: int | None = None
        self.reported_s = 0.0

    def is_after(self, record: Presence) -> bool:
        """Whether this record is late: a later one has come."""
        return self.serial is not None and record.serial is not None and record.serial <= self.serial

    def follows(self, record: Presence) -> bool:
        """Whether no record of this gateway and room is missing before this one."""
        return self.serial is not None and record.serial == self.serial + 1


class _Gateway:
    """One gateway: its start generation, when it last reported, and the rooms it counts in.

    `number`: in the lists of users; None where all are taken.
    """

    __slots__ = ("generation", "is_silent", "name", "number", "reported_s", "rooms")

    def __init__(self, name: str, generation: int, number: int | None, reported_s: float) -> None:
        self.name = name
        self.generation = generation
        self.number = number
        self.reported_s = reported_s
        self.is_silent = False
        self.rooms: set[str] = set()


class Audience:
    """The viewers of rooms.

    `publishes`: whether the caller takes out what changed (`due`). Else no users are listed.
    """

    def __init__(self, *, publishes: bool = True) -> None:
        self._publishes = publishes
        self._clock = PoolClock()
        self._rooms: dict[str, dict[str, _Count]] = {}
        self._lists: dict[str, UserLists] = {}
        self._gateways: dict[str, _Gateway] = {}  # in the order of their last reports
        self._by_age: dict[_Count, None] = {}  # likewise
        self._numbers: list[int] = []  # that are free again
        self._next_number = 0
        self._sweeps: deque[Iterator[int]] = deque()
        self._unpublished: dict[str, None] = {}
        self._published: dict[str, tuple[float, Viewers]] = {}
        self._published_empty: dict[str, float] = {}
        self._is_behind = False
        self._is_counting = False
        self._doubtful: set[str] = set()

    def __len__(self) -> int:
        return len(self._rooms)

    def rooms(self) -> list[str]:
        """Return the rooms that somebody watches."""
        return list(self._rooms)

    # ---- a take-over
    def fall_behind(self) -> None:
        """Publish nothing for now: the caller reads what gateways reported in the past minute."""
        self._is_behind = True

    def catch_up(self) -> None:
        """Publish again: the caller has read it.

        Gateways that were met there are waited for until they report, or are silent.
        """
        self._is_behind = False

    @property
    def is_behind(self) -> bool:
        """Whether past reports are being read."""
        return self._is_behind

    # ---- in
    def update(self, record: Presence, now_s: float) -> bool:
        """Take a gateway's count of one room at once; see `taking`."""
        steps = self.taking(record, now_s)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return bool(done.value)

    def taking(self, record: Presence, now_s: float) -> Generator[int, None, bool]:
        """Take a gateway's count of one room; return whether the gateway needs a room snapshot.

        It needs one when the room became local there, and when it asks for one. Yields between the
        pieces of a list, so that a huge room does not block the loop. To keep the order, the caller
        drives one record to its end before the next one begins.
        """
        if record.gateway not in self._gateways and not record.connections:
            return record.card
        gateway = self._gateway_of(record.gateway, record.generation)
        if gateway is None:
            return False
        count = self._count_of(record, gateway)
        if count is None or count.is_after(record):
            return record.card
        before = count.viewers
        yield from self._take(count, record, now_s)
        if before != count.viewers or record.has_users:
            self._note(record.room)
        is_new = count.viewers.connections > 0 and not before.connections
        return record.card or (is_new and not self._is_behind)  # the owner before has answered those

    def _count_of(self, record: Presence, gateway: _Gateway) -> _Count | None:
        """Return a gateway's count of a room; None where there is none and nobody has come."""
        count = self._rooms.get(record.room, {}).get(record.gateway)
        if count is None and record.connections:
            count = self._rooms.setdefault(record.room, {})[record.gateway] = _Count(record.room, gateway)
            gateway.rooms.add(record.room)
        return count

    def _take(self, count: _Count, record: Presence, now_s: float) -> Iterator[int]:
        """Take a gateway's count of one room, and the users that it names."""
        self._by_age.pop(count, None)
        count.viewers, count.devices = Viewers(record.users, record.connections), record.devices
        count.reported_s = self._clock.now(now_s)
        if self._publishes:
            yield from self._list(count, record)
        if self._rooms.get(count.room, {}).get(count.gateway.name) is not count:
            return  # its gateway was forgotten meanwhile
        if record.connections:
            self._by_age[count] = None
        else:
            self._leave(count)

    def gateway_reported(self, name: str, generation: int, at_ms: int, now_s: float) -> None:
        """Note that a gateway is alive, by a report that Kafka took at `at_ms`.

        Counts of an earlier generation of it are dropped.
        """
        self._clock.report(at_ms, now_s)
        gateway = self._gateway_of(name, generation)
        if gateway is None:
            return
        del self._gateways[name]
        self._gateways[name] = gateway
        gateway.reported_s = self._clock.reported_s
        self._doubtful.discard(name)
        if gateway.is_silent:
            gateway.is_silent = False
            self._reckon_all(gateway)

    def expire(self, now_s: float) -> None:
        """Leave out silent gateways and drop their counts later; forget rooms that were published
        as empty.
        """
        pool_s = self._clock.now(now_s)
        for gateway in list(self._gateways.values()):
            silent_s = pool_s - gateway.reported_s
            if silent_s <= SILENCE_S:
                break
            if not gateway.is_silent:
                self._silence(gateway)
            if silent_s > GATEWAY_SILENCE_S:
                self._forget(gateway)
        for count in list(islice(self._by_age, OLD_AT_ONCE)):
            if pool_s - count.reported_s <= UNREPORTED_S:
                break
            self._leave(count)
            self._note(count.room)
        self._sweep()
        for room, at_s in list(self._published_empty.items()):
            if now_s - at_s < PUBLISH_INTERVAL_S:
                break
            del self._published_empty[room], self._published[room]

    def _silence(self, gateway: _Gateway) -> None:
        """Leave out a gateway. Too many are shown in its rooms: they may be published at once."""
        gateway.is_silent = True
        self._doubtful.discard(gateway.name)
        self._reckon_all(gateway)
        for room in gateway.rooms:
            if (published := self._published.get(room)) is not None:
                self._published[room] = float("-inf"), published[1]

    # ---- out
    def due(self, now_s: float) -> Iterator[tuple[str, Viewers]]:
        """Yield the rooms whose sums changed and may be published again.

        A sum counts as published once the caller has taken it. One call counts at most
        `AT_ONCE` entries of lists; where `is_counting`, the next one goes on.
        """
        self._is_counting = False
        if self._is_behind or self._doubtful:
            return
        left = AT_ONCE
        for room in list(self._unpublished):
            at_s, published = self._published.get(room, (float("-inf"), NOBODY))
            lists = self._lists.get(room)
            listed: int | None = 0
            if lists is not None:
                if now_s - at_s < PUBLISH_INTERVAL_S:
                    continue
                at_most, left = left, left - lists.uncounted
                listed = lists.count(at_most) if at_most > 0 else None
            if listed is None:
                self._is_counting = True
                break
            viewers = self._sum(room, listed)
            if viewers != published and now_s - at_s < PUBLISH_INTERVAL_S:
                continue
            del self._unpublished[room]
            if lists is not None and lists.uncounted:
                self._unpublished[room] = None  # behind the others
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

    @property
    def is_counting(self) -> bool:
        """Whether the last `due` left lists uncounted."""
        return self._is_counting

    def of(self, room: str) -> Viewers:
        """Return the sums over all gateways for a room."""
        lists = self._lists.get(room)
        return self._sum(room, (lists.count() or 0) if lists is not None else 0)

    def _sum(self, room: str, listed: int) -> Viewers:
        """Return the sums for a room of which lists have so many users."""
        counts = [count for count in self._rooms.get(room, {}).values() if not count.gateway.is_silent]
        unlisted = sum(count.viewers.users for count in counts if not count.is_listed)
        return Viewers(listed + unlisted, sum(count.viewers.connections for count in counts))

    def devices(self, room: str) -> int | None:
        """Return how many devices watch a room; None where a gateway of it does not say.

        A user who watches at two gateways on one device counts twice.
        """
        devices = 0
        for count in self._rooms.get(room, {}).values():
            if count.gateway.is_silent:
                continue
            if count.devices is None:
                return None
            devices += count.devices
        return devices

    # ---- the lists
    def _list(self, count: _Count, record: Presence) -> Iterator[int]:
        """Take the users that a record names.

        A list is whole once all its parts have come, one behind the other, and as long as no record
        is missing after it.
        """
        follows, was_listed = count.follows(record), count.is_listed
        count.serial = record.serial
        count.is_listed = was_listed and follows
        if was_listed and not follows:
            self._reckon(record.room)
        number = count.gateway.number
        if record.serial is None or number is None:
            return
        if record.parts:
            yield from self._list_part(count, record, number, follows=follows)
        else:
            count.next_part = None
            if count.is_listed and (lists := self._lists.get(record.room)) is not None:
                lists.change(unpack(record.came), unpack(record.left), number)

    def _list_part(self, count: _Count, record: Presence, number: int, *, follows: bool) -> Iterator[int]:
        """Take a part of a list."""
        lists = self._lists.get(record.room)
        if lists is None:
            lists = self._lists[record.room] = UserLists()
        is_next = record.part == 0 or (follows and record.part == count.next_part)
        count.next_part = record.part + 1 if is_next else None
        yield from lists.replace(unpack(record.came), number, record.part, record.parts)
        if count.next_part == record.parts:
            count.is_listed, count.next_part = True, None
            self._reckon(record.room)

    def _reckon(self, room: str) -> None:
        """Let a room's lists count the users of those gateways that report and have whole lists."""
        lists = self._lists.get(room)
        if lists is None:
            return
        counts = self._rooms.get(room, {}).values()
        if not counts:
            del self._lists[room]
            return
        counted = {count.gateway.number for count in counts if count.is_listed and not count.gateway.is_silent}
        lists.count_only(number for number in counted if number is not None)

    def _reckon_all(self, gateway: _Gateway) -> None:
        for room in gateway.rooms:
            self._reckon(room)
            self._note(room)

    def _sweep(self) -> None:
        """Go on taking entries of gateways that left out of lists."""
        left = AT_ONCE
        while self._sweeps and left > 0:
            cost = next(self._sweeps[0], None)
            if cost is None:
                self._sweeps.popleft()
            left -= cost or 1

    def _sweeping(self, room: str, lists: UserLists, number: int) -> Iterator[int]:
        """Take a gateway's entries out of a room's lists, unless it has come back."""
        for cost in lists.replace((), number):
            yield cost
            counts = self._rooms.get(room, {}).values()
            if self._lists.get(room) is not lists or any(count.gateway.number == number for count in counts):
                return

    def _freeing(self, number: int) -> Iterator[int]:
        """Give a gateway's number to another one, behind the sweeps of its rooms."""
        self._numbers.append(number)
        yield 1

    # ---- the gateways
    def _gateway_of(self, name: str, generation: int) -> _Gateway | None:
        """Return the gateway; None where `generation` is earlier than the one that is known."""
        gateway = self._gateways.get(name)
        if gateway is not None and generation < gateway.generation:
            return None
        if gateway is not None and generation > gateway.generation:
            self._forget(gateway)
            gateway = None
        if gateway is None:
            gateway = self._gateways[name] = _Gateway(name, generation, self._number(), self._clock.reported_s)
            if self._is_behind:
                self._doubtful.add(name)
        return gateway

    def _number(self) -> int | None:
        """Return a number for a new gateway."""
        if not self._publishes:
            return None
        if self._numbers:
            return self._numbers.pop()
        if self._next_number == MAX_GATEWAYS:
            return None
        self._next_number += 1
        return self._next_number - 1

    def _forget(self, gateway: _Gateway) -> None:
        del self._gateways[gateway.name]
        self._doubtful.discard(gateway.name)
        for room in list(gateway.rooms):
            self._leave(self._rooms[room][gateway.name])
            self._note(room)
        if gateway.number is not None:
            self._sweeps.append(self._freeing(gateway.number))

    def _note(self, room: str) -> None:
        """Note that a room's sums changed, unless it is empty and nobody heard of it."""
        if not self._publishes:
            return
        if room in self._rooms or room in self._published:
            self._unpublished[room] = None
        else:
            self._unpublished.pop(room, None)

    def _leave(self, count: _Count) -> None:
        """Forget a gateway's count of a room.

        Entries that are left do not count; they are swept, or its next list there replaces them.
        """
        self._by_age.pop(count, None)
        gateway, room = count.gateway, count.room
        gateway.rooms.discard(room)
        by_gateway = self._rooms.get(room, {})
        by_gateway.pop(gateway.name, None)
        if not by_gateway:
            self._rooms.pop(room, None)
        self._reckon(room)
        if (lists := self._lists.get(room)) is not None and gateway.number is not None:
            self._sweeps.append(self._sweeping(room, lists, gateway.number))
