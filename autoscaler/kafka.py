"""The autoscaler's part in Kafka: the election, the load reports it reads, the orders it writes.

Owns the group membership: the leader is the owner of the group's only partition of `gateways`. A
follower is as warm as the leader, since every instance reads all reports.
"""

from collections.abc import Callable
from typing import Final

import structlog

from autoscaler.pool import Pool
from liveroom import clock, topics
from liveroom.consumers import records
from liveroom.errors import in_words
from liveroom.kafka import Producer, TopicReader, UnsentError, join_group
from liveroom.kafka_port import Kafka, KafkaError
from liveroom.records.codec import encode_json
from liveroom.records.control import LoadReport, Order
from liveroom.service import Runtime, StartError
from liveroom.waiting import PassingError, passes

GROUP: Final = "autoscaler"
DRY_GROUP: Final = "autoscaler-dry-run"  # a dry run never takes the lead from an instance that acts
RETRY_S: Final = 1.0
LOOK_S: Final = 0.5
ORDER_TIMEOUT_S: Final = 2.0
log = structlog.get_logger()


async def follow_reports(kafka: Kafka, pool: Pool, runtime: Runtime) -> None:
    """Give all load reports to the pool. Never returns."""
    reader = TopicReader(kafka, topics.GATEWAYS, runtime.metrics)
    async for found in records(reader, topics.GATEWAYS, LoadReport, runtime):
        now_s = clock.monotonic_s()
        for _, report in found:
            pool.take_report(report, now_s)


async def lead(kafka: Kafka, on_change: Callable[[bool], None], group: str = GROUP) -> None:
    """Take part in the election and call `on_change` with whether this instance leads.

    An instance that loses the brokers does not lead. Never returns; raises StartError where the
    first attempt fails for a reason that does not pass by itself.
    """
    settings = kafka.settings
    has_joined, logged = False, ""
    while True:
        consumer = kafka.consumer(
            kafka.topic_name(topics.GATEWAYS),
            group_id=f"{settings.prefix}{group}",
            auto_offset_reset="latest",
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(settings.session_timeout_s * 1000 / 6),
            max_poll_interval_ms=60_000,
        )
        try:
            await join_group(consumer, kafka)
            has_joined, logged = True, ""
            while True:
                await consumer.getmany(timeout_ms=int(LOOK_S * 1000))  # the reports themselves are read elsewhere
                on_change(bool(consumer.assignment()))
        except (KafkaError, OSError, PassingError) as error:
            if not (has_joined or passes(error)):
                raise StartError(f"election: {in_words(error)}") from error
            if (why := in_words(error)) != logged:
                logged = why
                log.warning("no_election", error=why)
        finally:
            on_change(False)  # noqa: FBT003 - a callback
            await consumer.stop()
        await clock.sleep(RETRY_S)


async def follow_orders(kafka: Kafka, pool: Pool, runtime: Runtime) -> None:
    """Apply operators' orders to the pool, from the first one in the log on. Never returns."""
    reader = TopicReader(kafka, topics.CONTROL, runtime.metrics, from_beginning=True)
    async for found in records(reader, topics.CONTROL, Order, runtime):
        for _, order in found:
            pool.apply_order(order)
        pool.has_read_orders = pool.has_read_orders or reader.caught_up


async def send_order(producer: Producer, order: Order) -> bool:
    """Write an order into the log; return whether it was written. The next tick tries again.

    What the leader tells of its decisions is not logged: `decided` is, where something changes.
    """
    try:
        await producer.send(topics.CONTROL, encode_json(order), key=order.gateway.encode(), timeout_s=ORDER_TIMEOUT_S)
    except UnsentError as error:
        log.warning("order_unsent", gateway=order.gateway, kind=order.kind.value, error=str(error))
        return False
    if order.decided is None:
        log.info(
            "ordered",
            gateway=order.gateway,
            kind=order.kind.value,
            reason=order.reason,
            rate_per_s=order.rate_per_s,
            by=order.by,
            least=order.least,
        )
    return True
