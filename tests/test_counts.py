"""The counts of viewers from gateways to their owner, in virtual time: the real rooms, reports and
sums, and a log of the test's between them.
"""

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from edge.hub import Hub
from edge.presence_report import PresenceReports
from liveroom import clock
from liveroom.audience import GATEWAY_SILENCE_S, SILENCE_S, Audience, Viewers
from liveroom.kafka import Unsent, UnsentError
from liveroom.records.codec import JsonReader
from liveroom.records.control import PRESENCE_INTERVAL_S, Presence
from liveroom.settings import KafkaSettings
from liveroom.topics import Topic, room_hash
from tests.edge.test_hub import FakeMember, join
from tests.manual_clock import ManualClock

ROOM: Final = "r"
STEP_S: Final = 0.05
REPORT_S: Final = 1.0
TOO_HIGH_S: Final = 3.0
BACK_S: Final = PRESENCE_INTERVAL_S + 15
read: Final = JsonReader(Presence).read


class Logged(NamedTuple):
    at_s: float
    value: bytes


class Pool:
    """Gateways, the log of their reports, and the room's owner, who reads it without delay.

    `shown`: what viewers are shown. `truths`: how many users there were in the last `TOO_HIGH_S`;
    where `is_judged`, more than the most of these must not be shown. `loss`: the share of reports
    of which the gateway does not learn whether they came: a third came, a third comes later.
    """

    def __init__(self, time: ManualClock, seed: int = 1) -> None:
        self.time = time
        self.chance = Random(seed)
        self.gateways: dict[str, Gateway] = {}
        self.log: list[Logged] = []
        self.late: list[Logged] = []
        self.owner = Audience()
        self.shown: Viewers | None = None
        self.history: list[Viewers] = []
        self.truths: deque[tuple[float, int]] = deque()
        self.loss = 0.0
        self.generation = 0
        self.kafka_ahead_s = 0.0
        self.is_kafka_up = True
        self.is_judged = True
        self.knows_truth = True

    @property
    def now_s(self) -> float:
        return self.time.now_s

    def start(self, *names: str) -> None:
        for name in names:
            self.generation += 1
            self.gateways[name] = Gateway(self, name, self.generation)

    def kill(self, name: str) -> list[FakeMember]:
        """End a gateway as `kill -9` does; return who was there."""
        return [member for members in self.gateways.pop(name).members.values() for member in members]

    def enter(self, gateway: str, user: str | int) -> None:
        member = FakeMember(user_hash=room_hash(user) if isinstance(user, str) else user)
        join(self.gateways[gateway].hub, member, ROOM, self.now_s)
        self.gateways[gateway].members.setdefault(member.user_hash, []).append(member)

    def leave(self, gateway: str, user: str | int) -> None:
        here = self.gateways[gateway]
        members = here.members[room_hash(user) if isinstance(user, str) else user]
        here.hub.drop(members.pop(), self.now_s)
        if not members:
            del here.members[room_hash(user) if isinstance(user, str) else user]

    @property
    def truth(self) -> int:
        return len(set[int]().union(*(gateway.members for gateway in self.gateways.values())))

    def append(self, value: bytes) -> None:
        self.log.append(Logged(self.now_s, value))
        self.owner.update(read(value), self.now_s)

    def take_over(self) -> None:
        """Let another owner read the past minute, as one that was assigned the partition does."""
        self.owner = Audience()
        self.owner.fall_behind()
        for logged in self.log:
            if logged.at_s >= self.now_s - BACK_S:
                self.owner.update(read(logged.value), self.now_s)
        self.owner.catch_up()

    async def run(self, seconds: float, each_step: Callable[[], None] = lambda: None) -> None:
        for _ in range(round(seconds / STEP_S)):
            await self.time.advance(STEP_S)
            each_step()
            if self.is_kafka_up:
                self._deliver_late()
                for gateway in list(self.gateways.values()):
                    await gateway.act()
            self._publish()

    def _deliver_late(self) -> None:
        for logged in [logged for logged in self.late if logged.at_s <= self.now_s]:
            self.late.remove(logged)
            self.append(logged.value)

    def _publish(self) -> None:
        self.owner.expire(self.now_s)
        if self.knows_truth:
            self.truths.append((self.now_s, self.truth))
        while self.truths and self.truths[0][0] < self.now_s - TOO_HIGH_S:
            self.truths.popleft()
        while True:
            for _, viewers in self.owner.due(self.now_s):
                self.shown = viewers
                self.history.append(viewers)
            if not self.owner.is_counting:
                break
        if self.is_judged and self.shown is not None:
            assert self.shown.users <= max(users for _, users in self.truths), "above the truth for too long"


