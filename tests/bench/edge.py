"""The gateway against what its work costs at least: a bare loop of writes, the same in C, and
aiohttp.

Each pair is measured in alternating rounds in one process, in CPU time (of the kernel's part too);
figures are medians of 9 ratios, with the spread. The viewers are a process of their own
(tests/bench/sink.py).
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_websocket import WebSocketWriter

from edge.admission import Admission
from edge.gateway import Gateway
from edge.hub import SLICE, Delivered, Hub
from edge.keepalive import KeepAlive
from edge.spent_tickets import SpentTickets
from edge.upgrade import Upgrades
from liveroom.connections import Connections
from liveroom.kinds import Kind
from liveroom.moderation import Rules
from liveroom.records.broadcast import (
    ROOM_ENTRY,
    Anchor,
    Batch,
    BatchParts,
    RoomEntry,
    RoomFlags,
    decode_broadcast,
    encode_batch,
)
from liveroom.service import Runtime
from liveroom.settings import EdgeSettings
from liveroom.topics import room_hash
from liveroom.web import serve
from liveroom.wire import BatchHeader, Message, encode_message, pack_payload
from tests.bench.figure import Figure, median
from tests.tickets import OLD, PUBLIC_KEYS

ROUNDS = 9
MEMBERS = 2000
IDLE = 10_000
HUGE = 15_000
HANDSHAKES = 400
MESSAGES = 100  # of one tick of a room with 1,000 messages a second
FOREIGN_ROOMS = 2000
FOREIGN_ROUNDS = 99
SMALL_BYTES = 200
ROOM = "bench"
C_SOURCE = """
#include <sys/socket.h>
int fan_out(const int *fds, int count, const char *frame, int size) {
    int sent = 0;
    for (int i = 0; i < count; i++) if (send(fds[i], frame, size, MSG_DONTWAIT | MSG_NOSIGNAL) == size) sent++;
    return sent;
}
"""


class Rig:
    """A gateway without a queue, beside a bare aiohttp server, in this process."""

    def __init__(
        self,
        gateway: Gateway,
        runner: web.AppRunner,
        connections: Connections,
        port: int,
        bare_port: int,
        bare: list[web.WebSocketResponse],
    ) -> None:
        self.gateway = gateway
        self.runner = runner
        self.connections = connections
        self.port = port
        self.bare_port = bare_port
        self.bare = bare

    @asynccontextmanager
    async def viewers(self, count: int, *, bare: bool = False, joining: bool = True) -> AsyncIterator[None]:
        """So many viewers, in the room or in none, or on bare aiohttp connections, while the block
        runs.
        """
        room = [ROOM] if joining else []
        arguments = (str(self.bare_port), str(count), "") if bare else (str(self.port), str(count), OLD.id, *room)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.bench.sink",
            "127.0.0.1",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert await process.stdout.readline() == b"ready\n"
            there = self.bare if bare else self.gateway.members
            while len(self.joined() if joining else there) < count:  # noqa: ASYNC110 - the gateway has no such event
                await asyncio.sleep(0.05)
            yield
        finally:
            process.stdin.close()
            await process.wait()
            while self.gateway.members or self.bare:  # noqa: ASYNC110 - the gateway has no such event
                await asyncio.sleep(0.05)

    def joined(self) -> Sequence[Any]:
        room = self.gateway.hub.rooms.get(room_hash(ROOM))
        return list(room.members) if room is not None else []

    def deliver(self, batch: Batch) -> float:
        """Fan a batch out to its end; return the longest slice in seconds of this thread's CPU."""
        delivering = self.gateway.hub.deliver(batch, 0, 1, time.monotonic())
        longest = 0.0
        while True:
            began = time.thread_time()
            try:
                next(delivering)
            except StopIteration as done:
                delivered: Delivered = done.value
                assert delivered.frames == len(self.joined())
                assert not delivered.skipped
                assert not self.gateway.queues
                return max(longest, time.thread_time() - began)
            longest = max(longest, time.thread_time() - began)


