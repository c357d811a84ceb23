"""What gateways report, read for the assigned partitions: how many watch each room, and which
gateways live.

Owns nothing: the sums are those of `liveroom.audience`. A record that cannot be read is counted and
skipped. Called by `broadcaster.kafka`.
"""

from collections.abc import Callable, Iterable

from broadcaster.partition import Partition
from liveroom import clock, topics
from liveroom.consumers import records
from liveroom.kafka import TopicReader
from liveroom.kafka_port import Kafka
from liveroom.records.control import LoadReport, Presence
from liveroom.service import Runtime
from liveroom.topics import partition_of


class AudienceReader:
    """Passes on what gateways report. `partitions` returns those that are assigned now."""

    def __init__(self, kafka: Kafka, runtime: Runtime, partitions: Callable[[], Iterable[Partition]]) -> None:
        self._kafka = kafka
        self._runtime = runtime
        self._partitions = partitions

    async def read_presence(self) -> None:
        """Pass on the counts of rooms until cancelled."""
        reader = TopicReader(self._kafka, topics.PRESENCE, self._runtime.metrics)
        async for found in records(reader, topics.PRESENCE, Presence, self._runtime):
            for _, presence in found:
                self._pass_on(presence)

    def _pass_on(self, presence: Presence) -> None:
        """Give a count to its partition. A room that became local at a gateway gets its card."""
        number = partition_of(presence.room, self._kafka.settings.partitions)
        for partition in self._partitions():
            if partition.number == number:
                if partition.audience.update(presence, clock.monotonic_s()):
                    partition.rooms.want_card(presence.room)
                partition.wake()

    async def read_gateways(self) -> None:
        """Pass on which gateways live until cancelled; counts of those that do not are dropped."""
        reader = TopicReader(self._kafka, topics.GATEWAYS, self._runtime.metrics)
        async for found in records(reader, topics.GATEWAYS, LoadReport, self._runtime):
            now_s = clock.monotonic_s()
            for _, report in found:
                for partition in self._partitions():
                    partition.audience.gateway_reported(report.gateway, report.generation, now_s)