@dataclass
class Gateway:
    """One gateway: rooms and reports as they are, and what it writes to the log of the test."""

    pool: Pool
    name: str
    generation: int
    hub: Hub = field(default_factory=Hub)
    members: dict[int, list[FakeMember]] = field(default_factory=dict)
    was_silent: bool = False
    is_paused: bool = False

    def __post_init__(self) -> None:
        self.settings = SimpleNamespace(instance=self.name, kafka=KafkaSettings())
        self.joins = SimpleNamespace(snapshots_wanted={})
        self.next_report_s = self.pool.now_s + self.pool.chance.random() * REPORT_S
        self.reported_s = self.pool.now_s
        me: Any = self
        self.reports = PresenceReports(me, me)

    async def act(self) -> None:
        """Report load and presence where that is due."""
        if self.is_paused:
            return
        pool = self.pool
        if pool.now_s >= self.next_report_s:
            self.was_silent = self.was_silent or pool.now_s - self.reported_s > GATEWAY_SILENCE_S / 2
            self.reported_s = pool.now_s
            self.next_report_s = pool.now_s + REPORT_S
            at_ms = int(1000 * (pool.now_s + pool.kafka_ahead_s))
            pool.owner.gateway_reported(self.name, self.generation, at_ms, pool.now_s)
        await self.reports.send_due()
        await self.reports.answered()

    async def send(self, _: Topic, value: bytes, *, key: bytes, timeout_s: float) -> None:
        """Write a record as the producer does; the pool's chance decides what becomes of it."""
        assert key
        pool = self.pool
        if pool.chance.random() >= pool.loss:
            pool.append(value)
            return
        match pool.chance.randrange(3):
            case 0:
                pool.append(value)
            case 1:
                pool.late.append(Logged(pool.now_s + pool.chance.random() * 2 * timeout_s, value))
        raise UnsentError(Unsent.TIMEOUT)


@pytest.fixture
def time() -> Iterator[ManualClock]:
    running = ManualClock()
    with clock.running_on(running):
        yield running