@asynccontextmanager
async def serving() -> AsyncIterator[Rig]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    settings = EdgeSettings(
        instance="e1",
        ticket_public_keys=PUBLIC_KEYS,
        max_connections=HUGE,
        max_joins_per_s=1e6,
        max_per_address=HUGE,
        address_connections_per_s=1e6,
        address_connections_burst=1e6,
        address_joins_per_s=1e6,
        address_joins_burst=1e6,
        heartbeat_s=600,
    )
    runtime = Runtime("edge")
    runtime.watch_gc()  # as in the service
    gateway = Gateway(settings, Hub(), Rules(), runtime.metrics, 1)
    admission = Admission(gateway, runtime)
    admission.use(settings.read_ticket_keys())
    admission.spent = SpentTickets(uses=HUGE)  # all viewers have one ticket
    upgrades = Upgrades(gateway, admission, runtime)
    bare: list[web.WebSocketResponse] = []

    async def upgrade(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        bare.append(ws)
        with contextlib.suppress(ConnectionError):
            async for _ in ws:
                pass
        bare.remove(ws)
        return ws

    app = web.Application()
    app.router.add_get("/", upgrade)
    async with (
        serve(upgrades.app, "127.0.0.1", 0, shutdown_timeout_s=0.2) as (runner, port),
        serve(app, "127.0.0.1", 0, shutdown_timeout_s=0.2) as (_, bare_port),
    ):
        keeper = asyncio.create_task(KeepAlive(gateway).run())
        yield Rig(gateway, runner, upgrades.connections, port, bare_port, bare)
        keeper.cancel()


def batch_of(lines: Sequence[bytes], room: str = ROOM, first: int = 1) -> tuple[RoomEntry, bytes]:
    last = first + len(lines) - 1
    payload = pack_payload(BatchHeader(room, 7, (first, last), 0, at=1), [], lines)
    flags = RoomFlags.DEFLATED if payload.deflated else 0
    return RoomEntry(room_hash(room), first, last, 0, len(lines), 0, len(payload.data), 0, 7, flags), payload.data


def decoded(*parts: tuple[RoomEntry, bytes]) -> Batch:
    batch = decode_broadcast(encode_batch(BatchParts(1, b"o" * 16, 1, Anchor(0, 0, None), 0, 1, 1, parts)))
    assert isinstance(batch, Batch)
    return batch


def line(seq: int) -> bytes:
    data = msgspec.Raw(b'{"text":"this is what people say %d"}' % (seq * 7919))
    return encode_message(
        Message(seq, Kind.DANMAKU, f"{seq * 2654435761 % 2**64:016x}", f"user{seq % 50}", 1_700_000_000_000, data=data)
    )


Way = Callable[[], Awaitable[float]]


async def compared(ours: Way, *others: Way) -> list[tuple[float, str]]:
    """Return, for each other way, the median ratio of our cost to it and the spread.

    All are warmed up once.
    """
    rounds: list[list[float]] = []
    ways = [ours, *others]
    for number in range(ROUNDS + 1):
        costs = [0.0] * len(ways)
        for place in range(len(ways)):
            index = (number + place) % len(ways)  # each comes first in turn: what ran before it matters
            costs[index] = await ways[index]()
            await asyncio.sleep(0.05)  # the viewers read what came
        rounds.append(costs)
    results = []
    for index in range(1, len(others) + 1):
        ratios = sorted(costs[0] / costs[index] for costs in rounds[1:])
        results.append((statistics.median(ratios), f"{ratios[0]:.3f} to {ratios[-1]:.3f}, {ROUNDS} rounds"))
    return results


def timed(work: Callable[[], object], units: int) -> float:
    """Return the CPU seconds of this thread for each unit of work."""
    began = time.thread_time()
    work()
    return (time.thread_time() - began) / units


def compiled(text: str = C_SOURCE) -> Callable[..., int] | None:
    """Return the loop `fan_out` of a text in C; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "loop.c", Path(folder) / "loop.so"
        source.write_text(text, encoding="utf-8")
        if os.spawnlp(os.P_WAIT, compiler, compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)):
            return None
        function: Callable[..., int] = ctypes.CDLL(str(library)).fan_out
        return function


async def pushes(rig: Rig) -> AsyncIterator[Figure]:
    """One small batch to 2,000 members, against bare loops over the same sockets."""
    text = b'{"seq":1,"kind":"danmaku","id":"0123456789abcdef","user":"u","at":1,"data":{"text":"'
    small = decoded(batch_of([text + b"x" * (SMALL_BYTES - len(text) - 60) + b'"}}']))
    rig.deliver(small)
    members = rig.joined()
    frame = next(iter(rig.gateway.hub.rooms.values())).ring[-1].make(1)
    fds = [member.fd for member in members]

    async def ours() -> float:
        return timed(lambda: rig.deliver(small), MEMBERS)

    async def bare() -> float:
        return timed(lambda: _write(fds, frame), MEMBERS)

    fan_out = compiled()
    array = (ctypes.c_int * MEMBERS)(*fds)

    async def in_c() -> float:
        def loop() -> None:
            assert fan_out is not None
            assert fan_out(array, MEMBERS, frame, len(frame)) == MEMBERS

        return timed(loop, MEMBERS)

    names = ["edge.push_vs_bare", "edge.push_vs_c"]
    ways = [bare] if fan_out is None else [bare, in_c]
    for name, (ratio, spread) in zip(names, await compared(ours, *ways), strict=False):
        yield Figure(name, ratio, "times", f"{len(frame)} bytes to {MEMBERS} members; {spread}")
    if fan_out is None:
        print("# edge.push_vs_c: no C compiler here", flush=True)


async def deliveries(rig: Rig) -> AsyncIterator[Figure]:
    """A busy room's tick to 2,000 viewers, against aiohttp on the same transports, message by
    message and batch by batch.
    """
    lines = [line(seq) for seq in range(1, MESSAGES + 1)]
    entry, payload = batch_of(lines)
    tick = decoded((entry, payload))
    texts = [text.decode() for text in lines[:3]]
    sockets = [aiohttp_over(member.transport) for member in rig.joined()]

    async def ours() -> float:
        return timed(lambda: rig.deliver(tick), MESSAGES * MEMBERS)

    async def one_by_one() -> float:
        began = time.thread_time()
        for text in texts:
            for ws in sockets:
                await ws.send_str(text)
        return (time.thread_time() - began) / (len(texts) * MEMBERS)

    async def whole() -> float:
        began = time.thread_time()
        for ws in sockets:
            await ws.send_bytes(payload)
        return (time.thread_time() - began) / (MESSAGES * MEMBERS)

    (message, message_spread), (batch, batch_spread) = await compared(ours, one_by_one, whole)
    about = f"{MESSAGES} messages, {len(payload)} bytes, to {MEMBERS} viewers"
    yield Figure("edge.delivered_vs_aiohttp", message, "times", f"{about}; {message_spread}")
    yield Figure("edge.batch_vs_aiohttp", batch, "times", f"{about}; {batch_spread}")


def aiohttp_over(transport: asyncio.Transport) -> web.WebSocketResponse:
    """Return aiohttp's connection as it would be on this transport."""
    ws = web.WebSocketResponse()
    ws._writer = WebSocketWriter(BaseProtocol(asyncio.get_running_loop()), transport)
    return ws


async def handshakes(rig: Rig) -> AsyncIterator[Figure]:
    """An upgrade with a ticket, against aiohttp's own without one."""

    def way(*, bare: bool) -> Way:
        async def come() -> float:
            began = time.process_time()
            async with rig.viewers(HANDSHAKES, bare=bare, joining=False):
                return (time.process_time() - began) / HANDSHAKES

        return come

    [(ratio, spread)] = await compared(way(bare=False), way(bare=True))
    yield Figure("edge.handshake_vs_aiohttp", ratio, "times", f"{HANDSHAKES} upgrades at once, ours with a ticket; {spread}")


def _write(fds: Sequence[int], frame: bytes) -> None:
    write = os.write
    for fd in fds:
        write(fd, frame)


def foreign(rig: Rig) -> list[Figure]:
    """A batch of rooms that nobody watches here, and a bare look at each of its entries: what a
    room more costs.
    """
    many = decoded(*(batch_of([line(1)], f"elsewhere-{number}") for number in range(FOREIGN_ROOMS)))
    hub = rig.gateway.hub
    costs, scans = [], []
    for _ in range(FOREIGN_ROUNDS + 1):
        costs.append(timed(lambda: _run(hub, many), FOREIGN_ROOMS) * 1e6)
        scans.append(timed(lambda: _scan(many.entries, hub.rooms), FOREIGN_ROOMS) * 1e6)
    ratios = [cost / scan for cost, scan in zip(costs[1:], scans[1:], strict=True)]
    about = "unpacked and looked up in a bare loop"
    return [
        median("edge.foreign_room_us", costs[1:], "us", "not a ratio: of this machine alone"),
        median("edge.foreign_room_vs_scan", ratios, "times", about),
    ]


def _scan(entries: memoryview, rooms: Mapping[int, object]) -> int:
    return sum(fields[0] in rooms for fields in ROOM_ENTRY.iter_unpack(entries))


def _run(hub: Hub, batch: Batch) -> None:
    for _ in hub.deliver(batch, 0, 1, 0):
        pass


async def measure() -> AsyncIterator[Figure]:
    """Measure all."""
    async with serving() as here:
        gc.collect()
        before = psutil.Process().memory_info().rss
        async with here.viewers(IDLE):
            gc.collect()
            kib = (psutil.Process().memory_info().rss - before) / IDLE / 1024
            yield Figure("edge.kib_per_viewer", kib, "KiB", f"resident memory for each of {IDLE} joined viewers")
        async with here.viewers(HUGE):
            batch = decoded(batch_of([line(seq) for seq in range(1, MESSAGES + 1)]))
            slices, ratios = [], []
            here.deliver(batch)
            frame = next(iter(here.gateway.hub.rooms.values())).ring[-1].make(1)
            fds = [member.fd for member in here.joined()[:SLICE]]
            for _ in range(ROUNDS):
                await asyncio.sleep(0.5)
                slices.append(here.deliver(batch) * 1000)
                await asyncio.sleep(0.5)
                ratios.append(slices[-1] / (timed(lambda: _write(fds, frame), 1) * 1000))
            about = f"the longest of {ROUNDS} fan-outs to {HUGE} members (median {statistics.median(slices):.1f})"
            yield Figure("edge.longest_block_ms", max(slices), "ms", f"{about}; not a ratio: of this machine alone")
            about = f"the longest slice of a fan-out, by bare writes to {SLICE} of the same sockets"
            yield median("edge.longest_block_vs_bare", ratios, "times", about)
        for figure in foreign(here):
            yield figure
        async with here.viewers(MEMBERS):
            async for figure in pushes(here):
                yield figure
            async for figure in deliveries(here):
                yield figure
        async for figure in handshakes(here):
            yield figure
