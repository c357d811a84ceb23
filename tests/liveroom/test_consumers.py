"""Following a topic for ever: nothing that it holds ends the follower."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from blockbuster import BlockBuster

from liveroom import consumers, metric_catalog, topics
from liveroom.kafka_port import AioKafka
from liveroom.moderation import FOR_GOOD, Rules
from liveroom.records.codec import BadRecord
from liveroom.records.control import Moderation, RuleKind
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

    async def records(*_: Any) -> AsyncIterator[list[tuple[int, Moderation]]]:
        yield list(enumerate(told))

    def on_rule(rule: Moderation) -> None:
        if rule.name == "poison":
            raise ZeroDivisionError

    monkeypatch.setattr(consumers, "records", records)
    monkeypatch.setattr(consumers, "TopicReader", lambda *_, **__: Caught())
    rules, runtime = Rules(), Runtime("edge", consumers.RULES_READ)
    await consumers.follow_rules(AioKafka(KafkaSettings()), rules, runtime, on_rule)
    assert rules.banned("r", "u", 1) is not None
    assert runtime.is_ready
    counted = runtime.metrics.counter(metric_catalog.BAD_RECORDS, topics.MODERATION.name, BadRecord.UNHANDLED.value)
    assert counted._value.get() == 1
