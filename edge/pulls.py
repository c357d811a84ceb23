"""Pulls: messages of a room that viewers missed, from the ring or read again from the log.

Owns `GET /v1/rooms/{room}/messages`. Pulls share their work: a read serves all pulls near by that
wait (`edge.pull_queue`), slices are kept and continued (`edge.pull_slices`), and the same question
is answered once for everybody who waits for it. Every answer goes on where its query began, or
behind it. The work shares the loop with the fan-out in slices of time (`edge.slices`). Refuses a
pull without a valid token (`edge.pull_grants`), beyond the budgets of its user and address
(`edge.pull_limits`), of a room that the ticket does not name, and of a user that is banned or whose
token was revoked. Messages older than `pull_back_s` are not read.
"""

import asyncio
from collections.abc import Callable, Generator, Sequence
from typing import Final, NamedTuple

import structlog
from aiohttp import web

from edge.gateway import Gateway
from edge.pull_answer import PullQuery, answer, empty_answer, read_query
from edge.pull_grants import PullGrant
from edge.pull_limits import PullLimit, PullLimitError, PullLimits
from edge.pull_queue import LogRead, PullQueue, QueueFullError, RoomRange, WaitingRange
from edge.pull_reads import PartitionRead, read_rooms
from edge.pull_slices import KEPT_S, KeptSlices, LogSlice, Part
from edge.slices import Slices
from edge.upgrade import Upgrades, bearer
from liveroom import clock, metric_catalog, topics
from liveroom.bad_records import BadRecords
from liveroom.broadcast_log import LogReadError, LogVersionError
from liveroom.errors import Code, ProblemError
from liveroom.kafka_port import Kafka, KafkaError
from liveroom.records.codec import BadRecord, BadRecordError
from liveroom.service import Runtime
from liveroom.tasks import BackgroundTasks, end_tasks
from liveroom.topics import partition_of, room_hash
from liveroom.web import REQUEST_ID, USER, json_response
from liveroom.wire import encode_frame

