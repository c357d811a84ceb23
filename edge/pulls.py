"""What viewers pull: messages of a room that they missed and the ring no longer holds, read again
from the log.

Owns `GET /v1/rooms/{room}/messages`. One read of a partition at a time, for everybody who waits for
it: a thousand viewers that ask for the same range cause one read, and what was read is kept a
moment for those who come right after. Refuses who is no viewer here (the pull token of `hello`),
who asks too often, and to go back further than `pull_back_s`; says what is not kept.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import structlog
from aiohttp import web

from edge.gateway import Gateway
from edge.kafka import RoomRange, read_rooms
from edge.pull_answer import Part, Question, Stretch, answer, read_question
from edge.pull_grants import PullGrant
from edge.room import Room
from edge.upgrade import Upgrades, bearer
from liveroom import clock, metric_catalog
from liveroom.broadcast_log import LogReadError
from liveroom.errors import Code, ProblemError
from liveroom.kafka_port import Kafka, KafkaError
from liveroom.service import Runtime
from liveroom.topics import ROOM_ID, partition_of, room_hash
from liveroom.web import json_response
from liveroom.wire import Pulled, encode_frame

KEPT_S: Final = 10.0
TIMEOUT_S: Final = 4.0
READS: Final = 4
OUTCOMES: Final = ("ring", "read", "shared", "failed", "refused")
log = structlog.get_logger()


class _Want(NamedTuple):
    range: RoomRange
    answer: "asyncio.Future[Stretch]"

    def covers(self, other: RoomRange) -> bool:
        mine = self.range
        return mine.room == other.room and mine.start <= other.start and mine.stop >= other.stop


class Pulls:
    """The pulls of one gateway.

    `next_offset(partition)`: the first record of a partition that the fan-out has not read.
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
        self._kept: dict[int, Stretch] = {}
        self._limit = asyncio.Semaphore(READS)
        metrics = runtime.metrics
        self._counts = {outcome: metrics.counter(metric_catalog.PULLS, outcome) for outcome in OUTCOMES}
        upgrades.app.router.add_get("/v1/rooms/{room}/messages", self._pull, allow_head=False)

    async def close(self) -> None:
        """End the reads that are under way."""
        for task in list(self._reading.values()):
            task.cancel()
        await asyncio.gather(*self._reading.values(), return_exceptions=True)

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
        grant = self._who(request)
        if not ROOM_ID.match(name):
            raise ProblemError(Code.ROOM_INVALID)
        if grant.ticket_rooms and name not in grant.ticket_rooms:
            raise ProblemError(Code.FORBIDDEN)
        if (ban := self._gateway.joins.ban_of(grant.user, grant.role, name)) is not None:
            raise ProblemError(Code.BANNED, ban.why)
        partition = partition_of(name, self._settings.kafka.partitions)
        question = read_question(request.query, partition)
        async with asyncio.timeout(TIMEOUT_S):
            stretch, room = await self._stretch(room_hash(name), partition, question)
        if room is None or room.epoch is None or room.ring_from is None:
            return answer(name, partition, question, stretch, is_whole=True)
        if room.ring_from > stretch.stop:
            return answer(name, partition, question, stretch, is_whole=False)  # the ring has moved on meanwhile
        live = [Part(room.epoch, prepared) for prepared in room.ring if prepared.offset >= stretch.stop]
        return answer(name, partition, question, stretch._replace(parts=[*stretch.parts, *live]), is_whole=True)

    def _who(self, request: web.Request) -> PullGrant:
        return self._gateway.grants.use(bearer(request), clock.monotonic_s())

    # ---- where the answer comes from
    async def _stretch(self, room_: int, partition: int, question: Question) -> tuple[Stretch, Room | None]:
        """Return what the room has in the log from the place asked for to the ring, or to what the
        fan-out has read.
        """
        room = self._gateway.hub.rooms.get(room_)
        if room is not None and question.is_held_by(room):
            self._counts["ring"].inc()
            return Stretch(0, room.ring_from or 0, (), is_cut=False, at_s=0.0), room
        stop = self._ring_start(room_, partition)
        now_s = clock.monotonic_s()
        kept = self._kept.get(room_)
        if kept is not None and kept.start <= question.offset and kept.stop >= stop and now_s - kept.at_s < KEPT_S:
            self._counts["shared"].inc()
            return kept, room
        wanted = RoomRange(room_, question.offset, stop)
        for want in (*self._current.get(partition, ()), *self._wanted.get(partition, ())):
            if want.covers(wanted):
                self._counts["shared"].inc()
                return await asyncio.shield(want.answer), self._gateway.hub.rooms.get(room_)
        self._counts["read"].inc()
        found: asyncio.Future[Stretch] = asyncio.get_running_loop().create_future()
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
        """Answer all who wait for a partition, one read after the other, until nobody does."""
        try:
            while wants := self._wanted.pop(partition, None):
                self._current[partition] = wants
                try:
                    async with self._limit:
                        ranges = [want.range for want in wants]
                        stretches = await read_rooms(self._kafka, partition, ranges, back_s=self._settings.pull_back_s)
                except (KafkaError, LogReadError, TimeoutError, OSError) as error:
                    _fail(wants, repr(error))
                    continue
                for want in wants:
                    room = want.range.room
                    self._kept[room] = stretches[room]
                    if not want.answer.done():
                        want.answer.set_result(stretches[room])
        finally:
            # Whatever broke this off: who waits still must hear of it, or all who come later would
            # wait with them.
            _fail((*self._current.pop(partition, ()), *self._wanted.pop(partition, ())), "the read was broken off")
            del self._reading[partition]
            now_s = clock.monotonic_s()
            self._kept = {room: stretch for room, stretch in self._kept.items() if now_s - stretch.at_s < KEPT_S}


def _fail(wants: Sequence[_Want], why: str) -> None:
    for want in wants:
        if not want.answer.done():
            want.answer.set_exception(LogReadError(why))
            want.answer.exception()  # who waited for it may have gone
