"""The load reports of all gateways, read from `gateways` for as long as the scheduler runs.

Owns the reading and whether Kafka counts as ready. A report that cannot be read is counted and
passed over. Called by `__main__`.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from liveroom import clock, topics
from liveroom.access import SERVICES
from liveroom.consumers import changes
from liveroom.kafka import TOPICS_S, TopicReader, ensure_topics, waiting
from liveroom.kafka_port import Kafka
from liveroom.records.control import LoadReport
from liveroom.service import Runtime
from scheduler.placement import Placement

READY: Final = "kafka"
ACCESS: Final = SERVICES["scheduler"]


async def follow_load_reports(kafka: Kafka, placement: Placement, runtime: Runtime, on_read: Callable[[float], None]) -> None:
    """Keep `placement` up to date until cancelled; call `on_read` with the time at least once a
    second.

    Starts at the end of the topic: every gateway reports once a second, and older reports would
    only have to be distrusted.
    """
    await waiting(kafka, runtime, READY).until(partial(ensure_topics, kafka, ACCESS.topics, TOPICS_S))
    reader = TopicReader(kafka, topics.GATEWAYS, runtime.metrics)
    async for found in changes(reader, topics.GATEWAYS, LoadReport, runtime, READY):
        now_s = clock.monotonic_s()
        for change in found:
            if change.record is None:
                placement.forget(change.key)
            else:
                placement.update(change.record, now_s)
        on_read(now_s)
