"""Announcements to all rooms that have viewers, at a pace that the rooms' owners can take.

Owns which rooms have viewers, by the gateways' reports in `presence`, and the announcements under
way. Refuses to start while it does not know the rooms yet. If this ingress ends meanwhile, it does
not reach the remaining rooms. A request with the same id, to any ingress, then reaches those and
only those, since owners drop an id that they already have. Called by `moderation_api`.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from ingress.log import LogWriter
from ingress.moderation import CommandContext
from ingress.permissions import BY_KIND
from ingress.requests import Draft, DraftItem, to_record
from liveroom import clock, topics
from liveroom.audience import Audience
from liveroom.bodies import Announcement
from liveroom.consumers import changes, records
from liveroom.errors import Code, ProblemError
from liveroom.kafka import TopicReader, UnsentError
from liveroom.kafka_port import Kafka
from liveroom.kinds import Kind
from liveroom.records.control import LoadReport, Presence
from liveroom.service import Runtime
from liveroom.settings import IngressSettings
from liveroom.tasks import BackgroundTasks
from liveroom.topics import UPLINK

ATTEMPTS: Final = 5
RETRY_S: Final = 1.0
AT_ONCE: Final = 50
log = structlog.get_logger()


class AnnouncementService:
    """The rooms that have viewers, and the announcements to them."""

    def __init__(self, kafka: Kafka, settings: IngressSettings, writer: LogWriter, runtime: Runtime) -> None:
        self._kafka = kafka
        self._settings = settings
        self._writer = writer
        self._runtime = runtime
        self._audience = Audience(publishes=False)
        self._is_known = False
        self._under_way = BackgroundTasks("announcing that a room begins")

    def __len__(self) -> int:
        return len(self._audience)

    def watched_rooms(self) -> list[str]:
        """Return the rooms that have viewers now."""
        if not self._is_known:
            raise ProblemError(Code.NOT_READY, "the rooms with viewers are not known yet", retry_after_s=1)
        self._audience.expire(clock.monotonic_s())
        return self._audience.rooms()

    def start(self, rooms: list[str], context: CommandContext, announcement: Announcement) -> None:
        """Announce in `rooms` in the background, under the command's id."""
        self._under_way.start(self._announce(rooms, context, announcement))

    async def close(self) -> None:
        """Cancel the announcements under way."""
        await self._under_way.cancel()

    async def follow_presence(self) -> None:
        """Keep the rooms up to date with the gateways' reports until cancelled."""
        metrics = self._runtime.metrics
        reader = TopicReader(self._kafka, topics.PRESENCE, metrics, from_beginning=True)
        async for found in records(reader, topics.PRESENCE, Presence, self._runtime):
            now_s = clock.monotonic_s()
            for _, presence in found:
                self._audience.update(presence, now_s)
            self._audience.expire(now_s)
            self._is_known = self._is_known or reader.caught_up

    async def follow_gateways(self, on_reports: Callable[[Sequence[LoadReport], float], None]) -> None:
        """Keep track of the gateways that live until cancelled: a dead one has no viewers.

        Passes new reports, none included, and the time to `on_reports` at least once a second.
        """
        metrics = self._runtime.metrics
        reader = TopicReader(self._kafka, topics.GATEWAYS, metrics)
        async for found in changes(reader, topics.GATEWAYS, LoadReport, self._runtime):
            now_s, reports = clock.monotonic_s(), list[LoadReport]()
            for change in found:
                if (report := change.record) is not None:
                    self._audience.gateway_reported(report.gateway, report.generation, change.written_ms, now_s)
                    reports.append(report)
            on_reports(reports, now_s)

    async def _announce(self, rooms: list[str], context: CommandContext, announcement: Announcement) -> None:
        began_s = clock.monotonic_s()
        pause_s = AT_ONCE / self._settings.announce_rooms_per_s
        items = (DraftItem(BY_KIND[Kind.ANNOUNCEMENT], announcement),)
        reached = 0
        for start in range(0, len(rooms), AT_ONCE):
            part = rooms[start : start + AT_ONCE]
            drafts = [Draft(room, context.id, context.by, items) for room in part]
            reached += sum(await asyncio.gather(*map(self._reach, drafts)))
            if start + AT_ONCE < len(rooms):
                await clock.sleep(pause_s)
        log.info("announced", id=context.id, rooms=len(rooms), reached=reached, took_s=round(clock.monotonic_s() - began_s, 1))

    async def _reach(self, draft: Draft) -> bool:
        """Announce in one room, with retries under the same id; return whether it is written."""
        value = to_record(draft, clock.unix_ms())
        for _ in range(ATTEMPTS):
            try:
                await self._writer.put(UPLINK, draft.room.encode(), value)
            except UnsentError as error:
                log.warning("not_announced", room=draft.room, error=str(error))
                await clock.sleep(RETRY_S)
            else:
                return True
        return False
