"""Rules that are over leave the topic, and no rule that holds ever does: several ingresses on one
compacted topic, in a time that the test advances.
"""

import asyncio
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from ingress import ended_rules, withdrawals
from ingress.ended_rules import LEAST_PER_CHECK, MAX_ENDED, SPREAD_MS, WITHDRAW_MS, EndedRules
from ingress.withdrawals import CHECK_S, Withdrawals
from liveroom import clock, metric_catalog
from liveroom.chance import Chance
from liveroom.kafka import Unsent, UnsentError
from liveroom.moderation import FOR_GOOD, Rules, key_of
from liveroom.records.codec import BadRecordError, encode_json
from liveroom.records.control import Moderation, RuleKind, WordAction, record_of, rule_of
from liveroom.registry import Metrics
from liveroom.topics import MODERATION
from tests.ingress.harness import FakeLogWriter
from tests.manual_clock import ManualClock

LONG_S = (WITHDRAW_MS + SPREAD_MS) / 1000 + 5


def rule(kind: RuleKind, name: str, room: str = "r", **more: Any) -> Moderation:
    return Moderation(1, room, clock.unix_ms(), kind, name, by="mod", **more)


def mute(user: str, until_ms: int, room: str = "r") -> Moderation:
    return rule(RuleKind.MUTE, user, room, until_ms=until_ms)


class Ingress:
    """The rules of one ingress, and how far it has read the topic."""

    def __init__(self, topic: FakeLogWriter, seed: int = 1) -> None:
        self.topic = topic
        self.rules = Rules()
        self.rules.are_read = True
        self.metrics = Metrics("ingress")
        self.withdrawals = Withdrawals(topic, self.rules, self.metrics, Chance(seed))
        self.read = 0

    def follow(self) -> None:
        """Read the topic to its end."""
        while self.read < len(self.topic.written):
            _, key, value = self.topic.written[self.read]
            offset = self.read
            self.read += 1
            if value is None:
                is_lost = self.rules.withdraw(key.decode(), clock.unix_ms())
                (self.withdrawals.on_lost if is_lost else self.withdrawals.on_withdrawn)(key.decode())
                continue
            try:
                record = rule_of(msgspec.json.decode(value, type=Moderation))
                if self.rules.apply(record, offset):
                    self.withdrawals.on_rule(record)
                else:
                    self.withdrawals.on_lost(key.decode())
            except BadRecordError:
                self.withdrawals.on_bad(key.decode())
        self.rules.expire(clock.unix_ms())

    async def set(self, record: Moderation) -> None:
        """Write a rule as a command does: it is in force here at its acknowledgement."""
        await self.topic.put(MODERATION, key_of(record), encode_json(record_of(record)))
        self.rules.apply(record)

    async def live(self) -> None:
        self.follow()
        await self.withdrawals.check()
        self.follow()


def compacted(topic: FakeLogWriter) -> dict[bytes, bytes]:
    """What Kafka keeps for good."""
    last = {key: value for _, key, value in topic.written}
    return {key: value for key, value in last.items() if value is not None}


@pytest.fixture
def now() -> Iterator[ManualClock]:
    made = ManualClock()
    with clock.running_on(made):
        yield made


async def test_rules_that_are_over_leave_the_topic_and_the_others_stay(now: ManualClock) -> None:
    topic = FakeLogWriter()
    ingress = Ingress(topic)
    soon = clock.unix_ms() + 60_000
    lasting = [
        mute("for-good", FOR_GOOD),
        mute("long", clock.unix_ms() + 10**9),
        rule(RuleKind.MODE, "slow_s", value=5),
        rule(RuleKind.MODE, "dissolved", value=True),
        rule(RuleKind.WORD, "a/b", value="mask"),
    ]
    over = [
        mute("ended", soon),
        mute("lifted", 0),
        rule(RuleKind.BAN, "lifted", until_ms=0),
        rule(RuleKind.MODE, "slow_s", room="other", value=0.0),
        rule(RuleKind.MODE, "allow", value=[]),
        rule(RuleKind.WORD, "gone/", value=None),
    ]
    for record in (*lasting, *over):
        await ingress.set(record)
    await ingress.live()
    now.now_s += WITHDRAW_MS / 1000 - 1
    await ingress.live()
    assert set(compacted(topic)) == set(map(key_of, (*lasting, *over))), "a request may still refer to them by its id"
    now.now_s += LONG_S
    await ingress.live()
    assert set(compacted(topic)) == set(map(key_of, lasting))
    assert ingress.rules.numbers == {RuleKind.MODE: 1, RuleKind.MUTE: 2, RuleKind.BAN: 0, RuleKind.WORD: 1, RuleKind.HOST: 0}