@pytest.fixture
def pool(time: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Pool:
    monkeypatch.setattr("tests.manual_clock.SETTLE_TURNS", 0)  # nobody sleeps here
    return Pool(time)


def highest(pool: Pool) -> int:
    return max(viewers.users for viewers in pool.history)


async def test_one_user_with_8_connections_on_three_gateways_is_one_user(pool: Pool) -> None:
    pool.start("a", "b", "c")
    for number in range(8):
        pool.enter("abc"[number % 3], "ann")
        await pool.run(0.7)
    await pool.run(4)
    assert pool.shown == Viewers(1, 8)
    assert highest(pool) == 1
    for number in range(7):
        pool.leave("abc"[number % 3], "ann")
        await pool.run(0.7)
    await pool.run(4)
    assert pool.shown == Viewers(1, 1)
    pool.leave("b", "ann")
    await pool.run(4)
    assert pool.shown == Viewers(0, 0)


@pytest.mark.parametrize("back_after_s", [0.0, 0.5, 1.5, 4.0])
async def test_viewers_of_a_gateway_that_died_are_not_counted_twice_while_they_move(pool: Pool, back_after_s: float) -> None:
    pool.start("a", "b")
    for number in range(8):
        pool.enter("b" if number == 0 else "a", f"u{number}")
    await pool.run(5)
    assert pool.shown == Viewers(8, 8)
    pool.kill("a")
    await pool.run(back_after_s)
    for number in range(1, 8):
        pool.enter("b", f"u{number}")
        await pool.run(0.2)
    await pool.run(15)
    assert pool.shown == Viewers(8, 8)
    assert highest(pool) == 8


async def test_a_gateway_that_died_leaves_the_sum_within_3_s(pool: Pool) -> None:
    for others in (1, 2, 9):
        for phase in range(10):
            names = [f"g{number}" for number in range(others + 1)]
            pool.start(*names)
            for number, name in enumerate(names):
                pool.enter(name, f"u{number}")
            pool.is_judged = False
            await pool.run(5 + phase / 10)
            pool.is_judged = True
            assert pool.shown == Viewers(others + 1, others + 1)
            pool.kill("g0")
            await pool.run(TOO_HIGH_S)
            assert pool.shown == Viewers(others, others)


async def test_counts_freeze_while_all_gateways_are_silent_and_go_on_after_that(pool: Pool) -> None:
    pool.start("a", "b", "c")
    for number, name in enumerate("abc"):
        pool.enter(name, f"u{number}")
    await pool.run(5)
    pool.is_kafka_up = False
    await pool.run(300)
    assert pool.shown == Viewers(3, 3)
    pool.is_kafka_up = True
    before = len(pool.history)
    await pool.run(10)
    assert pool.shown == Viewers(3, 3)
    assert len(pool.history) == before, "no other number was shown"


@pytest.mark.parametrize("jump_s", [-3600.0, -5.0, 5.0, 3600.0])
async def test_a_jump_of_the_brokers_clocks_changes_no_count(pool: Pool, jump_s: float) -> None:
    pool.start("a", "b", "c")
    for number, name in enumerate("abc"):
        pool.enter(name, f"u{number}")
    await pool.run(5)
    before = len(pool.history)
    pool.kafka_ahead_s = jump_s
    await pool.run(10)
    assert len(pool.history) == before
    pool.kill("a")
    await pool.run(TOO_HIGH_S)
    assert pool.shown == Viewers(2, 2), "it measures time as before"


async def test_an_owner_that_stood_still_drops_nobody_for_that(pool: Pool) -> None:
    pool.start("a", "b")
    pool.enter("a", "u1")
    pool.enter("b", "u2")
    await pool.run(5)
    reports: list[tuple[str, int, int]] = []
    owner = pool.owner
    pool.owner = Audience()  # the reports of these 20 s are read afterwards, all at once
    for second in range(20):
        for name, gateway in pool.gateways.items():
            reports.append((name, gateway.generation, int(1000 * (pool.now_s + second))))
    pool.time.now_s += 20
    pool.owner = owner
    for name, generation, at_ms in reports:
        owner.gateway_reported(name, generation, at_ms, pool.now_s)
    before = len(pool.history)
    await pool.run(5)
    assert len(pool.history) == before


@pytest.mark.parametrize("pause_s", [2.5, 8.0, 15.0, 40.0])
async def test_viewers_of_a_gateway_that_was_paused_count_again_as_it_goes_on(pool: Pool, pause_s: float) -> None:
    pool.start("a", "b")
    for number in range(6):
        pool.enter("ab"[number % 2], f"u{number}")
    pool.enter("b", "u0")
    await pool.run(5)
    assert pool.shown == Viewers(6, 7)
    pool.gateways["a"].is_paused, pool.is_judged = True, False
    await pool.run(pause_s)
    if pause_s > SILENCE_S + 1:
        assert pool.shown == Viewers(4, 4)
    pool.gateways["a"].is_paused = False
    await pool.run(4)
    assert pool.shown == Viewers(6, 7)


async def test_a_gateway_that_restarts_under_its_name_begins_with_nobody(pool: Pool) -> None:
    pool.start("a", "b")
    for number in range(6):
        pool.enter("ab"[number % 2], f"u{number}")
    await pool.run(5)
    pool.kill("a")
    pool.start("a")
    pool.enter("a", "u0")
    pool.enter("a", "u1")
    await pool.run(4)
    assert pool.shown == Viewers(4, 5)


async def test_an_owner_that_takes_over_shows_no_drop(pool: Pool) -> None:
    pool.start("a", "b", "c")
    for number in range(30):
        pool.enter("abc"[number % 3], f"u{number}")
        pool.enter("abc"[number // 10], f"u{number}")
    for wait_s in (5, 33, 59, 61, 130):
        await pool.run(wait_s)
        before = len(pool.history)
        pool.take_over()
        await pool.run(4)
        assert {viewers.users for viewers in pool.history[before:]} == {30}


async def test_an_owner_that_takes_over_does_not_count_gateways_that_died_before(pool: Pool) -> None:
    pool.start("a", "b")
    pool.enter("a", "u1")
    pool.enter("b", "u2")
    await pool.run(5)
    pool.kill("a")
    await pool.run(1)
    pool.is_judged = False  # two failures in a row: the new owner waits until it knows who is silent
    pool.take_over()
    before = len(pool.history)
    await pool.run(5)
    assert set(pool.history[before:]) == {Viewers(1, 1)}


async def test_a_gateway_that_reports_counts_alone_is_added_to_the_users_of_others(pool: Pool) -> None:
    pool.start("new", "newer")
    pool.enter("new", "u1")
    pool.enter("newer", "u1")
    old = Presence(1, ROOM, "old", 9, 5, 6, 0, devices=5)

    def report_old() -> None:
        pool.owner.gateway_reported("old", 9, int(1000 * pool.now_s), pool.now_s)

    pool.is_judged = False
    pool.owner.gateway_reported("old", 9, int(1000 * pool.now_s), pool.now_s)
    pool.append(msgspec.json.encode(old))
    await pool.run(5, report_old)
    assert pool.shown == Viewers(6, 8)
    pool.append(msgspec.json.encode(msgspec.structs.replace(old, users=0, connections=0)))
    await pool.run(5, report_old)
    assert pool.shown == Viewers(1, 2)


async def test_a_gateway_of_which_a_report_is_missing_counts_by_its_number_until_its_list_comes(pool: Pool) -> None:
    pool.start("a", "b")
    pool.enter("a", "u1")
    pool.enter("b", "u1")
    await pool.run(4)
    assert pool.owner.of(ROOM) == Viewers(1, 2)
    lost = pool.owner
    pool.owner, pool.is_judged = Audience(), False
    pool.enter("a", "u2")
    await pool.run(0.1)  # this report reaches nobody
    pool.owner = lost
    await pool.run(3)
    pool.enter("a", "u3")
    await pool.run(4)
    assert pool.shown == Viewers(4, 4), "three at the one, one at the other"
    await pool.run(PRESENCE_INTERVAL_S)
    assert pool.shown == Viewers(3, 4)


@pytest.mark.parametrize("seed", range(8))
async def test_counts_are_exact_in_the_end_whatever_happens_to_reports_gateways_and_owners(pool: Pool, seed: int) -> None:
    chance = pool.chance = Random(seed)
    names = ["a", "b", "c", "d", "e"]
    pool.start(*names)
    pool.is_judged = False  # a report that is lost leaves too high a number until the next list
    pool.loss = 0.2
    at: Counter[tuple[str, int]] = Counter()

    def act() -> None:
        for _ in range(chance.randrange(4)):
            name, user = chance.choice(names), chance.randrange(60)
            if at[name, user] and chance.random() < 0.6:
                at[name, user] -= 1
                pool.leave(name, user << 50)
            else:
                at[name, user] += 1
                pool.enter(name, user << 50)
        if chance.random() < 0.01:
            name = chance.choice(names)
            pool.kill(name)
            for key in list(at):
                if key[0] == name:
                    del at[key]
            pool.start(name)
        pool.gateways[chance.choice(names)].is_paused = chance.random() < 0.05
        if chance.random() < 0.003:
            pool.take_over()

    await pool.run(60, act)
    for gateway in pool.gateways.values():
        gateway.is_paused = False
    pool.loss = 0.0
    await pool.run(PRESENCE_INTERVAL_S + 20)
    assert pool.shown is not None
    assert pool.shown.users == pool.truth == len({user for (_, user), count in at.items() if count})
    assert pool.shown.connections == sum(at.values())


async def test_a_report_that_comes_after_later_ones_changes_nothing(pool: Pool) -> None:
    pool.start("a", "b")
    pool.enter("a", "u1")
    await pool.run(3)
    late = pool.log[-1].value
    pool.enter("a", "u2")
    await pool.run(3)
    pool.leave("a", "u1")
    await pool.run(4)
    pool.append(late)
    await pool.run(4)
    assert pool.shown == Viewers(1, 1)


async def test_a_room_that_emptied_and_a_late_report_of_it_that_comes_after_is_empty_in_the_end(pool: Pool) -> None:
    pool.start("a", "b")
    pool.enter("a", "u1")
    await pool.run(3)
    late = pool.log[-1].value
    pool.leave("a", "u1")
    await pool.run(4)
    assert pool.shown == Viewers(0, 0)
    pool.is_judged = False
    pool.append(late)
    await pool.run(3 * PRESENCE_INTERVAL_S)
    assert pool.shown == Viewers(0, 0)
    assert pool.owner.rooms() == []


async def test_what_a_broken_gateway_names_costs_no_more_than_its_record(pool: Pool) -> None:
    pool.start("a")
    pool.enter("a", "u1")
    await pool.run(3)
    broken = Presence(1, ROOM, "x", 7, 3, 3, 0, serial=1, came=b"12345678123", part=9, parts=3)
    for number, (part, parts) in enumerate([(9, 3), (0, 1023), (1023, 1), (0, 0)]):
        pool.owner.update(msgspec.structs.replace(broken, serial=number, part=part, parts=parts), pool.now_s)
    assert pool.owner.of(ROOM) == Viewers(4, 4)
    pool.owner.update(msgspec.structs.replace(broken, serial=9, users=0, connections=0), pool.now_s)
    assert pool.owner.of(ROOM) == Viewers(1, 1)


async def test_100_000_users_on_50_gateways_with_doubles_who_come_and_leave_are_counted_exactly(pool: Pool) -> None:
    chance, names = Random(28), [f"g{number:02}" for number in range(50)]
    pool.is_judged = pool.knows_truth = False  # each step would go through all users
    pool.start(*names)
    users = [chance.getrandbits(64) for _ in range(100_000)]
    for number, user in enumerate(users):
        pool.enter(names[number % 50], user)
        if number % 20 == 0:
            pool.enter(names[(number + 7) % 50], user)
    await pool.run(5)
    assert pool.shown == Viewers(100_000, 105_000)
    coming = iter([chance.getrandbits(64) for _ in range(20_000)])
    leaving = iter([(number, user) for number, user in enumerate(users) if number % 50 == 3])

    def churn() -> None:
        for _ in range(20):
            pool.enter(chance.choice(names), next(coming))
            with contextlib.suppress(StopIteration):
                number, user = next(leaving)
                if number % 20 != 0:
                    pool.leave(names[number % 50], user)

    await pool.run(6, churn)
    await pool.run(4)
    assert pool.shown is not None
    assert pool.shown.users == pool.truth
    pool.kill("g07")
    await pool.run(TOO_HIGH_S)
    assert pool.shown.users == pool.truth
    assert pool.shown.connections == sum(len(each) for gateway in pool.gateways.values() for each in gateway.members.values())
