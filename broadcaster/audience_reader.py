"""What gateways report, read for the assigned partitions: how many watch each room, and which
gateways live.

Owns nothing: the sums are those of `liveroom.audience`. A record that cannot be read is counted and
skipped. Called by `broadcaster.kafka`.
"""

from collections.abc import Mapping

from broadcaster.assigned import Assigned
from liveroom import clock, topics
from liveroom.consumers import records
from liveroom.kafka import TopicReader
from liveroom.kafka_port import Kafka
from liveroom.records.control import LoadReport, Presence
from liveroom.service import Runtime
from liveroom.topics import partition_of


class AudienceReader:
    """Passes on what gateways report.

    `assigned` is the caller's own mapping of the partitions that are assigned now, by their
    numbers.
    """

    def __init__(self, kafka: Kafka, runtime: Runtime, assigned: Mapping[int, Assigned]) -> None:
        self._kafka = kafka
        self._runtime = runtime
        self._assigned = assigned

    async def read_presence(self) -> None:
        """Pass on the counts of rooms until cancelled."""
        reader = TopicReader(self._kafka, topics.PRESENCE, self._runtime.metrics)
        async for found in records(reader, topics.PRESENCE, Presence, self._runtime):
            for _, presence in found:
                self._pass_on(presence)

    def _pass_on(self, presence: Presence) -> None:
        """Give a count to its partition. A room that became local at a gateway gets its card."""
        found = self._assigned.get(partition_of(presence.room, self._kafka.settings.partitions))
        if found is None:
            return
        partition = found.partition
        if partition.audience.update(presence, clock.monotonic_s()):
            partition.rooms.want_card(presence.room)
        partition.wake()

    async def read_gateways(self) -> None:
        """Pass on which gateways live until cancelled; counts of those that do not are dropped."""
        reader = TopicReader(self._kafka, topics.GATEWAYS, self._runtime.metrics)
        async for found in records(reader, topics.GATEWAYS, LoadReport, self._runtime):
            now_s = clock.monotonic_s()
            for _, report in found:
                for each in self._assigned.values():
                    each.partition.audience.gateway_reported(report.gateway, report.generation, now_s)
