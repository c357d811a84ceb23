"""The load reports of all gateways, read from `gateways` for as long as the scheduler runs.

Owns the reading and whether Kafka counts as ready. A report that cannot be read is counted and
passed over. Called by `__main__`.
"""

from collections.abc import Callable
from typing import Final

from liveroom import clock, topics
from liveroom.consumers import changes
from liveroom.kafka import TopicReader
from liveroom.kafka_port import Kafka
from liveroom.records.control import LoadReport
from liveroom.service import Runtime
from scheduler.placement import Placement

READY: Final = "kafka"


async def follow_load_reports(kafka: Kafka, placement: Placement, runtime: Runtime, on_read: Callable[[float], None]) -> None:
    """Keep `placement` up to date until cancelled; call `on_read` with the time at least once a
    second.

    The topic exists. Starts at its end: every gateway reports once a second, and older reports
    would only have to be distrusted.
    """
    reader = TopicReader(kafka, topics.GATEWAYS, runtime.metrics)
    async for found in changes(reader, topics.GATEWAYS, LoadReport, runtime, READY):
        now_s = clock.monotonic_s()
        for change in found:
            if change.record is None:
                placement.forget(change.key)
            else:
                placement.update(change.record, now_s, change.written_ms)
        on_read(now_s)
