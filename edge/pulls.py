"""What viewers pull: messages of a room that they missed and the ring no longer holds, read again from the log.

Owns `GET /v1/rooms/{room}/messages`. One read of a partition at a time, for everybody who waits for it: a thousand viewers that
ask for the same range cause one read, and what was read is kept a moment for those who come right after. Refuses who is no
viewer here (the pull token of `hello`), who asks too often, and to go back further than `pull_back_s`; says what is not kept.
"""

import asyncio
import re
import time
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
import structlog
from aiohttp import web
from aiokafka.errors import KafkaError

from edge.frames import Frames, purged
from edge.room import Room
from edge.server import Puller, Server
from liveroom import metrics
from liveroom.errors import Code, ProblemError
from liveroom.kinds import RecordType
from liveroom.limits import Bucket
from liveroom.queue import LogReader, LogReadError
from liveroom.records import NO_OFFSET, BadRecordError, Batch, RoomFlags, decode_broadcast, judge
from liveroom.ruling import find_ruling, stamp_of
from liveroom.service import Runtime
from liveroom.settings import EdgeSettings
from liveroom.topics import ROOM_ID, partition_of, room_hash
from liveroom.web import json_response
from liveroom.wire import MessageHead, Pulled, encode_frame

MAX_DIGITS: Final = 18
MAX_MESSAGES: Final = 1000
MAX_ANSWER_BYTES: Final = 512 * 1024
MAX_ROOM_BYTES: Final = 4 * 1024 * 1024  # of one room in one read
KEPT_S: Final = 10.0
TIMEOUT_S: Final = 4.0
READS: Final = 4
OUTCOMES: Final = ("ring", "read", "shared", "failed", "refused")
PULLS_PER_S: Final = 2.0
PULLS_BURST: Final = 10.0
_POS: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,18})\Z")
log = structlog.get_logger()


class Question(NamedTuple):
    """What a viewer asks: messages behind (`after`) and before numbers, from a place in the log on."""

    offset: int
    epoch: int | None
    after_rseq: int | None
    after_seq: int | None
    before_seq: int | None

    def wants(self, line: MessageHead) -> bool:
        """Whether a message is asked for."""
        if self.before_seq is not None and line.seq >= self.before_seq:
            return False
        if self.after_rseq is not None:
            return line.rseq > self.after_rseq
        return self.after_seq is None or line.seq > self.after_seq


class Part(NamedTuple):
    """A room's part of a batch, and the epoch of its numbers."""

    epoch: int
    frames: Frames


class Stretch(NamedTuple):
    """What one room has in the log from `start` to before `stop`. `is_cut`: what lay before `start` is gone."""

    start: int
    stop: int
    parts: Sequence[Part]
    is_cut: bool
    at_s: float


class _Want(NamedTuple):
    room: int
    start: int
    stop: int
    answer: "asyncio.Future[Stretch]"


