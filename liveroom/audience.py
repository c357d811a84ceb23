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
from liveroom.turns import run_at_once
from liveroom.user_lists import MAX_GATEWAYS, UserLists, unpack

PUBLISH_INTERVAL_S: Final = 1.0
SILENCE_S: Final = 2.0  # with one report a second; what follows takes less than the rest of 3 s
STEP_S: Final = 1.0
AHEAD_S: Final = 0.7  # at most 1 s old reports and this are below SILENCE_S: where all are silent, nobody is
GATEWAY_SILENCE_S: Final = 10.0
LONG_S: Final = GATEWAY_SILENCE_S / 2
UNREPORTED_S: Final = 2.5 * PRESENCE_INTERVAL_S
EMPTIED_S: Final = 10.0  # a report comes so late at most: twice the time that its gateway waits, and more
MAX_EMPTIED: Final = 10_000
OLD_AT_ONCE: Final = 500
AT_ONCE: Final = 10_000  # entries of lists that one call goes through: 1 to 2 ms
ROOM_COST: Final = 40  # entries that take as long as one room


class Viewers(NamedTuple):
    """Users and connections: one user may watch on several devices."""

    users: int
    connections: int


NOBODY: Final = Viewers(0, 0)


class PoolClock:
    """The time by which a gateway is silent: it advances as gateways report, and no faster.

    Each report advances it by what passed since the report before of the same gateway, by Kafka's
    time of both, but by at most `STEP_S`. So it is as slow as the pool where Kafka is slow, it does
    not depend on how the clocks of brokers or gateways differ, and it stands still while all are
    silent: then Kafka, its reader or the whole pool stands still, and who watches is not known.
    Until the next report comes it follows the caller's clock, for at most `AHEAD_S`.
    """

    def __init__(self) -> None:
        self._read_s: float | None = None
        self._s = 0.0
        self._now_s = 0.0

    @property
    def reported_s(self) -> float:
        """The time of the newest report in seconds."""
        return self._s

    def report(self, before_s: float, passed_s: float, now_s: float) -> None:
        """Note a report that was read at `now_s`.

        `before_s`: this clock's time of the report before of the same gateway. `passed_s`: what
        passed since that one; 0 for the first. More than `LONG_S` says nothing about the pool: the
        gateway was away, or a clock jumped.
        """
        if 0 < passed_s <= LONG_S:
            self._s = max(self._s, before_s + min(passed_s, STEP_S))
        self._read_s = now_s

    def now(self, now_s: float) -> float:
        """Return the time in seconds; it never goes back."""
        ahead_s = 0.0 if self._read_s is None else min(max(0.0, now_s - self._read_s), AHEAD_S)
        self._now_s = max(self._now_s, self._s + ahead_s)
        return self._now_s


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
    """One start of a gateway: its generation, when it last reported, and the rooms it counts in.

    `number`: in the lists of users; None where all are taken. `at_ms`: Kafka's time of its last
    report; None before the first. `is_current`: it is the start of this gateway that counts.
    `reported_s`: when it last reported, by the pool's clock; `newest_s`: what that showed then for
    the newest report.
    """

    __slots__ = ("at_ms", "generation", "is_current", "is_silent", "name", "newest_s", "number", "reported_s", "rooms")

    def __init__(self, name: str, generation: int, number: int | None, reported_s: float) -> None:
        self.name = name
        self.generation = generation
        self.number = number
        self.reported_s = reported_s
        self.newest_s = 0.0
        self.at_ms: int | None = None
        self.is_current = False
        self.is_silent = False
        self.rooms: set[str] = set()

    @property
    def is_counted(self) -> bool:
        """Whether its viewers count."""
        return self.is_current and not self.is_silent


