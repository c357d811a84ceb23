"""Pulls: messages of a room that viewers missed, from the ring or read again from the log.

Owns `GET /v1/rooms/{room}/messages`. Pulls share their work: one read at a time reads a partition
for all pulls that wait, slices are kept and continued (`edge.pull_slices`), and the same question
is answered once for everybody who waits for it. The work shares the loop with the fan-out in slices
of time (`edge.slices`). Refuses a pull without a valid token (`edge.pull_grants`), beyond the
budgets of its user and address (`edge.pull_limits`), of a room that the ticket does not name, and
of a banned user. Messages older than `pull_back_s` are not read.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import structlog
from aiohttp import web

from edge.gateway import Gateway
from edge.pull_answer import PullQuery, answer, empty_answer, read_query
from edge.pull_limits import PullLimit, PullLimitError, PullLimits
from edge.pull_reads import RoomRange, read_rooms
from edge.pull_slices import KEPT_S, KeptSlices, LogSlice, Part
from edge.room import Room
from edge.slices import Slices
from edge.upgrade import Upgrades, bearer
from liveroom import clock, metric_catalog
from liveroom.broadcast_log import LogReadError
from liveroom.errors import Code, ProblemError
from liveroom.kafka_port import Kafka, KafkaError
from liveroom.service import Runtime
from liveroom.tasks import end_tasks
from liveroom.topics import partition_of, room_hash
from liveroom.web import json_response
from liveroom.wire import encode_frame

TIMEOUT_S: Final = 4.0
CLOSE_S: Final = 0.5
READS: Final = 4
MAX_QUESTIONS: Final = 1000  # that wait for an answer at the same time
UNWATCHED_S: Final = 0.5  # how old the end may be up to which a room without viewers here is read
BUSY: Final = "busy"
REFUSALS: Final = (Code.SCHEMA, Code.ROOM_INVALID, Code.TOKEN_INVALID, Code.FORBIDDEN, Code.BANNED)
OUTCOMES: Final = ("ring", "read", "shared", "empty", "failed", "refused")
log = structlog.get_logger()


class _Want(NamedTuple):
    """A read that a pull waits for: `range` continues `kept`, where something was read before."""

    range: RoomRange
    kept: LogSlice | None
    answer: "asyncio.Future[LogSlice]"

    def covers(self, room: int, offset: int, stop: int) -> bool:
        start = self.range.start if self.kept is None else self.kept.start
        return self.range.room == room and start <= offset and self.range.stop >= stop


class _Question(NamedTuple):
    """Pulls with the same question get the same answer."""

    room: str
    query: PullQuery


class Pulls:
    """The pulls of one gateway.

    `next_offset(partition)` returns the first offset that the fan-out has not read.
    """

    def __init__(
        self,
        kafka: Kafka,
        gateway: Gateway,
        upgrades: Upgrades,
        runtime: Runtime,
        next_offset: Callable[[int], int],
    ) -> None:
        self._kafka = kafka
        self._gateway = gateway
        self._upgrades = upgrades
        self._settings = gateway.settings
        self._next_offset = next_offset
        self._limits = PullLimits(gateway.settings)
        self._slices = Slices()
        self._answers: dict[_Question, asyncio.Task[bytes]] = {}
        self._wanted: dict[int, list[_Want]] = {}
        self._reading: dict[int, asyncio.Task[None]] = {}
        self._current: dict[int, list[_Want]] = {}
        self._kept = KeptSlices()
        self._ends: dict[int, tuple[float, int]] = {}
        self._reads = asyncio.Semaphore(READS)
        self._metrics = runtime.metrics
        self._counts = {outcome: runtime.metrics.counter(metric_catalog.PULLS, outcome) for outcome in OUTCOMES}
        reasons = [BUSY, *(limit.value for limit in PullLimit), *(code.value for code in REFUSALS)]
        runtime.metrics.exist(metric_catalog.PULLS_REFUSED, reasons)
        upgrades.app.router.add_get("/v1/rooms/{room}/messages", self._pull, allow_head=False)

    async def close(self) -> None:
        """Cancel the reads that are under way; pulls that wait for them are answered with 503."""
        await end_tasks(*self._reading.values())
        if self._answers:
            await asyncio.wait(self._answers.values(), timeout=CLOSE_S)
        await end_tasks(*self._answers.values())

    # ---- the request
    async def _pull(self, request: web.Request) -> web.StreamResponse:
        try:
            return json_response(await self._admitted(request))
        except ProblemError as problem:
            limit = problem.limit.value if isinstance(problem, PullLimitError) else problem.code.value
            self._refuse(BUSY if problem.code is Code.QUEUE_UNAVAILABLE else limit)
            raise
        except (KafkaError, LogReadError, TimeoutError) as error:
            self._counts["failed"].inc()
            log.warning("pull_failed", error=repr(error))
            raise ProblemError(Code.QUEUE_UNAVAILABLE, "the log did not answer in time", retry_after_s=1) from None

    def _refuse(self, reason: str) -> None:
        self._counts["refused"].inc()
        self._metrics.counter(metric_catalog.PULLS_REFUSED, reason).inc()

    async def _admitted(self, request: web.Request) -> bytes:
        """Return the answer to a pull, or raise `ProblemError` where it is refused."""
        name = request.match_info["room"]
        grant = self._gateway.grants.find(bearer(request))
        address = self._upgrades.address_of(request)
        self._limits.take(grant.user, address, clock.monotonic_s())
        grant.check(name)
        refused = self._gateway.joins.refusal_by_rules(grant.user, grant.role, grant.ticket_rooms, name)
        if refused is not None:
            raise ProblemError(refused.code, refused.why)
        query = read_query(request.query, partition_of(name, self._settings.kafka.partitions))
        async with asyncio.timeout(TIMEOUT_S):
            body = await self._shared_answer(_Question(name, query))
            await self._slices.wait_turn()  # a thousand wait for the same answer: sending them all takes 200 ms
        self._limits.charge(grant.user, address, len(body), clock.monotonic_s())
        return body

    # ---- the answer
    async def _shared_answer(self, question: _Question) -> bytes:
        """Return the answer to a question, made once for all who wait for it."""
        task = self._answers.get(question)
        if task is not None:
            self._counts["shared"].inc()
        elif len(self._answers) >= MAX_QUESTIONS:
            raise ProblemError(Code.QUEUE_UNAVAILABLE, "too many pulls wait for an answer", retry_after_s=1)
        else:
            task = self._answers[question] = asyncio.create_task(self._answer(question))
            task.add_done_callback(lambda done: self._answered(question, done))
        return await asyncio.shield(task)

    def _answered(self, question: _Question, task: "asyncio.Task[bytes]") -> None:
        del self._answers[question]
        if not task.cancelled():
            task.exception()  # all who waited for it may have gone

    async def _answer(self, question: _Question) -> bytes:
        name, query = question
        hash_, partition = room_hash(name), partition_of(name, self._settings.kafka.partitions)
        if query.is_empty:
            self._counts["empty"].inc()
            room = self._gateway.hub.rooms.get(hash_)
            epoch = room.epoch if room is not None else None
            return encode_frame(empty_answer(name, partition, query, self._stop(hash_, partition), epoch))
        stop, log_slice, room = await self._slice(hash_, partition, query)
        is_whole = log_slice.stop >= stop
        if room is not None and room.epoch is not None and room.ring_from is not None:
            is_whole = room.ring_from <= log_slice.stop  # otherwise the ring has moved on meanwhile
            if is_whole:
                live = [Part(room.epoch, prepared) for prepared in room.ring if prepared.offset >= log_slice.stop]
                log_slice = log_slice._replace(parts=[*log_slice.parts, *live])
        return encode_frame(await self._slices.run(answer(name, partition, query, log_slice, is_whole=is_whole)))

    # ---- where the answer comes from
    async def _slice(self, hash_: int, partition: int, query: PullQuery) -> tuple[int, LogSlice, Room | None]:
        """Return what a room has in the log from the wanted offset up to its ring, or where it
        has none, up to what the fan-out has read. That offset comes first.
        """
        rooms = self._gateway.hub.rooms
        room = rooms.get(hash_)
        if room is not None and query.is_held_by(room):
            self._counts["ring"].inc()
            start = room.ring_from or 0
            return start, LogSlice(0, start, (), is_cut=False, at_s=0.0), room
        stop = self._stop(hash_, partition)
        kept = self._kept.find(hash_, partition, query.offset, clock.monotonic_s())
        if kept is not None and kept.covers(query.offset, stop):
            self._counts["shared"].inc()
            return stop, kept, room
        for want in (*self._current.get(partition, ()), *self._wanted.get(partition, ())):
            if want.covers(hash_, query.offset, stop):
                self._counts["shared"].inc()
                return stop, await asyncio.shield(want.answer), rooms.get(hash_)
        self._counts["read"].inc()
        found: asyncio.Future[LogSlice] = asyncio.get_running_loop().create_future()
        range_ = RoomRange(hash_, query.offset if kept is None else kept.stop, stop)
        self._wanted.setdefault(partition, []).append(_Want(range_, kept, found))
        if partition not in self._reading:
            self._reading[partition] = asyncio.create_task(self._read(partition))
        return stop, await asyncio.shield(found), rooms.get(hash_)

    def _stop(self, hash_: int, partition: int) -> int:
        """Return the offset up to which the log must be read for a room."""
        room = self._gateway.hub.rooms.get(hash_)
        if room is not None:
            return self._next_offset(partition) if room.ring_from is None else room.ring_from
        now_s = clock.monotonic_s()
        at_s, stop = self._ends.get(partition, (float("-inf"), 0))
        if now_s - at_s >= UNWATCHED_S:
            stop = self._next_offset(partition)
            self._ends[partition] = now_s, stop
        return stop

    # ---- the log
    async def _read(self, partition: int) -> None:
        """Read a partition for the pulls that wait for it, again and again, until none waits."""
        try:
            while wants := self._wanted.pop(partition, None):
                self._current[partition] = wants
                try:
                    async with self._reads:
                        read = await read_rooms(
                            self._kafka,
                            partition,
                            [want.range for want in wants],
                            back_s=self._settings.pull_back_s,
                            slices=self._slices,
                        )
                except (KafkaError, LogReadError, TimeoutError, OSError) as error:
                    _fail(wants, repr(error))
                    continue
                now_s = clock.monotonic_s()
                if read.met is not None:
                    self._kept.keep_index(partition, read.met, now_s)
                for want in wants:
                    log_slice = read.slices[want.range]
                    if want.kept is not None:
                        log_slice = want.kept.joined(log_slice)
                    self._kept.keep(want.range.room, log_slice, now_s)
                    if not want.answer.done():
                        want.answer.set_result(log_slice)
        finally:
            # Whatever ended this task: the pulls that wait must fail, or all later ones would wait
            # with them.
            _fail((*self._current.pop(partition, ()), *self._wanted.pop(partition, ())), "the read was cancelled")
            del self._reading[partition]
            asyncio.get_running_loop().call_later(KEPT_S, lambda: self._kept.expire(clock.monotonic_s()))


def _fail(wants: Sequence[_Want], why: str) -> None:
    for want in wants:
        if not want.answer.done():
            want.answer.set_exception(LogReadError(why))
            want.answer.exception()  # who waited for it may have gone
