"""How a gateway sends what it reports of its rooms, to a producer of the test's."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any, Final

import pytest

from edge.hub import Hub
from edge.presence_pace import AGAIN_AT_ONCE, MIN_INTERVAL_S
from edge.presence_report import LANE_ROOMS, PresenceReports
from liveroom import clock
from liveroom.kafka import Unsent, UnsentError
from liveroom.records.codec import JsonReader
from liveroom.records.control import Presence
from liveroom.settings import KafkaSettings
from liveroom.topics import Topic, partition_of, room_hash
from liveroom.turns import TURN_COST
from tests.edge.test_hub import FakeMember, join
from tests.manual_clock import ManualClock

PARTITIONS: Final = 4
BAD: Final = 0  # the partition without a leader
read: Final = JsonReader(Presence).read


def rooms_in(partition: int, count: int) -> list[str]:
    """Return names of rooms of a partition."""
    names = (f"r{number}" for number in range(100 * PARTITIONS * count))
    return [name for name in names if partition_of(name, PARTITIONS) == partition][:count]


class FakeGateway:
    """Local rooms, their reports, and a producer. `has_leader`: whether `BAD` acknowledges."""

    def __init__(self, time: ManualClock) -> None:
        self.time = time
        self.hub = Hub()
        self.was_silent = False
        self.generation = 1
        self.settings = SimpleNamespace(instance="g", kafka=KafkaSettings(partitions=PARTITIONS))
        self.joins = SimpleNamespace(snapshots_wanted={})
        self.has_leader = False
        self.sent: list[Presence] = []
        self.unanswered: list[asyncio.Future[None]] = []
        self.under_way: Counter[str] = Counter()
        me: Any = self
        self.reports = PresenceReports(me, me)

    def enter(self, room: str, user: str = "ann") -> None:
        join(self.hub, FakeMember(user_hash=room_hash(user)), room, clock.monotonic_s())

    async def send(self, _: Topic, value: bytes, *, key: bytes, timeout_s: float) -> None:
        assert timeout_s
        room = key.decode()
        self.under_way[room] += 1
        assert self.under_way[room] == 1, "a room's reports come in their order"
        try:
            if partition_of(room, PARTITIONS) == BAD and not self.has_leader:
                answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self.unanswered.append(answer)
                await answer
                raise UnsentError(Unsent.TIMEOUT)
            self.sent.append(read(value))
        finally:
            self.under_way[room] -= 1

    async def time_out(self) -> None:
        """Let the reports that nobody acknowledged fail."""
        unanswered, self.unanswered = self.unanswered, []
        for answer in unanswered:
            answer.set_result(None)
        await settled()

    async def check(self) -> list[Presence]:
        """Send what is due; return what came."""
        self.sent.clear()
        await self.reports.send_due()
        await settled()
        return list(self.sent)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def time() -> Iterator[ManualClock]:
    running = ManualClock()
    with clock.running_on(running):
        yield running


@pytest.fixture
async def gateway(time: ManualClock) -> AsyncIterator[FakeGateway]:
    made = FakeGateway(time)
    yield made
    await made.reports.cancel()


async def test_rooms_of_a_partition_without_a_leader_delay_no_others(gateway: FakeGateway) -> None:
    others = [room for partition in range(1, PARTITIONS) for room in rooms_in(partition, 3 * LANE_ROOMS // 2)]
    for room in [*rooms_in(BAD, 2 * LANE_ROOMS), *others]:
        gateway.enter(room)
    sent = [report.room for _ in range(2) for report in await gateway.check()]
    assert sorted(sent) == sorted(others)
    assert len(gateway.unanswered) == LANE_ROOMS


async def test_where_reports_fail_one_at_a_time_is_tried_until_one_arrives(gateway: FakeGateway) -> None:
    bad = rooms_in(BAD, 5)
    for room in bad:
        gateway.enter(room)
    tries = []
    for _ in range(3):
        await gateway.check()
        tries.append(len(gateway.unanswered))
        await gateway.time_out()
        gateway.time.now_s += MIN_INTERVAL_S
    assert tries == [5, 1, 1]
    gateway.has_leader = True
    sent = [report.room for _ in range(2) for report in await gateway.check()]
    assert sorted(sent) == sorted(bad)


async def test_a_room_of_which_a_report_is_under_way_waits_with_the_next_one(gateway: FakeGateway) -> None:
    (room,) = rooms_in(BAD, 1)
    gateway.enter(room, "ann")
    await gateway.check()
    gateway.enter(room, "ben")
    for _ in range(3):
        gateway.time.now_s += MIN_INTERVAL_S
        assert await gateway.check() == []
    assert len(gateway.unanswered) == 1
    gateway.has_leader = True
    await gateway.time_out()
    (report,) = await gateway.check()
    assert (report.users, report.parts) == (2, 1), "the list, for the one before may not have arrived"


async def test_a_snapshot_is_asked_for_again_where_the_report_that_asked_was_not_acknowledged(gateway: FakeGateway) -> None:
    (room,) = rooms_in(BAD, 1)
    gateway.enter(room)
    gateway.joins.snapshots_wanted[room] = None
    await gateway.check()
    await gateway.time_out()
    gateway.has_leader = True
    gateway.time.now_s += MIN_INTERVAL_S
    (report,) = await gateway.check()
    assert report.card
    gateway.enter(room, "ben")
    gateway.time.now_s += MIN_INTERVAL_S
    (report,) = await gateway.check()
    assert not report.card


async def test_a_report_that_fails_for_no_known_reason_ends_the_gateway(gateway: FakeGateway) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    (room,) = rooms_in(BAD, 1)
    gateway.enter(room)
    await gateway.check()
    gateway.unanswered.pop().set_exception(ZeroDivisionError)
    await settled()
    with pytest.raises(ZeroDivisionError):
        await gateway.check()


@pytest.mark.parametrize("rooms", [1, 100])
async def test_others_have_the_loop_while_long_lists_are_made(gateway: FakeGateway, rooms: int) -> None:
    users, turns = 8 * TURN_COST, 0
    for number in range(users):
        gateway.enter(f"r{number % rooms}", f"u{number}")
    gateway.has_leader = True
    checking = asyncio.create_task(gateway.check())
    while not checking.done():
        turns += 1
        await asyncio.sleep(0)
    await gateway.reports.answered()
    assert turns >= users // TURN_COST
    assert sum(len(report.came) // 8 for report in gateway.sent) == users


async def test_after_a_silence_so_many_rooms_are_listed_at_a_time_until_all_are(gateway: FakeGateway) -> None:
    rooms = {f"r{number}" for number in range(2 * AGAIN_AT_ONCE + 1)}
    for room in rooms:
        gateway.enter(room)
    gateway.has_leader = True
    while await gateway.check():
        pass
    gateway.time.now_s += 10
    gateway.was_silent = True
    listed: list[str] = []
    while found := [report.room for report in await gateway.check() if report.parts]:
        assert len(found) <= AGAIN_AT_ONCE
        listed += found
    assert set(listed) == rooms
    assert len(listed) == len(rooms)