async def test_a_rule_that_is_set_while_its_key_is_withdrawn_holds_and_is_written_again(now: ManualClock) -> None:
    topic = FakeLogWriter()
    one, other = Ingress(topic, 1), Ingress(topic, 2)
    await one.set(mute("u", 0))
    for ingress in (one, other):
        await ingress.live()
    now.now_s += LONG_S
    again = mute("u", FOR_GOOD)
    await topic.put(MODERATION, key_of(again), encode_json(again))
    await other.withdrawals.check()  # it has not read the new record yet
    assert compacted(topic) == {}, "so the topic would lose it"
    for ingress in (one, other):
        await ingress.live()
        assert ingress.rules.muted("r", "u", clock.unix_ms()) == again
    now.now_s += 5
    for ingress in (one, other):
        await ingress.live()
    repeat = encode_json(msgspec.structs.replace(again, repeats=1))
    assert compacted(topic) == {key_of(again): repeat}
    repeated = [ingress.metrics.counter(metric_catalog.RULES_REPEATED)._value.get() for ingress in (one, other)]
    assert sum(repeated) == 1, "the second one has read that the first one did"
    now.now_s += LONG_S
    await one.live()
    assert compacted(topic) == {key_of(again): repeat}


async def test_an_ingress_that_starts_between_a_lost_rule_and_its_repetition_writes_it_again(now: ManualClock) -> None:
    topic = FakeLogWriter()
    records = [rule(RuleKind.WORD, "w", value="mask"), rule(RuleKind.MODE, "no_media", value=True), mute("u", FOR_GOOD)]
    for record in records:
        await topic.put(MODERATION, key_of(record), encode_json(record))
        await topic.put(MODERATION, key_of(record), None)
    late = Ingress(topic)
    await late.live()
    now.now_s += 5
    await late.live()
    assert set(compacted(topic)) == set(map(key_of, records))
    assert late.rules.words == {"r": {"w": WordAction.MASK}}
    assert late.rules.settings("r").no_media


async def test_a_lost_rule_that_was_lifted_meanwhile_is_not_written_again(now: ManualClock) -> None:
    topic = FakeLogWriter()
    ingress = Ingress(topic)
    await ingress.set(mute("u", FOR_GOOD))
    ingress.follow()
    await topic.put(MODERATION, key_of(mute("u", 0)), None)
    await ingress.live()
    await ingress.set(mute("u", 0))
    now.now_s += 10
    await ingress.live()
    assert ingress.rules.muted("r", "u", clock.unix_ms()) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({"until_ms": FOR_GOOD}, {"until_ms": 0}, id="lifted"),
        pytest.param({"until_ms": FOR_GOOD}, {"until_ms": FOR_GOOD, "why": "another"}, id="set again"),
    ],
)
async def test_a_repeat_never_undoes_a_record_that_came_before_it(
    now: ManualClock, before: dict[str, Any], after: dict[str, Any]
) -> None:
    topic = FakeLogWriter()
    one, other = Ingress(topic, 1), Ingress(topic, 2)
    await one.set(rule(RuleKind.BAN, "u", **before))
    await topic.put(MODERATION, b"r/ban/u", None)
    for ingress in (one, other):
        await ingress.live()
    now.now_s += 5
    await other.set(rule(RuleKind.BAN, "u", **after))
    await one.withdrawals.check()  # it has not read that yet, and writes the first rule again behind it
    assert one.metrics.counter(metric_catalog.RULES_REPEATED)._value.get() == 1
    for _ in range(3):
        for ingress in (one, other):
            await ingress.live()
            held = ingress.rules.banned("r", "u", clock.unix_ms())
            assert (held.why if held else None) == after.get("why"), "the later record holds everywhere"
        now.now_s += 5
    late = Ingress(topic, 3)
    late.read = len(topic.written) - 1  # Kafka has deleted all but the last record
    late.follow()
    held = late.rules.banned("r", "u", clock.unix_ms())
    assert (held.why if held else None) == after.get("why"), "and is written again"