class Audience:
    """The viewers of rooms.

    `publishes`: whether the caller takes out what changed (`due`). Else no users are listed.
    """

    def __init__(self, *, publishes: bool = True) -> None:
        self._publishes = publishes
        self._clock = PoolClock()
        self._rooms: dict[str, dict[_Gateway, _Count]] = {}
        self._lists: dict[str, UserLists] = {}
        self._gateways: dict[str, _Gateway] = {}  # that are current, in the order of their last reports
        self._earlier: dict[str, _Gateway] = {}  # with a lower generation than that, so late, or from a clock set back
        self._by_age: dict[_Count, None] = {}  # likewise
        self._numbers: list[int] = []  # that are free again
        self._next_number = 0
        self._sweeps: deque[Iterator[int]] = deque()
        self._to_sweep: set[str] = set()
        self._emptied: dict[tuple[_Gateway, str], tuple[float, int]] = {}  # when, and by which serial
        self._unpublished: dict[str, bool] = {}  # whether at once
        self._published: dict[str, tuple[float, Viewers]] = {}
        self._published_empty: dict[str, float] = {}
        self._is_behind = False
        self._is_counting = False
        self._doubtful: set[str] = set()

    def __len__(self) -> int:
        return len(self._rooms)

    def rooms(self) -> list[str]:
        """Return the rooms that somebody watches."""
        return [room for room, counts in self._rooms.items() if any(gateway.is_current for gateway in counts)]

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
        return run_at_once(self.taking(record, now_s))

    def taking(self, record: Presence, now_s: float) -> Generator[int, None, bool]:
        """Take a gateway's count of one room; return whether the gateway needs a room snapshot.

        It needs one when the room became local there, and when it asks for one. Yields between the
        pieces of a list, so that a huge room does not block the loop. To keep the order, the caller
        drives one record to its end before the next one begins.
        """
        if record.gateway not in self._gateways and not record.connections:
            return record.card
        gateway = self._gateway_of(record.gateway, record.generation, now_s)
        if gateway is None:
            return record.card
        count = self._count_of(record, gateway)
        if count is None or count.is_after(record):
            return record.card
        before = count.viewers
        yield from self._take(count, record, now_s)
        if before != count.viewers or record.has_users:
            self._note(record.room)
        is_new = gateway.is_current and count.viewers.connections > 0 and not before.connections
        return record.card or (is_new and not self._is_behind)  # the owner before has answered those

    def _count_of(self, record: Presence, gateway: _Gateway) -> _Count | None:
        """Return a gateway's count of a room.

        None where there is none, and either nobody has come or the record is late: the room emptied
        there after it.
        """
        count = self._rooms.get(record.room, {}).get(gateway)
        if count is None and record.connections:
            _, emptied = self._emptied.get((gateway, record.room), (0.0, -1))
            if record.serial is not None and record.serial <= emptied:
                return None
            count = self._rooms.setdefault(record.room, {})[gateway] = _Count(record.room, gateway)
            gateway.rooms.add(record.room)
        return count

    def _take(self, count: _Count, record: Presence, now_s: float) -> Iterator[int]:
        """Take a gateway's count of one room, and the users that it names."""
        self._by_age.pop(count, None)
        count.viewers, count.devices = Viewers(record.users, record.connections), record.devices
        count.reported_s = self._clock.now(now_s)
        if self._publishes:
            yield from self._list(count, record)
        if self._rooms.get(count.room, {}).get(count.gateway) is not count:
            self._want_sweep(count)
            return  # its gateway was forgotten meanwhile
        if record.connections:
            self._by_age[count] = None
        else:
            self._leave(count)
            self._remember_emptied(count, now_s)

    def _remember_emptied(self, count: _Count, now_s: float) -> None:
        """Note the last record of a room that emptied, so that late ones are told apart."""
        key = count.gateway, count.room
        self._emptied.pop(key, None)
        if self._publishes and count.serial is not None:
            self._emptied[key] = now_s, count.serial
        if len(self._emptied) > MAX_EMPTIED:
            del self._emptied[next(iter(self._emptied))]

    def gateway_reported(self, name: str, generation: int, at_ms: int, now_s: float) -> None:
        """Note that a gateway is alive, by a report that Kafka took at `at_ms`.

        Counts of an earlier generation of it are dropped. Starts are told apart by the gateway's
        clock. So a lower generation counts as a new start once the higher one is silent: the clock
        was ahead then.
        """
        gateway = self._gateway_of(name, generation, now_s)
        if gateway is None:
            return
        self._clock.now(now_s)  # which does not go back: the time until this report counts for it
        passed_s = 0.0 if gateway.at_ms is None else (at_ms - gateway.at_ms) / 1000
        self._clock.report(gateway.newest_s, passed_s, now_s)
        gateway.at_ms, gateway.newest_s, gateway.reported_s = at_ms, self._clock.reported_s, self._clock.now(now_s)
        if not gateway.is_current:
            if gateway.reported_s - self._gateways[name].reported_s <= SILENCE_S:
                return
            self._make_current(gateway)
        del self._gateways[name]
        self._gateways[name] = gateway
        self._doubtful.discard(name)
        if gateway.is_silent:
            gateway.is_silent = False
            self._note_all(gateway)

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
                del self._gateways[gateway.name]
                self._forget(gateway)
        for gateway in list(self._earlier.values()):
            if pool_s - gateway.reported_s > GATEWAY_SILENCE_S:
                del self._earlier[gateway.name]
                self._forget(gateway)
        for count in list(islice(self._by_age, OLD_AT_ONCE)):
            if pool_s - count.reported_s <= UNREPORTED_S:
                break
            self._leave(count)
            self._note(count.room)
        self._sweep()
        self._forget_empty(now_s)

    def _forget_empty(self, now_s: float) -> None:
        """Forget rooms that emptied long ago, and those that were published as empty."""
        for key, (at_s, _) in list(islice(self._emptied.items(), OLD_AT_ONCE)):
            if now_s - at_s <= EMPTIED_S:
                break
            del self._emptied[key]
        for room, at_s in list(islice(self._published_empty.items(), OLD_AT_ONCE)):
            if now_s - at_s < PUBLISH_INTERVAL_S:
                break
            del self._published_empty[room], self._published[room]

    def _silence(self, gateway: _Gateway) -> None:
        """Leave out a gateway. Too many are shown in its rooms: they may be published at once."""
        gateway.is_silent = True
        self._doubtful.discard(gateway.name)
        self._note_all(gateway, at_once=True)

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
        for room, at_once in list(self._unpublished.items()):
            at_s, published = self._published.get(room, (float("-inf"), NOBODY))
            may_publish = at_once or now_s - at_s >= PUBLISH_INTERVAL_S
            if room in self._lists and not may_publish:
                continue
            listed, cost = self._listed(room, left)
            left -= cost
            if listed is None:
                self._is_counting = True
                break
            viewers = self._sum(room, listed)
            if viewers != published and not may_publish:
                continue
            del self._unpublished[room]
            if room in self._lists and self._lists[room].uncounted:
                self._unpublished[room] = False  # behind the others
            if viewers != published:
                self._set_published(room, viewers, now_s)
                yield room, viewers

    def _listed(self, room: str, at_most: int) -> tuple[int | None, int]:
        """Return how many users lists have of a room, and what that cost.

        None where that costs more than `at_most`; the next call goes on.
        """
        if at_most <= 0:
            return None, 0
        if (lists := self._lists.get(room)) is None:
            return 0, ROOM_COST
        self._reckon(room, lists)
        cost = ROOM_COST + lists.uncounted
        return lists.count(at_most), cost

    def _set_published(self, room: str, viewers: Viewers, now_s: float) -> None:
        self._published[room] = now_s, viewers
        if room in self._rooms:
            self._published_empty.pop(room, None)
        else:
            self._published_empty[room] = now_s

    def publish_all_again(self) -> None:
        """Publish all sums again: after a take-over the rooms do not know them."""
        self._published.clear()
        self._published_empty.clear()
        self._unpublished.update(dict.fromkeys(self._rooms, False))

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
        if lists is None:
            return self._sum(room, 0)
        self._reckon(room, lists)
        return self._sum(room, lists.count() or 0)

    def _sum(self, room: str, listed: int) -> Viewers:
        """Return the sums for a room of which lists have so many users."""
        counts = [count for count in self._rooms.get(room, {}).values() if count.gateway.is_counted]
        unlisted = sum(count.viewers.users for count in counts if not count.is_listed)
        return Viewers(listed + unlisted, sum(count.viewers.connections for count in counts))

    def devices(self, room: str) -> int | None:
        """Return how many devices watch a room; None where a gateway of it does not say.

        A user who watches at two gateways on one device counts twice.
        """
        devices = 0
        for count in self._rooms.get(room, {}).values():
            if not count.gateway.is_counted:
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
        follows = count.follows(record)
        count.serial = record.serial
        count.is_listed = count.is_listed and follows
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

    def _reckon(self, room: str, lists: UserLists) -> None:
        """Let a room's lists count the users of those gateways that report and have whole lists."""
        counts = self._rooms.get(room, {}).values()
        counted = {count.gateway.number for count in counts if count.is_listed and count.gateway.is_counted}
        lists.count_only(number for number in counted if number is not None)

    def _sweep(self) -> None:
        """Go on dropping the counts and the entries of gateways that left."""
        left = AT_ONCE
        while self._sweeps and left > 0:
            cost = next(self._sweeps[0], None)
            if cost is None:
                self._sweeps.popleft()
            left -= cost or 1

    def _dropping(self, gateway: _Gateway) -> Iterator[int]:
        """Drop the counts of a gateway that was forgotten, and after the sweeps give its number to
        another one.
        """
        while gateway.rooms:
            room = gateway.rooms.pop()
            self._leave(self._rooms[room][gateway])
            self._note(room)
            yield ROOM_COST
        if gateway.number is not None:
            self._sweeps.append(self._freeing(gateway.number))

    def _sweeping(self, room: str) -> Iterator[int]:
        """Take the entries of gateways that left a room out of its lists."""
        self._to_sweep.discard(room)  # one that leaves from now on needs a sweep of its own
        if (lists := self._lists.get(room)) is not None:
            yield from lists.keep(lambda: {gateway.number for gateway in self._rooms.get(room, {})})

    def _freeing(self, number: int) -> Iterator[int]:
        """Give a gateway's number to another one, behind the sweeps of its rooms."""
        self._numbers.append(number)
        yield 1

    # ---- the gateways
    def _gateway_of(self, name: str, generation: int, now_s: float) -> _Gateway | None:
        """Return the start of a gateway; None where two later ones are known.

        A start that is earlier than the current one does not count until it is made current.
        """
        current, earlier = self._gateways.get(name), self._earlier.get(name)
        if current is not None and current.generation == generation:
            return current
        if earlier is None or earlier.generation != generation:
            is_older = earlier is not None and generation < earlier.generation
            if current is not None and generation < current.generation and is_older:
                return None
            start = _Gateway(name, generation, self._number(), self._clock.now(now_s))
        else:
            start = earlier
        if current is None or generation > current.generation:
            self._make_current(start)
        elif start is not earlier:
            if earlier is not None:
                self._forget(earlier)
            self._earlier[name] = start
        return start

    def _make_current(self, start: _Gateway) -> None:
        """Let a start of a gateway count, in place of another one."""
        if self._earlier.get(start.name) is start:
            del self._earlier[start.name]
        if (before := self._gateways.pop(start.name, None)) is not None:
            self._forget(before)
        start.is_current = True
        self._gateways[start.name] = start
        self._note_all(start)
        if self._is_behind:
            self._doubtful.add(start.name)

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
        """Let a start of a gateway count no more; its counts are dropped in pieces (`_sweep`)."""
        if gateway.is_counted:
            self._note_all(gateway)
        if gateway.is_current:
            gateway.is_current = False
            self._doubtful.discard(gateway.name)
        self._sweeps.append(self._dropping(gateway))

    def _note_all(self, gateway: _Gateway, *, at_once: bool = False) -> None:
        """Note that the sums of a gateway's rooms changed; 20,000 of them take 2 ms."""
        if not self._publishes:
            return
        if at_once:
            self._unpublished |= dict.fromkeys(gateway.rooms, True)
        else:
            self._unpublished = dict.fromkeys(gateway.rooms, False) | self._unpublished

    def _note(self, room: str) -> None:
        """Note that a room's sums changed, unless it is empty and nobody heard of it."""
        if not self._publishes:
            return
        if room in self._rooms or room in self._published:
            self._unpublished.setdefault(room, False)
        else:
            self._unpublished.pop(room, None)

    def _leave(self, count: _Count) -> None:
        """Forget a gateway's count of a room.

        Entries that are left do not count; they are swept, or its next list there replaces them.
        """
        self._by_age.pop(count, None)
        gateway, room = count.gateway, count.room
        gateway.rooms.discard(room)
        by_gateway = self._rooms[room]
        del by_gateway[gateway]
        if not by_gateway:
            del self._rooms[room]
            self._lists.pop(room, None)
        self._want_sweep(count)

    def _want_sweep(self, count: _Count) -> None:
        """Sweep a room that has entries of gateways that left, once for all of them."""
        lists, number = self._lists.get(count.room), count.gateway.number
        if lists is not None and number is not None and lists.size(number) and count.room not in self._to_sweep:
            self._to_sweep.add(count.room)
            self._sweeps.append(self._sweeping(count.room))