class Pulls:
    """The pulls of one gateway. `next_offset(partition)`: the first record of a partition that the fan-out has not read."""

    def __init__(self, server: Server, runtime: Runtime, next_offset: Callable[[int], int]) -> None:
        self._server = server
        self._settings = server.settings
        self._next_offset = next_offset
        self._wanted: dict[int, list[_Want]] = {}
        self._reading: dict[int, asyncio.Task[None]] = {}
        self._current: dict[int, list[_Want]] = {}
        self._kept: dict[int, Stretch] = {}
        self._limit = asyncio.Semaphore(READS)
        self._buckets: dict[str, Bucket] = {}
        made = runtime.metrics
        self._counts = {outcome: made.counter(metrics.PULLS, outcome) for outcome in OUTCOMES}
        server.app.router.add_get("/v1/rooms/{room}/messages", self._pull, allow_head=False)

    async def close(self) -> None:
        """End the reads that are under way."""
        for task in list(self._reading.values()):
            task.cancel()
        await asyncio.gather(*self._reading.values(), return_exceptions=True)

    # ---- the request
    async def _pull(self, request: web.Request) -> web.StreamResponse:
        self._server.answering.add(request.protocol)
        try:
            return json_response(encode_frame(await self._answer(request)))
        except ProblemError:
            self._counts["refused"].inc()
            raise
        except (KafkaError, LogReadError, TimeoutError) as error:
            self._counts["failed"].inc()
            log.warning("pull_failed", error=repr(error))
            raise ProblemError(Code.QUEUE_UNAVAILABLE, "the log did not answer in time", retry_after_s=1) from None
        finally:
            self._server.answering.discard(request.protocol)

    async def _answer(self, request: web.Request) -> Pulled:
        name = request.match_info["room"]
        puller = self._who(request)
        if not ROOM_ID.match(name):
            raise ProblemError(Code.ROOM_INVALID)
        if puller.ticket_rooms and name not in puller.ticket_rooms:
            raise ProblemError(Code.FORBIDDEN)
        if (ban := self._server.ban_of(puller.user, puller.role, name)) is not None:
            raise ProblemError(Code.BANNED, ban.why)
        partition = partition_of(name, self._settings.kafka.partitions)
        question = _question(request, partition)
        async with asyncio.timeout(TIMEOUT_S):
            stretch, room = await self._stretch(room_hash(name), partition, question)
        if room is None or room.epoch is None or room.ring_from is None:
            return answer(name, partition, question, stretch, is_whole=True)
        if room.ring_from > stretch.stop:
            return answer(name, partition, question, stretch, is_whole=False)  # the ring has moved on meanwhile
        live = [Part(room.epoch, frames) for frames in room.ring if frames.offset >= stretch.stop]
        return answer(name, partition, question, stretch._replace(parts=[*stretch.parts, *live]), is_whole=True)

    def _who(self, request: web.Request) -> Puller:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        token = token.strip()
        puller = self._server.pullers.get(token)
        if scheme.lower() != "bearer" or puller is None:
            raise ProblemError(
                Code.TOKEN_INVALID, "a pull needs the token of hello, while the connection lasts and some minutes more"
            )
        now_s = time.monotonic()
        bucket = self._buckets.get(token)
        if bucket is None:
            if len(self._buckets) > len(self._server.pullers) + 1000:
                self._buckets = {key: kept for key, kept in self._buckets.items() if key in self._server.pullers}
            bucket = self._buckets[token] = Bucket(PULLS_PER_S, PULLS_BURST, now_s)
        if wait_s := bucket.take(now_s):
            raise ProblemError(Code.RATE_USER, retry_after_s=wait_s)
        return puller

    # ---- where the answer comes from
    async def _stretch(self, room_: int, partition: int, question: Question) -> tuple[Stretch, Room | None]:
        """Return what the room has in the log from the place asked for to the ring, or to what the fan-out has read."""
        room = self._server.hub.rooms.get(room_)
        if room is not None and _ring_holds(room, question):
            self._counts["ring"].inc()
            return Stretch(0, room.ring_from or 0, (), is_cut=False, at_s=0.0), room
        stop = self._ring_start(room_, partition)
        now_s = time.monotonic()
        kept = self._kept.get(room_)
        if kept is not None and kept.start <= question.offset and kept.stop >= stop and now_s - kept.at_s < KEPT_S:
            self._counts["shared"].inc()
            return kept, room
        under_way = (*self._current.get(partition, ()), *self._wanted.get(partition, ()))
        for want in under_way:
            if want.room == room_ and want.start <= question.offset and want.stop >= stop:
                self._counts["shared"].inc()
                return await asyncio.shield(want.answer), self._server.hub.rooms.get(room_)
        self._counts["read"].inc()
        answer: asyncio.Future[Stretch] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(partition, []).append(_Want(room_, question.offset, stop, answer))
        if partition not in self._reading:
            self._reading[partition] = asyncio.create_task(self._read(partition))
        return await asyncio.shield(answer), self._server.hub.rooms.get(room_)

    def _ring_start(self, room_: int, partition: int) -> int:
        room = self._server.hub.rooms.get(room_)
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
                        stretches = await read_rooms(self._settings, partition, wants)
                except (KafkaError, LogReadError, TimeoutError, OSError) as error:
                    _fail(wants, repr(error))
                    continue
                for want in wants:
                    self._kept[want.room] = stretches[want.room]
                    if not want.answer.done():
                        want.answer.set_result(stretches[want.room])
        finally:
            # Whatever broke this off: who waits still must hear of it, or all who come later would wait with them.
            _fail((*self._current.pop(partition, ()), *self._wanted.pop(partition, ())), "the read was broken off")
            del self._reading[partition]
            now_s = time.monotonic()
            self._kept = {room: stretch for room, stretch in self._kept.items() if now_s - stretch.at_s < KEPT_S}


def _fail(wants: Sequence[_Want], why: str) -> None:
    for want in wants:
        if not want.answer.done():
            want.answer.set_exception(LogReadError(why))
            want.answer.exception()  # who waited for it may have gone


