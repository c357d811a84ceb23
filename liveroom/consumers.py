"""Consumers that follow a JSON topic for as long as a service runs, also while no broker answers.

Used where a service keeps state from a topic: rules from `moderation`, revoked tokens from
`revocations`, orders from `control`, audiences from `presence`, load reports from `gateways`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from enum import Enum
from typing import Final, Generic, NamedTuple, TypeVar

import structlog

from liveroom import clock, metric_catalog, topics
from liveroom.bad_records import BadRecords
from liveroom.far_times import near_revocation, near_rule
from liveroom.kafka import TopicReader
from liveroom.kafka_port import Kafka
from liveroom.moderation import Rules
from liveroom.records.codec import BadRecord, BadRecordError, JsonReader, JsonRecord
from liveroom.records.control import Moderation, RuleKind, rule_of
from liveroom.records.revocations import Revocation
from liveroom.revocations import Revocations
from liveroom.service import Runtime
from liveroom.topics import Topic

RULES_READ: Final = "moderation"  # the condition of readiness
REVOCATIONS_READ: Final = "revocations"  # likewise
R = TypeVar("R", bound=JsonRecord)
log = structlog.get_logger()


class Change(NamedTuple, Generic[R]):
    """A record of a JSON topic. `record` is None where the key's earlier records were withdrawn.

    `written_ms`: Kafka's time of it, in Unix milliseconds. `is_bad`: there is a record, and it
    cannot be read.
    """

    offset: int
    key: str
    written_ms: int
    record: R | None
    is_bad: bool = False


async def changes(
    reader: TopicReader, topic: Topic, of: type[R], runtime: Runtime, condition: str = "", *, with_bad: bool = False
) -> AsyncIterator[list[Change[R]]]:
    """Start `reader`, then yield what it reads until cancelled.

    Yields at least once a second, an empty list where nothing came. A record that cannot be read is
    counted, logged and passed over, unless `with_bad`. `condition`: a condition of readiness that
    holds once the reader has started.
    """
    read, bad = JsonReader(of).read, BadRecords(runtime.metrics, topic)
    await reader.start_at_last(runtime, condition)
    try:
        if condition:
            runtime.ready(condition)
        async for partition, fetched in reader.read():
            found: list[Change[R]] = []
            for record in fetched:
                key = (record.key or b"").decode(errors="replace")
                try:
                    value = None if record.value is None else read(record.value)
                    found.append(Change(record.offset, key, record.timestamp, value))
                except BadRecordError as error:
                    bad.note(record.offset, error, partition)
                    if with_bad:
                        found.append(Change(record.offset, key, record.timestamp, None, is_bad=True))
            yield found
    finally:
        await reader.stop()


async def records(reader: TopicReader, topic: Topic, of: type[R], runtime: Runtime) -> AsyncIterator[list[tuple[int, R]]]:
    """Yield (offset, record) as `changes` does, without those that were withdrawn."""
    async for found in changes(reader, topic, of, runtime):
        yield [(change.offset, change.record) for change in found if change.record is not None]


async def follow_rules(
    kafka: Kafka,
    rules: Rules,
    runtime: Runtime,
    on_rule: Callable[[Moderation], None] | None = None,
    on_lost: Callable[[str], None] | None = None,
    on_withdrawn: Callable[[str], None] | None = None,
    on_bad: Callable[[str], None] | None = None,
) -> None:
    """Apply every record of `moderation` to `rules` until cancelled, then pass it to `on_rule`.

    A rule that cannot be applied is counted, logged and passed over; the others hold. The other
    functions get the key of a record: `on_withdrawn` where the records of a rule that is over were
    withdrawn, `on_bad` where it cannot be read or applied. `on_lost` gets it where the topic's last
    record is not what holds (`Rules.withdraw`, `Rules.apply`), so that somebody must write that
    again.
    """
    topic = topics.MODERATION
    reader, bad = TopicReader(kafka, topic, runtime.metrics, from_beginning=True), BadRecords(runtime.metrics, topic)
    numbers = {kind: runtime.metrics.gauge(metric_catalog.RULES, kind.value) for kind in RuleKind}
    far = runtime.metrics.counter(metric_catalog.FAR_TIMES, topic.name)
    then = {_Read.LOST: on_lost, _Read.WITHDRAWN: on_withdrawn, _Read.BAD: on_bad}
    async for found in changes(reader, topic, Moderation, runtime, with_bad=True):
        for change in found:
            read = _Read.BAD
            try:
                read = _apply(change, rules, on_rule, far.inc)
            except BadRecordError as error:
                bad.note(change.offset, error)
            except Exception as error:  # no rule ends a service: it would end at every start, as long as the log has the rule
                log.exception("record_unhandled", topic=topic.name, offset=change.offset)
                bad.note(change.offset, BadRecordError(BadRecord.UNHANDLED, repr(error)))
            if (on_key := then.get(read)) is not None:
                on_key(change.key)
        while rules.expire(clock.unix_ms()):
            await clock.sleep(0)
        for kind, number in rules.numbers.items():
            numbers[kind].set(number)
        if reader.caught_up:
            rules.are_read = True
            runtime.ready(RULES_READ)


class _Read(Enum):
    """The effect of a record, or of a withdrawal, of `moderation`."""

    APPLIED = "applied"
    LOST = "lost"
    WITHDRAWN = "withdrawn"
    BAD = "bad"


def _apply(
    change: Change[Moderation], rules: Rules, on_rule: Callable[[Moderation], None] | None, on_far: Callable[[], None]
) -> _Read:
    """Apply a record or a withdrawal, and pass a rule on.

    Calls `on_far` where the rule comes from the future.
    """
    if change.is_bad:
        return _Read.BAD
    if change.record is None:
        return _Read.LOST if rules.withdraw(change.key, clock.unix_ms()) else _Read.WITHDRAWN
    rule = rule_of(change.record)
    if (near := near_rule(rule, change.written_ms)) is not rule:
        rule = near
        on_far()
    if not rules.apply(rule, change.offset):
        return _Read.LOST
    if on_rule is not None:
        on_rule(rule)
    return _Read.APPLIED


async def follow_revocations(
    kafka: Kafka,
    revocations: Revocations,
    runtime: Runtime,
    on_revoked: Callable[[Sequence[Revocation]], Awaitable[None]] | None = None,
) -> None:
    """Apply every record of `revocations` until cancelled; pass new ones to `on_revoked`, together.

    The topic exists. A revocation that cannot be read is counted, logged and passed over.
    """
    topic = topics.REVOCATIONS
    runtime.metrics.follow(metric_catalog.NAMES, revocations.__len__, topic.name)
    far = runtime.metrics.counter(metric_catalog.FAR_TIMES, topic.name)
    reader = TopicReader(kafka, topic, runtime.metrics, from_beginning=True)
    async for found in changes(reader, topic, Revocation, runtime):
        for change in found:
            if change.record is None:
                revocations.withdraw(change.key)
                continue
            if (near := near_revocation(change.record, change.written_ms)) is not change.record:
                far.inc()
            revocations.apply(near)
        revoked = [change.record for change in found if change.record is not None]
        if revoked and on_revoked is not None:
            try:
                await on_revoked(revoked)
            except Exception:  # no record ends a service, as with rules
                log.exception("record_unhandled", topic=topic.name, ids=[each.id for each in revoked[:10]])
        if reader.caught_up and not revocations.are_read:
            revocations.are_read = True
            runtime.ready(REVOCATIONS_READ)