async def test_rules_that_ended_leave_memory_and_the_topic_faster_than_hosts_make_them(
    now: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_s, spread_s, per_s = 90, 60, 3 * LEAST_PER_CHECK
    monkeypatch.setattr(ended_rules, "WITHDRAW_MS", 1000 * wait_s)
    monkeypatch.setattr(withdrawals, "SPREAD_MS", 1000 * spread_s)
    topic = FakeLogWriter()
    ingress = Ingress(topic)
    for second in range(3 * (wait_s + spread_s)):
        for number in range(per_s):
            await ingress.set(mute(f"u{second}-{number}", clock.unix_ms() + 1000))
        await ingress.live()
        now.now_s += 1
    assert ingress.rules.numbers[RuleKind.MUTE] <= 2 * per_s
    assert len(compacted(topic)) <= per_s * (wait_s + spread_s + 60)
    for _ in range(wait_s + spread_s + 120):
        await ingress.live()
        now.now_s += 1
    assert compacted(topic) == {}


async def test_beyond_half_of_the_cap_the_oldest_leave_the_topic_without_a_wait_and_none_that_holds(now: ManualClock) -> None:
    ended = EndedRules(most=1000)
    later = [mute(f"later{number}", clock.unix_ms() + 10**9) for number in range(400)]
    over = [mute(f"over{number}", 0) for number in range(600)]
    for each in (*later, *over):
        ended.note(each, clock.unix_ms(), 0)
    gone: list[bytes] = []
    for _ in range(100):
        found = ended.due(clock.unix_ms())
        for key in found:
            ended.withdrawn(key)
        gone += found
    assert len(gone) == 500
    assert set(gone) <= set(map(key_of, over))
    assert len(ended) == 500 <= MAX_ENDED


async def test_a_failure_of_the_withdrawals_is_counted_and_they_go_on(now: ManualClock) -> None:
    topic = FakeLogWriter()
    ingress = Ingress(topic)
    await ingress.set(mute("u", 0))
    await ingress.live()
    now.now_s += LONG_S
    failures = iter([RuntimeError("a defect"), None])
    check = ingress.withdrawals.check

    async def failing() -> None:
        if (failure := next(failures, None)) is not None:
            raise failure
        await check()

    ingress.withdrawals.check = failing  # type: ignore[method-assign]
    with capture_logs() as logged:
        running = asyncio.create_task(ingress.withdrawals.run())
        await now.advance(3 * CHECK_S)
        running.cancel()
    assert [event["event"] for event in logged] == ["withdrawals_failed"]
    assert ingress.metrics.counter(metric_catalog.RULES_NOT_WITHDRAWN)._value.get() == 1
    assert compacted(topic) == {}


async def test_a_withdrawal_that_is_not_acknowledged_is_tried_again_and_the_pace_is_bounded(now: ManualClock) -> None:
    topic = FakeLogWriter()
    ingress = Ingress(topic)
    for number in range(3 * LEAST_PER_CHECK):
        await ingress.set(mute(f"u{number}", 0))
    await ingress.live()
    now.now_s += LONG_S
    topic.error = UnsentError(Unsent.TIMEOUT, "no ack")
    await ingress.live()
    topic.error = None
    await ingress.live()
    assert len(compacted(topic)) == 2 * LEAST_PER_CHECK
    now.now_s += 61
    for _ in range(3):
        await ingress.live()
    assert compacted(topic) == {}


async def test_two_ingresses_withdraw_what_is_over_once(now: ManualClock) -> None:
    topic = FakeLogWriter()
    ingresses = [Ingress(topic, seed) for seed in (1, 2)]
    for number in range(20):
        await ingresses[0].set(mute(f"u{number}", 0))
    for _ in range(int(LONG_S)):
        now.now_s += 1
        for ingress in ingresses:
            await ingress.live()
    assert compacted(topic) == {}
    assert [value for _, _, value in topic.written].count(None) == 20


def test_no_more_ended_rules_are_kept_than_allowed(now: ManualClock) -> None:
    ended, chance = EndedRules(most=50), Random(1)
    for second in range(3600):
        at_ms = clock.unix_ms() + 1000 * second
        for _ in range(5):
            ended.note(mute(f"u{chance.randrange(10**6)}", at_ms), at_ms, chance.randrange(1000))
        for key in ended.due(at_ms)[:2]:
            ended.withdrawn(key)
        assert len(ended) <= 50
        assert len(ended._order) <= 2 * 50 + 1


@pytest.mark.parametrize(
    ("kind", "name", "over", "later"),
    [
        pytest.param(RuleKind.WORD, "w", None, "blur", id="a word with an action of a later version"),
        pytest.param(RuleKind.MODE, "no_media", False, "for_guests", id="a mode with a value of a later version"),
    ],
)
async def test_a_rule_of_a_later_version_is_not_withdrawn_for_the_one_that_was_over(
    now: ManualClock, kind: RuleKind, name: str, over: object, later: str
) -> None:
    topic = FakeLogWriter()
    here = Ingress(topic)
    await here.set(rule(kind, name, value=over))
    await here.live()
    await topic.put(MODERATION, key_of(rule(kind, name)), encode_json(rule(kind, name, value=later)))
    for _ in range(3):
        now.now_s += LONG_S
        await here.live()
    assert len(compacted(topic)) == 1