async def read_rooms(settings: EdgeSettings, partition: int, wants: Sequence[_Want]) -> dict[int, Stretch]:
    """Read what rooms have in one partition, once for all of them; no further back than `pull_back_s`, found by time."""
    found: dict[int, list[Part]] = {want.room: [] for want in wants}
    sizes = dict.fromkeys(found, 0)
    stops: dict[int, int] = {}
    async with LogReader(settings.kafka, partition) as reader:
        first, end = await reader.bounds()
        floor = await reader.offset_since(time.time_ns() // 1_000_000 - int(settings.pull_back_s * 1000))
        start = max(first, end if floor is None else floor, min(want.start for want in wants))
        stop = max(start, *(want.stop for want in wants))
        ruling = await reader.drive(find_ruling(first, start))
        at = start
        while at < stop:
            records = await reader.read(at, stop)
            for offset, value in records:
                stamp = stamp_of(value)
                if stamp is None:
                    continue
                ruling, counts = judge(ruling, stamp, offset)
                if not counts or stamp.type is not RecordType.BATCH:
                    continue
                for room, part in _parts(value, offset, found):
                    if room in stops:
                        continue
                    found[room].append(part)
                    sizes[room] += len(part.frames.payload)
                    if sizes[room] > MAX_ROOM_BYTES:
                        stops[room] = offset + 1
            at = records[-1][0] + 1
    is_cut = first > 0 or start > first
    return {
        want.room: Stretch(
            min(want.start, start),
            stops.get(want.room, stop),
            found[want.room],
            is_cut and want.start < start,
            time.monotonic(),
        )
        for want in wants
    }


def _parts(value: bytes, offset: int, rooms: Container[int]) -> Iterator[tuple[int, Part]]:
    """Give what some rooms have in a BATCH."""
    try:
        batch = decode_broadcast(value)
    except BadRecordError:
        return
    if not isinstance(batch, Batch):
        return
    for entry, payload in batch.rooms():
        if entry.hash in rooms:
            frames = Frames(
                bytes(payload),
                entry.reliable_size,
                is_deflated=bool(entry.flags & RoomFlags.DEFLATED),
                has_clear=bool(entry.flags & RoomFlags.CLEAR),
                first=entry.first,
                last=entry.last,
                rseq=entry.rseq,
                offset=offset,
            )
            yield entry.hash, Part(entry.epoch, frames)


def _question(request: web.Request, partition: int) -> Question:
    """Read the query, or raise the problem."""
    numbers: dict[str, int | None] = {}
    for name in ("epoch", "after_rseq", "after_seq", "before_seq"):
        text = request.query.get(name)
        if text is not None and not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
            raise ProblemError(Code.SCHEMA, f"{name} is a number from 0 to 2^63")
        numbers[name] = None if text is None else int(text)
    offset = NO_OFFSET
    if pos := request.query.get("pos", ""):
        place = _POS.match(pos)
        if place is None or int(place[1]) != partition:
            raise ProblemError(Code.SCHEMA, "pos is one that a batch, a joined or a pull of this room gave")
        offset = int(place[2])
    return Question(offset, **numbers)


def _ring_holds(room: Room, question: Question) -> bool:
    """Whether the ring has all that is asked for."""
    if room.epoch is None or question.epoch not in {None, room.epoch}:
        return False
    seq, rseq = room.base
    if question.after_rseq is not None:
        return question.after_rseq >= rseq
    return question.after_seq is not None and question.after_seq >= seq


def answer(name: str, partition: int, question: Question, stretch: Stretch, *, is_whole: bool) -> Pulled:
    """Return the messages that are asked for, cleared ones left out; as many whole batches as fit into one answer.

    `is_whole`: the stretch goes on to what viewers here have been pushed; else there is more behind it.
    """
    parts = stretch.parts
    epoch = question.epoch if question.epoch is not None else parts[-1].epoch if parts else None
    parts = [part for part in parts if part.epoch == epoch]
    clears = [clear for part in parts if part.frames.has_clear for clear in part.frames.clears()]
    chosen: list[tuple[int, bytes]] = []
    size = 0
    seq, rseq, stop, is_cut_off = question.after_seq or 0, question.after_rseq or 0, stretch.stop, False
    lowest: int | None = None
    for part in parts:
        frames = part.frames
        lines = []
        if frames.last > (question.after_seq or 0) and (question.after_rseq is None or frames.rseq > question.after_rseq):
            lines = [(line, raw) for line, raw in frames.lines() if question.wants(line)]
        added = sum(len(raw) for _, raw in lines)
        if (
            chosen
            and question.before_seq is None
            and (len(chosen) + len(lines) > MAX_MESSAGES or size + added > MAX_ANSWER_BYTES)
        ):
            stop, is_cut_off = frames.offset, True
            break
        size += added
        for line, raw in lines:
            number = line.rseq if question.after_rseq is not None else line.seq
            lowest = number if lowest is None else min(lowest, number)
            left = purged(line, raw, clears)
            if left is not None:
                chosen.append((line.seq, left))
        seq, rseq = max(seq, frames.last), max(rseq, frames.rseq)
    chosen.sort(key=lambda pair: pair[0])
    after = question.after_rseq if question.after_rseq is not None else question.after_seq
    is_gone = stretch.is_cut and (after is None or lowest is None or lowest > after + 1)
    return Pulled(
        room=name,
        epoch=epoch,
        seq=seq,
        rseq=rseq,
        pos=f"{partition}.{stop}",
        more=is_cut_off or not is_whole,
        gone=is_gone,
        messages=[msgspec.Raw(raw) for _, raw in chosen[-MAX_MESSAGES:]],
    )
