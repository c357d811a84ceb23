"""What gateways report, read for the assigned partitions: which users watch each room, and which
gateways live.

Owns how far back the reports of a newly assigned partition are read; the sums are those of
`liveroom.audience`. A record that cannot be read is counted and skipped. Called by
`broadcaster.kafka`.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from broadcaster.assigned import Assigned
from liveroom import clock, topics
from liveroom.audience import Audience
from liveroom.consumers import changes
from liveroom.kafka import Place, TopicReader
from liveroom.kafka_port import Kafka, KafkaError
from liveroom.records.control import PRESENCE_INTERVAL_S, LoadReport, Presence
from liveroom.service import Runtime
from liveroom.tasks import beside
from liveroom.topics import partition_of
from liveroom.turns import TurnBudget

BACK_MS: Final = int(1000 * PRESENCE_INTERVAL_S) + 15_000  # every gateway has listed its users by then
SILENCE_CHECK_S: Final = 0.1
SEARCH_S: Final = 0.1
RETRY_S: Final = 1.0
RECORD_COST: Final = 50
LIVE_COST: Final = 5  # of a report for one partition
log = structlog.get_logger()


@dataclass(slots=True)
class _Behind:
    """An audience that is read again from a place on.

    `place`: None while it is searched for. `is_read`: the reader has gone back to it.
    """

    audience: Audience
    place: Place | None = None
    is_read: bool = False


class AudienceReader:
    """Passes on what gateways report.

    `assigned` is the caller's own mapping of the partitions that are assigned now, by their
    numbers. The audience of one that was assigned just now is behind (`Audience.fall_behind`).
    """

    def __init__(self, kafka: Kafka, runtime: Runtime, assigned: Mapping[int, Assigned]) -> None:
        self._kafka = kafka
        self._runtime = runtime
        self._assigned = assigned
        self._behind: dict[int, _Behind] = {}
        self._kafka_ms: int | None = None
        self._turns = TurnBudget()

    async def read_presence(self) -> None:
        """Pass on who is in which room until cancelled.

        A newly assigned partition begins with the reports of the past minute. The others are read
        on while its place is searched for, which takes long where it has no leader.
        """
        reader = TopicReader(self._kafka, topics.PRESENCE, self._runtime.metrics)
        async with beside(self._search(reader)):
            async for found in changes(reader, topics.PRESENCE, Presence, self._runtime):
                for change in found:
                    if change.record is not None:
                        await self._pass_on(change.record)
                self._catch_up(reader)

    async def _pass_on(self, presence: Presence) -> None:
        """Give a report to its partition. A room that became local at a gateway gets its card."""
        number = partition_of(presence.room, self._kafka.settings.partitions)
        found = self._assigned.get(number)
        if found is None:
            return
        partition = found.partition
        if partition.audience.is_behind and not self._is_read_again(number, partition.audience):
            return  # it comes again
        if await self._turns.run(partition.audience.taking(presence, clock.monotonic_s())):
            partition.rooms.want_card(presence.room)
        partition.wake()
        await self._turns.spend(RECORD_COST + (len(presence.came) + len(presence.left)) // 4)

    async def _search(self, reader: TopicReader) -> None:
        """Search for the places of assigned partitions, each by itself, until cancelled."""
        async with asyncio.TaskGroup() as searches:
            while True:
                for number, assigned in list(self._assigned.items()):
                    audience, behind = assigned.partition.audience, self._behind.get(number)
                    if audience.is_behind and (behind is None or behind.audience is not audience):
                        behind = self._behind[number] = _Behind(audience)
                        searches.create_task(self._find(reader, number, behind))
                await clock.sleep(SEARCH_S)

    async def _find(self, reader: TopicReader, number: int, behind: _Behind) -> None:
        """Find a partition's place, however often that fails, for as long as it is assigned."""
        while (assigned := self._assigned.get(number)) is not None and assigned.partition.audience is behind.audience:
            now_ms = self._kafka_ms if self._kafka_ms is not None else clock.unix_ms()
            try:
                behind.place = await reader.place_at(number, now_ms - BACK_MS)
            except (KafkaError, OSError) as error:
                log.warning("presence_unread", partition=number, error=repr(error))
                await clock.sleep(RETRY_S)
            else:
                return

    def _is_read_again(self, number: int, audience: Audience) -> bool:
        behind = self._behind.get(number)
        return behind is not None and behind.audience is audience and behind.is_read

    def _catch_up(self, reader: TopicReader) -> None:
        """Go back to the places that were found; publish again where all of it was read."""
        for number, behind in list(self._behind.items()):
            assigned = self._assigned.get(number)
            if assigned is None or assigned.partition.audience is not behind.audience:
                del self._behind[number]
                continue
            if behind.place is None:
                continue
            if not behind.is_read:
                behind.is_read = True
                reader.go_back(number, behind.place)
            if reader.position(number) >= behind.place.end:
                del self._behind[number]
                behind.audience.catch_up()
                assigned.partition.wake()

    async def read_gateways(self) -> None:
        """Pass on which gateways live until cancelled; counts of those that do not are left out."""
        reader = TopicReader(self._kafka, topics.GATEWAYS, self._runtime.metrics)
        async for found in changes(reader, topics.GATEWAYS, LoadReport, self._runtime):
            for change in found:
                now_s = clock.monotonic_s()
                self._kafka_ms = change.written_ms
                if (report := change.record) is None:
                    continue
                for each in self._assigned.values():
                    each.partition.audience.gateway_reported(report.gateway, report.generation, change.written_ms, now_s)
                await self._turns.spend(LIVE_COST * len(self._assigned))

    async def watch_silence(self) -> None:
        """Let partitions notice gateways that fell silent until cancelled."""
        while True:
            await clock.sleep(SILENCE_CHECK_S)
            for each in list(self._assigned.values()):
                each.partition.audience.expire(clock.monotonic_s())
                await clock.sleep(0)
                if each.partition.audience.has_unpublished:
                    each.partition.wake()
