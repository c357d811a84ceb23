"""Following a topic for ever: nothing that it holds ends the follower."""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from blockbuster import BlockBuster
from structlog.testing import capture_logs

from liveroom import consumers, metric_catalog, topics
from liveroom.kafka_port import AioKafka
from liveroom.moderation import FOR_GOOD, Rules
from liveroom.records.codec import BadRecord, encode_json
from liveroom.records.control import Moderation, RuleKind
from liveroom.records.snapshot import RoomSettings
from liveroom.service import Runtime
from liveroom.settings import KafkaSettings


class Caught:
    """A reader that has read everything."""

    caught_up = True


async def test_a_rule_that_cannot_be_handled_is_counted_and_passed_over(
    monkeypatch: pytest.MonkeyPatch, blocking_calls_fail: BlockBuster
) -> None:
    blocking_calls_fail.functions["os.stat"].deactivate()  # a traceback looks for the source
    told = [Moderation(1, "r", 1, RuleKind.BAN, name, until_ms=FOR_GOOD) for name in ("poison", "u")]

    async def changes(*_: Any, **__: Any) -> AsyncIterator[list[consumers.Change[Moderation]]]:
        yield [consumers.Change(offset, "", 1, rule) for offset, rule in enumerate(told)]

    def on_rule(rule: Moderation) -> None:
        if rule.name == "poison":
            raise ZeroDivisionError

    monkeypatch.setattr(consumers, "changes", changes)
    monkeypatch.setattr(consumers, "TopicReader", lambda *_, **__: Caught())
    rules, runtime = Rules(), Runtime("edge", consumers.RULES_READ)
    await consumers.follow_rules(AioKafka(KafkaSettings()), rules, runtime, on_rule)
    assert rules.banned("r", "u", 1) is not None
    assert runtime.is_ready
    counted = runtime.metrics.counter(metric_catalog.BAD_RECORDS, topics.MODERATION.name, BadRecord.UNHANDLED.value)
    assert counted._value.get() == 1


class Fetched(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int = 5


class Reader:
    """A reader that gives these records once, then ends."""

    caught_up = True

    def __init__(self, *fetched: Fetched) -> None:
        self._fetched = fetched
        self.is_stopped = False

    async def start_at_last(self, runtime: Runtime, condition: str = "") -> None:
        assert condition in {"", "kafka"}
        assert not runtime.is_ready

    async def read(self) -> AsyncIterator[tuple[None, tuple[Fetched, ...]]]:
        yield None, self._fetched

    async def stop(self) -> None:
        self.is_stopped = True


RULE = Moderation(1, "r", 1, RuleKind.BAN, "u", until_ms=FOR_GOOD)
FETCHED = (Fetched(7, b"a", encode_json(RULE)), Fetched(8, b"b", b"{"), Fetched(9, b"c", None))


async def test_a_change_is_a_record_or_its_withdrawal_and_what_cannot_be_read_is_counted() -> None:
    reader, runtime = Reader(*FETCHED), Runtime("edge", "kafka")
    following: Any = reader
    found = [change async for change in consumers.changes(following, topics.MODERATION, Moderation, runtime, "kafka")]
    assert found == [[(7, "a", 5, RULE, False), (9, "c", 5, None, False)]]
    assert runtime.is_ready
    assert reader.is_stopped
    counted = runtime.metrics.counter(metric_catalog.BAD_RECORDS, topics.MODERATION.name, BadRecord.UNDECODABLE.value)
    assert counted._value.get() == 1


async def test_what_a_newer_service_wrote_is_passed_over_logged_once_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def mode(name: str, value: Any) -> bytes:
        return encode_json(Moderation(1, "r", 1, RuleKind.MODE, name, value=value))

    values = [
        mode("emotes_only", value=True),
        encode_json(RULE).replace(b'"ban"', b'"device_ban"'),
        mode("slow_s", 5),
        mode("emotes_only", value=False),
        encode_json(RULE).replace(b'"ban"', b'"device_ban"'),
        encode_json(RULE),
    ]
    reader = Reader(*(Fetched(offset, b"k%d" % offset, value) for offset, value in enumerate(values)))
    monkeypatch.setattr(consumers, "TopicReader", lambda *_, **__: reader)
    rules, runtime = Rules(), Runtime("ingress", "kafka")
    told_bad: list[str] = []
    with capture_logs() as logs:
        await consumers.follow_rules(AioKafka(KafkaSettings()), rules, runtime, on_bad=told_bad.append)
    assert told_bad == ["k0", "k1", "k3", "k4"]
    assert rules.settings("r") == RoomSettings(slow_s=5.0)
    assert rules.banned("r", "u", 1) is not None
    told = [(entry["offset"], entry["error"]) for entry in logs if entry["event"] == "bad_record"]
    assert sorted(offset for offset, _ in told) == [0, 1]
    assert any("emotes_only" in error for _, error in told)
    counted = runtime.metrics.counter(metric_catalog.BAD_RECORDS, topics.MODERATION.name, BadRecord.UNKNOWN.value)
    assert counted._value.get() == 4


async def test_records_leave_out_what_was_withdrawn() -> None:
    following: Any = Reader(*FETCHED)
    runtime = Runtime("edge", "kafka")
    assert [found async for found in consumers.records(following, topics.MODERATION, Moderation, runtime)] == [[(7, RULE)]]


async def test_a_version_that_is_not_read_is_counted_for_each_record_and_logged_once() -> None:
    values = [encode_json(RULE).replace(b'"v":1', b'"v":%d' % version) for version in (2, 2, 3, 2, 1)]
    following: Any = Reader(*(Fetched(offset, b"a", value) for offset, value in enumerate(values)))
    runtime = Runtime("edge", "kafka")
    with capture_logs() as logs:
        found = [found async for found in consumers.records(following, topics.MODERATION, Moderation, runtime)]
    assert found == [[(4, RULE)]]
    assert [line["error"] for line in logs if line["event"] == "bad_record"] == [
        "version: version 2, this reader knows 1",
        "version: version 3, this reader knows 1",
    ]
    counted = runtime.metrics.counter(metric_catalog.BAD_RECORDS, topics.MODERATION.name, BadRecord.VERSION.value)
    assert counted._value.get() == 4
