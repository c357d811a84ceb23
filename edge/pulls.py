"""Pulls: messages of a room that viewers missed, from the ring or read again from the log.

Owns `GET /v1/rooms/{room}/messages`. A partition is read once at a time for all pulls that wait: a
thousand viewers that want the same range cause one read, and the slice is kept for `KEPT_S` for
those who come right after. Refuses a pull without a valid token (`edge.pull_grants`), of a room
that the ticket does not name, and of a banned user. Messages older than `pull_back_s` are not read.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import structlog
from aiohttp import web

from edge.gateway import Gateway
from edge.pull_answer import LogSlice, Part, PullQuery, answer, read_query
from edge.pull_reads import RoomRange, read_rooms
from edge.room import Room
from edge.upgrade import Upgrades, bearer
from liveroom import clock, metric_catalog
from liveroom.broadcast_log import LogReadError
from liveroom.errors import Code, ProblemError
from liveroom.kafka_port import Kafka, KafkaError
from liveroom.service import Runtime
from liveroom.tasks import end_tasks
from liveroom.topics import partition_of, room_hash
from liveroom.web import json_response
from liveroom.wire import Pulled, encode_frame

KEPT_S: Final = 10.0
TIMEOUT_S: Final = 4.0
READS: Final = 4
OUTCOMES: Final = ("ring", "read", "shared", "failed", "refused")
log = structlog.get_logger()


class _Want(NamedTuple):
    range: RoomRange
    answer: "asyncio.Future[LogSlice]"

    def covers(self, other: RoomRange) -> bool:
        mine = self.range
        return mine.room == other.room and mine.start <= other.start and mine.stop >= other.stop


class Pulls:
    """The pulls of one gateway.

    `next_offset(partition)` returns the first offset that the fan-out has not read.
    """

    def __init__(
        self, kafka: Kafka, gateway: Gateway, upgrades: Upgrades, runtime: Runtime, next_offset: Callable[[int], int]
    ) -> None:
        self._kafka = kafka
        self._gateway = gateway
        self._upgrades = upgrades
        self._settings = gateway.settings
        self._next_offset = next_offset
        self._wanted: dict[int, list[_Want]] = {}
        self._reading: dict[int, asyncio.Task[None]] = {}
        self._current: dict[int, list[_Want]] = {}
        self._kept: dict[int, LogSlice] = {}
        self._limit = asyncio.Semaphore(READS)
        metrics = runtime.metrics
        self._counts = {outcome: metrics.counter(metric_catalog.PULLS, outcome) for outcome in OUTCOMES}
        upgrades.app.router.add_get("/v1/rooms/{room}/messages", self._pull, allow_head=False)

    async def close(self) -> None:
        """Cancel the reads that are under way."""
        await end_tasks(*self._reading.values())

    # ---- the request
    async def _pull(self, request: web.Request) -> web.StreamResponse:
        with self._upgrades.answering(request):
            try:
                return json_response(encode_frame(await self._answer(request)))
            except ProblemError:
                self._counts["refused"].inc()
                raise
            except (KafkaError, LogReadError, TimeoutError) as error:
                self._counts["failed"].inc()
                log.warning("pull_failed", error=repr(error))
                raise ProblemError(Code.QUEUE_UNAVAILABLE, "the log did not answer in time", retry_after_s=1) from None

    async def _answer(self, request: web.Request) -> Pulled:
        name = request.match_info["room"]
        grant = self._gateway.grants.use(bearer(request), name, clock.monotonic_s())
        if (ban := self._gateway.joins.ban_of(grant.user, grant.role, name)) is not None:
            raise ProblemError(Code.BANNED, ban.why)
        partition = partition_of(name, self._settings.kafka.partitions)
        query = read_query(request.query, partition)
        async with asyncio.timeout(TIMEOUT_S):
            log_slice, room = await self._slice(room_hash(name), partition, query)
        if room is None or room.epoch is None or room.ring_from is None:
            return answer(name, partition, query, log_slice, is_whole=True)
        if room.ring_from > log_slice.stop:
            return answer(name, partition, query, log_slice, is_whole=False)  # the ring has moved on meanwhile
        live = [Part(room.epoch, prepared) for prepared in room.ring if prepared.offset >= log_slice.stop]
        return answer(name, partition, query, log_slice._replace(parts=[*log_slice.parts, *live]), is_whole=True)

    # ---- where the answer comes from
    async def _slice(self, room_: int, partition: int, query: PullQuery) -> tuple[LogSlice, Room | None]:
        """Return what the room has in the log from the wanted offset up to its ring, or where it
        has none, up to what the fan-out has read.
        """
        room = self._gateway.hub.rooms.get(room_)
        if room is not None and query.is_held_by(room):
            self._counts["ring"].inc()
            return LogSlice(0, room.ring_from or 0, (), is_cut=False, at_s=0.0), room
        stop = self._ring_start(room_, partition)
        now_s = clock.monotonic_s()
        kept = self._kept.get(room_)
        if kept is not None and kept.start <= query.offset and kept.stop >= stop and now_s - kept.at_s < KEPT_S:
            self._counts["shared"].inc()
            return kept, room
        wanted = RoomRange(room_, query.offset, stop)
        for want in (*self._current.get(partition, ()), *self._wanted.get(partition, ())):
            if want.covers(wanted):
                self._counts["shared"].inc()
                return await asyncio.shield(want.answer), self._gateway.hub.rooms.get(room_)
        self._counts["read"].inc()
        found: asyncio.Future[LogSlice] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(partition, []).append(_Want(wanted, found))
        if partition not in self._reading:
            self._reading[partition] = asyncio.create_task(self._read(partition))
        return await asyncio.shield(found), self._gateway.hub.rooms.get(room_)

    def _ring_start(self, room_: int, partition: int) -> int:
        room = self._gateway.hub.rooms.get(room_)
        if room is None or room.ring_from is None:
            return self._next_offset(partition)
        return room.ring_from

    # ---- the log
    async def _read(self, partition: int) -> None:
        """Read a partition for the pulls that wait for it, again and again, until none waits."""
        try:
            while wants := self._wanted.pop(partition, None):
                self._current[partition] = wants
                try:
                    async with self._limit:
                        ranges = [want.range for want in wants]
                        slices = await read_rooms(self._kafka, partition, ranges, back_s=self._settings.pull_back_s)
                except (KafkaError, LogReadError, TimeoutError, OSError) as error:
                    _fail(wants, repr(error))
                    continue
                for want in wants:
                    room = want.range.room
                    self._kept[room] = slices[room]
                    if not want.answer.done():
                        want.answer.set_result(slices[room])
        finally:
            # Whatever ended this task: the pulls that wait must fail, or all later ones would wait
            # with them.
            _fail((*self._current.pop(partition, ()), *self._wanted.pop(partition, ())), "the read was cancelled")
            del self._reading[partition]
            now_s = clock.monotonic_s()
            self._kept = {room: log_slice for room, log_slice in self._kept.items() if now_s - log_slice.at_s < KEPT_S}


def _fail(wants: Sequence[_Want], why: str) -> None:
    for want in wants:
        if not want.answer.done():
            want.answer.set_exception(LogReadError(why))
            want.answer.exception()  # who waited for it may have gone
