"""Following a JSON topic for as long as a service runs, through brokers that are not there yet or
no more.

Used by whoever keeps state from a topic: rules from `moderation`, orders from `control`, audiences
from `presence`.
"""

from collections.abc import AsyncIterator, Callable
from typing import Final, TypeVar

import msgspec
import structlog

from liveroom import metric_catalog, topics
from liveroom.kafka import TopicReader
from liveroom.moderation import Rules
from liveroom.records.codec import BadRecord, BadRecordError, JsonReader
from liveroom.records.control import Moderation
from liveroom.registry import Metrics
from liveroom.service import Runtime
from liveroom.settings import KafkaSettings
from liveroom.topics import Topic

RULES_READ: Final = "moderation"  # the condition of readiness
R = TypeVar("R", bound=msgspec.Struct)
log = structlog.get_logger()


def bad_record(metrics: Metrics, topic: Topic, offset: int, error: BadRecordError) -> None:
    """Count and log a record that cannot be used."""
    metrics.counter(metric_catalog.BAD_RECORDS, topic.name, error.reason.value).inc()
    log.error("bad_record", topic=topic.name, offset=offset, error=str(error))


async def records(reader: TopicReader, topic: Topic, of: type[R], runtime: Runtime) -> AsyncIterator[list[tuple[int, R]]]:
    """Give what comes (offset, record) until cancelled; at least once a second an empty list.

    Bad ones are told and passed over.
    """
    read = JsonReader(of).read
    await reader.start_at_last(runtime)
    try:
        async for _, fetched in reader.read():
            found: list[tuple[int, R]] = []
            for record in fetched:
                if record.value is None:
                    continue  # void by now
                try:
                    found.append((record.offset, read(record.value)))
                except BadRecordError as error:
                    bad_record(runtime.metrics, topic, record.offset, error)
            yield found
    finally:
        await reader.stop()


async def follow_rules(
    settings: KafkaSettings, rules: Rules, runtime: Runtime, on_rule: Callable[[Moderation], None] | None = None
) -> None:
    """Keep `rules` as `moderation` tells them, for ever. `on_rule` is told each one."""
    metrics, topic = runtime.metrics, topics.MODERATION
    reader = TopicReader(settings, topic, metrics, from_beginning=True)
    async for found in records(reader, topic, Moderation, runtime):
        for offset, rule in found:
            try:
                rules.apply(rule)
                if on_rule is not None:
                    on_rule(rule)
            except BadRecordError as error:
                bad_record(metrics, topic, offset, error)
            except Exception as error:  # no rule ends a service: it would end at every start, as long as the log has the rule
                log.exception("record_unhandled", topic=topic.name, offset=offset)
                bad_record(metrics, topic, offset, BadRecordError(BadRecord.UNHANDLED, repr(error)))
        if reader.caught_up:
            rules.are_read = True
            runtime.ready(RULES_READ)