TIMEOUT_S: Final = 4.0
CLOSE_S: Final = 0.5
MAX_QUESTIONS: Final = 1000  # that wait for an answer at the same time
MAX_NOTED: Final = 1000  # bad records, each of which many pulls may meet
UNWATCHED_S: Final = 0.5  # how old the end may be up to which a room without viewers here is read
BUSY: Final = "busy"
REFUSALS: Final = (Code.SCHEMA, Code.ROOM_INVALID, Code.TOKEN_INVALID, Code.REVOKED, Code.FORBIDDEN, Code.BANNED)
OUTCOMES: Final = ("ring", "read", "shared", "empty", "failed", "refused")
log = structlog.get_logger()


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
        self._queue = PullQueue()
        self._found: dict[WaitingRange, asyncio.Future[tuple[LogSlice, str]]] = {}
        self._reading = BackgroundTasks("a read for pulls")
        self._is_closed = False
        self._kept = KeptSlices()
        self._ends: dict[int, tuple[float, int]] = {}
        self._metrics = runtime.metrics
        self._bad = BadRecords(runtime.metrics, topics.BROADCAST)
        self._noted: dict[tuple[int, int], None] = {}
        self._counts = {outcome: runtime.metrics.counter(metric_catalog.PULLS, outcome) for outcome in OUTCOMES}
        reasons = [BUSY, *(limit.value for limit in PullLimit), *(code.value for code in REFUSALS)]
        runtime.metrics.exist(metric_catalog.PULLS_REFUSED, reasons)
        upgrades.app.router.add_get("/v1/rooms/{room}/messages", self._pull, allow_head=False)

    async def close(self) -> None:
        """Cancel the reads that are under way; pulls that wait for them are answered with 503."""
        self._is_closed = True
        await self._reading.cancel()
        self._fail(self._queue.waiting, "the gateway stops")
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
            log.warning("pull_failed", error=repr(error), request_id=request[REQUEST_ID])
            raise ProblemError(Code.QUEUE_UNAVAILABLE, "the log did not answer in time", retry_after_s=1) from None

    def _refuse(self, reason: str) -> None:
        self._counts["refused"].inc()
        self._metrics.counter(metric_catalog.PULLS_REFUSED, reason).inc()

    async def _admitted(self, request: web.Request) -> bytes:
        """Return the answer to a pull, or raise `ProblemError` where it is refused."""
        name = request.match_info["room"]
        grant = self._gateway.grants.find(bearer(request))
        request[USER] = grant.user
        address = self._upgrades.address_of(request)
        self._limits.take(grant.user, address, clock.monotonic_s())
        self._check_revoked(grant)
        grant.check(name)
        refused = self._gateway.joins.refusal_by_rules(grant.user, grant.role, grant.named_rooms, name)
        if refused is not None:
            raise ProblemError(refused.code, refused.why)
        query = read_query(request.query, partition_of(name, self._settings.kafka.partitions))
        async with asyncio.timeout(TIMEOUT_S):
            body = await self._shared_answer(_Question(name, query), grant.user)
            await self._slices.wait_turn()  # a thousand wait for the same answer: sending them all takes 200 ms
        self._limits.charge(grant.user, address, len(body), clock.monotonic_s())
        self._check_revoked(grant)  # it may have waited for seconds
        return body

    def _check_revoked(self, grant: PullGrant) -> None:
        if self._gateway.revocations.revokes(grant.user, grant.device, grant.issued_s):
            raise ProblemError(Code.REVOKED)

    # ---- the answer
    async def _shared_answer(self, question: _Question, user: str) -> bytes:
        """Return the answer to a question, made once for all who wait for it; `user` may be the
        first.
        """
        task = self._answers.get(question)
        if task is not None:
            self._counts["shared"].inc()
        elif len(self._answers) >= MAX_QUESTIONS:
            raise ProblemError(Code.QUEUE_UNAVAILABLE, "too many pulls wait for an answer", retry_after_s=1)
        else:
            task = self._answers[question] = asyncio.create_task(self._answer(question, user))
            task.add_done_callback(lambda done: self._answered(question, done))
        return await asyncio.shield(task)

    def _answered(self, question: _Question, task: "asyncio.Task[bytes]") -> None:
        del self._answers[question]
        if not task.cancelled():
            task.exception()  # all who waited for it may have gone

    async def _answer(self, question: _Question, user: str) -> bytes:
        name, query = question
        hash_, partition = room_hash(name), partition_of(name, self._settings.kafka.partitions)
        room = self._gateway.hub.rooms.get(hash_)
        if query.is_empty:
            self._counts["empty"].inc()
            epoch = room.epoch if room is not None else None
            return encode_frame(empty_answer(name, partition, query, self._stop(hash_, partition), epoch))
        if room is not None and query.is_held_by(room):
            self._counts["ring"].inc()
            stop = room.ring_from or 0
            log_slice = LogSlice(0, stop, (), cut=0, at_s=0.0)
        else:
            stop = self._stop(hash_, partition)
            log_slice = await self._slice(hash_, partition, query.offset, stop, user)
            log_slice = log_slice._replace(parts=log_slice.parts_from(query.offset))
            room = self._gateway.hub.rooms.get(hash_)
        is_whole = log_slice.stop >= stop
        if room is not None and room.epoch is not None and room.ring_from is not None:
            is_whole = room.ring_from <= log_slice.stop  # otherwise the ring has moved on meanwhile
            if is_whole:
                live = [Part(room.epoch, prepared) for prepared in room.ring if prepared.offset >= log_slice.stop]
                end = live[-1].prepared.offset + 1 if live else log_slice.stop
                log_slice = log_slice._replace(parts=[*log_slice.parts, *live], stop=end)
        pulled = await self._slices.run(answer(name, partition, query, log_slice, is_whole=is_whole))
        if pulled.gone:
            self._note_broken(partition, log_slice)
        return encode_frame(pulled)

    def _note_broken(self, partition: int, log_slice: LogSlice) -> None:
        for _, prepared in log_slice.parts:
            if prepared.is_broken:
                self._note(partition, prepared.offset, BadRecordError(BadRecord.UNDECODABLE, "a room's part does not inflate"))

    def _note(self, partition: int, offset: int, error: BadRecordError) -> None:
        """Count a record that cannot be read, and log it, once for all pulls that meet it."""
        if (partition, offset) not in self._noted:
            if len(self._noted) >= MAX_NOTED:
                del self._noted[next(iter(self._noted))]
            self._noted[partition, offset] = None
            self._bad.note(offset, error, partition)

    # ---- where the answer comes from
    async def _slice(self, hash_: int, partition: int, offset: int, stop: int, user: str) -> LogSlice:
        """Return what a room has in the log from `offset` up to `stop`, or the first part of it.

        It ends behind `offset`, unless that is not before `stop`.
        """
        if offset >= stop:  # a gateway that is ahead gave this position, or nobody did: reading there takes a time-out
            self._counts["empty"].inc()
            return LogSlice(offset, offset, (), cut=0, at_s=0.0)
        kept = self._kept.find(hash_, partition, offset, clock.monotonic_s())
        if kept is not None and kept.covers(offset, stop):
            self._counts["shared"].inc()
            return kept
        try:
            waiting = self._queue.add(partition, RoomRange(hash_, offset if kept is None else kept.stop, stop), user)
        except QueueFullError:
            raise ProblemError(Code.QUEUE_UNAVAILABLE, "too many pulls wait for a read", retry_after_s=1) from None
        found, is_first = self._found.get(waiting), False
        if found is None:
            found, is_first = asyncio.get_running_loop().create_future(), True
            self._found[waiting] = found
            self._start_reads()
        read, outcome = await asyncio.shield(found)
        self._counts[outcome if is_first else "shared"].inc()
        joined = self._kept.find(hash_, partition, offset, clock.monotonic_s())
        if joined is not None and joined.stop >= read.stop:
            return joined
        return read if kept is None else kept.joined(read)

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
    def _start_reads(self) -> None:
        while not self._is_closed and (read := self._queue.take()) is not None:
            self._reading.start(self._read(read))

    async def _read(self, read: LogRead) -> None:
        """Make a read, and hand out what it found."""
        failed = list(read.ranges)  # whatever ends this task, or all later pulls would wait with these
        why = "the read was cancelled"
        try:
            result = await read_rooms(
                self._kafka,
                read.partition,
                [waiting.range for waiting in read.ranges],
                back_s=self._settings.pull_back_s,
                slices=self._slices,
            )
            await self._slices.run(self._keep(read, result))
            self._hand_out(read, result)
            failed = []
        except LogVersionError as error:
            failed, why = read.ranges[:1], repr(error)  # the others may begin behind that record
        except (KafkaError, LogReadError, TimeoutError, OSError) as error:
            why = repr(error)
        finally:
            if failed:
                self._queue.end(read, failed)
                self._fail(failed, why)
            self._start_reads()
            asyncio.get_running_loop().call_later(KEPT_S, lambda: self._kept.expire(clock.monotonic_s()))

    def _keep(self, read: LogRead, result: PartitionRead) -> Generator[None, None, None]:
        """Keep what a read found, for later pulls; yields after each step."""
        now_s = clock.monotonic_s()
        if result.met is not None:
            self._kept.keep_index(read.partition, result.met, now_s)
        for offset, error in result.bad:
            self._note(read.partition, offset, error)
        for range_, log_slice in result.slices.items():
            self._kept.extend(range_.room, read.partition, log_slice, now_s)
            yield

    def _hand_out(self, read: LogRead, result: PartitionRead) -> None:
        slices = [result.slices.get(waiting.range) for waiting in read.ranges]
        for waiting in self._queue.served(read, [None if found is None else found.stop for found in slices]):
            self._answer_range(waiting, result.slices[waiting.range], "read" if waiting is read.ranges[0] else "shared")
        rooms, now_s = {range_.room for range_ in result.slices}, clock.monotonic_s()
        for waiting in self._queue.waiting:
            if not waiting.is_read and waiting.partition == read.partition and waiting.range.room in rooms:
                kept = self._kept.find(waiting.range.room, waiting.partition, waiting.range.start, now_s)
                if kept is not None and kept.covers(waiting.range.start, waiting.range.stop):
                    self._queue.answered(waiting)
                    self._answer_range(waiting, kept, "shared")

    def _answer_range(self, waiting: WaitingRange, log_slice: LogSlice, outcome: str) -> None:
        found = self._found.pop(waiting)
        if not found.done():
            found.set_result((log_slice, outcome))

    def _fail(self, failed: Sequence[WaitingRange], why: str) -> None:
        for waiting in failed:
            found = self._found.pop(waiting, None)
            if found is not None and not found.done():
                found.set_exception(LogReadError(why))
                found.exception()  # who waited for it may have gone
