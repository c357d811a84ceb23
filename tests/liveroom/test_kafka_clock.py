"""A machine's clock beside Kafka's: which of both a service goes by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveroom import clock, topics
from liveroom.clock import WINDOW_S, KafkaClock
from liveroom.far_times import SKEW_S
from liveroom.kafka import Producer, TopicReader, ensure_topics
from liveroom.kafka_port import TopicPartition
from liveroom.registry import Metrics
from tests.memory_kafka import MemoryKafka, MemoryRecord

NOW_S = 1_800_000_000.0  # by Kafka, at 0 of the monotonic clock
YEAR_S = 365 * 24 * 3600


class Machine:
    """A machine whose Unix time is off by `off_s`."""

    def __init__(self, off_s: float = 0.0) -> None:
        self.off_s = off_s
        self.at_s = 0.0

    def monotonic_s(self) -> float:
        return self.at_s

    def unix_ns(self) -> int:
        return int((NOW_S + self.at_s + self.off_s) * 1e9)

    async def sleep(self, delay_s: float) -> None:
        self.at_s += delay_s

    @property
    def kafka_ms(self) -> int:
        return int((NOW_S + self.at_s) * 1000)


def off_s(followed: KafkaClock, machine: Machine) -> float:
    """By how much the time that a service goes by is off."""
    return followed.unix_ns() / 1e9 - NOW_S - machine.at_s


@pytest.mark.parametrize(
    ("machine_s", "shown_s"),
    [
        pytest.param(0.0, 0.0, id="right"),
        pytest.param(1.9, 1.9, id="a little ahead: the machine's own clock is smoother"),
        pytest.param(-1.9, -1.9, id="a little behind"),
        pytest.param(2.1, 0.0, id="2.1 s ahead"),
        pytest.param(90.0, 0.0, id="90 s ahead"),
        pytest.param(-90.0, 0.0, id="90 s behind"),
        pytest.param(-NOW_S, 0.0, id="in 1970"),
        pytest.param(70 * YEAR_S, 0.0, id="in the far future"),
    ],
)
def test_kafkas_time_counts_where_the_machines_is_off_by_more_than_2_s(machine_s: float, shown_s: float) -> None:
    machine = Machine(machine_s)
    followed = KafkaClock(machine)
    assert off_s(followed, machine) == pytest.approx(machine_s), "nothing else is known yet"
    assert followed.skew_s is None
    followed.kafka_is_at(machine.kafka_ms)
    assert off_s(followed, machine) == pytest.approx(shown_s, abs=0.01)
    assert followed.skew_s == pytest.approx(machine_s, abs=0.01)


def test_a_step_of_the_clock_is_noticed_at_once_and_so_is_the_step_back() -> None:
    machine = Machine()
    followed = KafkaClock(machine)
    followed.kafka_is_at(machine.kafka_ms)
    for step_s in (3600.0, 0.0, -3600.0, 0.0, -NOW_S, 1.0):
        machine.off_s = step_s
        machine.at_s += 0.3  # no record came meanwhile
        assert off_s(followed, machine) == pytest.approx(step_s if abs(step_s) < SKEW_S else 0.0, abs=0.01)


def test_records_that_come_late_do_not_turn_the_clock_back() -> None:
    machine = Machine(90)
    followed = KafkaClock(machine)
    for second in range(300):
        machine.at_s = second
        late_s = 0 if second % 10 == 0 else 8
        followed.kafka_is_at(machine.kafka_ms - late_s * 1000)
        assert off_s(followed, machine) == pytest.approx(0, abs=0.01), second


def test_a_machine_that_slept_with_its_monotonic_clock_knows_it_by_the_first_record() -> None:
    machine = Machine()
    followed = KafkaClock(machine)
    followed.kafka_is_at(machine.kafka_ms)
    slept_s = 3600  # the monotonic clock stood still
    machine.off_s = slept_s
    followed.kafka_is_at(machine.kafka_ms + slept_s * 1000)
    assert followed.skew_s == pytest.approx(0, abs=0.01)


def test_a_broker_whose_clock_was_set_back_is_followed_within_two_windows() -> None:
    machine = Machine()
    followed = KafkaClock(machine)
    wrong_ms = 90_000
    for second in range(100):
        machine.at_s = second
        followed.kafka_is_at(machine.kafka_ms + wrong_ms)
    assert followed.skew_s == pytest.approx(-90, abs=0.01)
    for second in range(100, 101 + int(2 * WINDOW_S) + 2):
        machine.at_s = second
        followed.kafka_is_at(machine.kafka_ms)
    assert followed.skew_s == pytest.approx(0, abs=0.01)


def test_the_last_known_time_holds_for_as_long_as_no_record_comes() -> None:
    machine = Machine(90)
    followed = KafkaClock(machine)
    followed.kafka_is_at(machine.kafka_ms)
    machine.at_s += 3600
    assert off_s(followed, machine) == pytest.approx(0, abs=0.01)
    followed.kafka_is_at(machine.kafka_ms - 9000)  # the first ones after the outage are late
    assert off_s(followed, machine) == pytest.approx(0, abs=0.01)


@given(
    machine_s=st.floats(-1e9, 1e9),
    late_s=st.lists(st.floats(0, 20), min_size=1, max_size=60),
)
def test_no_machine_is_off_by_more_than_2_s_once_a_record_came_in_time(machine_s: float, late_s: list[float]) -> None:
    machine = Machine(machine_s)
    followed = KafkaClock(machine)
    followed.kafka_is_at(machine.kafka_ms)
    for each in late_s[: int(WINDOW_S)]:
        machine.at_s += 1
        followed.kafka_is_at(machine.kafka_ms - int(each * 1000))
        assert abs(off_s(followed, machine)) <= SKEW_S + 0.01


async def test_load_reports_and_their_acks_show_kafkas_time_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka, metrics = MemoryKafka(), Metrics("edge")
    await ensure_topics(kafka)
    machine = Machine(90)
    monkeypatch.setattr("tests.memory_kafka.clock.unix_ms", lambda: machine.kafka_ms)  # the broker's clock
    with clock.running_on(KafkaClock(machine)):
        assert clock.skew_s() is None
        producer = Producer(kafka, metrics)
        await producer.start()
        for topic in set(topics.ALL) - {topics.GATEWAYS}:
            await producer.send(topic, b"{}", key=b"a", partition=0, timeout_s=5)
        assert await producer.send_many(topics.PRESENCE, [(b"a", b"{}"), (b"b", b"{}")], timeout_s=5) == [None, None]
        assert clock.skew_s() is None
        await producer.send(topics.GATEWAYS, b"{}", key=b"a", timeout_s=5)
        assert clock.skew_s() == pytest.approx(90, abs=0.01)
        assert clock.machine_ms() == machine.kafka_ms + 90_000
        await producer.stop()

    reports, others = TopicPartition("gateways", 0), TopicPartition("control", 0)
    for tp, topic, knows in ((others, topics.CONTROL, False), (reports, topics.GATEWAYS, True)):
        with clock.running_on(KafkaClock(machine)):
            kafka.logs[tp] = []
            reader = TopicReader(kafka, topic, metrics)
            await reader.start()
            kafka.logs[tp].append(MemoryRecord(tp.topic, 0, 0, machine.kafka_ms, b"a", b"{}"))
            async for _, found in reader.read():
                if found:
                    break
            assert (clock.skew_s() is not None) is knows, topic.name
            await reader.stop()


class Brokers(MemoryKafka):
    """A cluster of three brokers, whose clocks are off by `offs_s`.

    The topic `gateways` has the leader `leader`; partitions of others have any of the three.
    """

    def __init__(self, machine: Machine, offs_s: tuple[float, float, float]) -> None:
        super().__init__(at_ms=self._leads_at_ms)
        self.machine, self.offs_s, self.leader = machine, offs_s, 0

    def _leads_at_ms(self, topic: str, partition: int) -> int:
        leader = self.leader if topic == topics.GATEWAYS.name else partition % 3
        return self.machine.kafka_ms + int(self.offs_s[leader] * 1000)


class Pool:
    """A gateway, which writes its report and presence, and a scheduler, which reads the reports."""

    def __init__(self, brokers: Brokers, gateway_s: float = 0.0) -> None:
        metrics, self._machine = Metrics("edge"), brokers.machine
        self.gateway_machine = Machine(gateway_s)
        self.gateway, self.scheduler = KafkaClock(self.gateway_machine), KafkaClock(self._machine)
        self._producer, self._reader = Producer(brokers, metrics), TopicReader(brokers, topics.GATEWAYS, metrics)
        self._reads = self._reader.read()

    async def start(self) -> None:
        with clock.running_on(self.gateway):
            await self._producer.start()
        with clock.running_on(self.scheduler):
            await self._reader.start()

    async def pass_s(self, seconds: int) -> None:
        """Let seconds pass; in each the gateway reports once."""
        rooms = [(f"room-{number}".encode(), b"{}") for number in range(16)]
        for _ in range(seconds):
            self._machine.at_s = self.gateway_machine.at_s = round(self._machine.at_s) + 1
            with clock.running_on(self.gateway):
                await self._producer.send(topics.GATEWAYS, b"{}", key=b"a", timeout_s=5)
                assert set(await self._producer.send_many(topics.PRESENCE, rooms, timeout_s=5)) == {None}
            with clock.running_on(self.scheduler):
                assert (await anext(self._reads))[1]

    def off_s(self) -> tuple[float, float]:
        """By how much the times are off that the gateway and the scheduler go by."""
        return round(off_s(self.gateway, self.gateway_machine), 1), round(off_s(self.scheduler, self._machine), 1)


@pytest.mark.parametrize("wrong_s", [90.0, -90.0, 3600.0, 20.0])
@pytest.mark.parametrize("gateway_s", [0.0, 600.0, -600.0])
async def test_a_wrong_clock_of_a_broker_that_does_not_lead_gateways_sets_no_service_wrong(
    wrong_s: float, gateway_s: float
) -> None:
    brokers = Brokers(Machine(), (0.0, wrong_s, 0.0))
    await ensure_topics(brokers)
    pool = Pool(brokers, gateway_s)
    await pool.start()
    for _ in range(40):
        await pool.pass_s(2)
        assert pool.off_s() == (0.0, 0.0)
    assert pool.gateway.skew_s == pytest.approx(gateway_s, abs=0.1), "the one machine that is wrong is noticed"
    assert pool.scheduler.skew_s == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("wrong_s", [90.0, -90.0])
async def test_all_services_go_together_by_a_wrong_clock_of_the_leader_and_leave_it_together(wrong_s: float) -> None:
    brokers = Brokers(Machine(), (0.0, wrong_s, 0.0))
    await ensure_topics(brokers)
    pool = Pool(brokers)
    await pool.start()
    await pool.pass_s(40)
    for leader, expected_s in ((1, wrong_s), (2, 0.0), (1, wrong_s), (0, 0.0)):
        brokers.leader = leader
        await pool.pass_s(5)
        assert pool.off_s() == (expected_s, expected_s)
        await pool.pass_s(50)
        assert pool.off_s() == (expected_s, expected_s)
        assert pool.gateway.skew_s == pytest.approx(-expected_s, abs=0.1), "and every service reports it"


def test_records_that_waited_longer_than_a_window_do_not_turn_the_clock_back_when_others_are_in_time() -> None:
    machine = Machine(90)
    followed = KafkaClock(machine)
    followed.kafka_is_at(machine.kafka_ms)
    for second in range(200):
        machine.at_s = second
        followed.kafka_is_at(machine.kafka_ms - (0 if second % 3 == 0 else 60_000))
        assert off_s(followed, machine) == pytest.approx(0, abs=0.01), second


async def test_the_time_of_a_producer_is_not_kafkas(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka, metrics = MemoryKafka(), Metrics("edge")
    await ensure_topics(kafka)
    machine, tp = Machine(90), TopicPartition("gateways", 0)
    with clock.running_on(KafkaClock(machine)):
        reader = TopicReader(kafka, topics.GATEWAYS, metrics)
        await reader.start()
        kafka.logs[tp].append(MemoryRecord("gateways", 0, 0, machine.kafka_ms + 500_000, b"a", b"{}", (), 0))
        async for _, found in reader.read():
            if found:
                break
        assert clock.skew_s() is None
        await reader.stop()


def test_a_clock_without_kafka_is_the_machines() -> None:
    machine = Machine(90)
    with clock.running_on(machine):
        clock.kafka_is_at(1)
        assert clock.skew_s() is None
        assert clock.unix_ms() == clock.machine_ms() == machine.kafka_ms + 90_000
