"""A crowd: thousands of viewers in one process, for load and demos. `python -m viewer.load --help`.

Each is one raw connection without tasks; most only count what comes, every `sample`-th one runs the
whole session, so that everything is checked on some. Frames are the same bytes for a whole room, so
each is read once and remembered.
"""

import argparse
import asyncio
import base64
import itertools
import random
import secrets
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec
import orjson

from liveroom.wire import (
    CLOSE,
    PING,
    PONG,
    SUBPROTOCOL,
    TEXT,
    BadFrameError,
    Heartbeat,
    Join,
    ReceivedBatch,
    ServerFrame,
    decode_server_frame,
    encode_frame,
)
from viewer.client import NoEntryError, ask_entry, ask_pull, end_tasks, take_answer
from viewer.session import Disconnect, Effect, Pull, Send, Session, State

REMEMBERED_HEADERS: Final = 1024
REMEMBERED_FRAMES: Final = 256
DELAY_SAMPLES: Final = 20_000
HEARTBEAT_S: Final = 20.0
TICK_S: Final = 0.25
CONNECT_TIMEOUT_S: Final = 10.0
_MASK_BIT: Final = 0x80
_LEN_16: Final = 126
_LEN_64: Final = 127


class Figures(NamedTuple):
    """What a crowd has seen so far.

    Delays in milliseconds over the last samples, None before the first.
    """

    wanted: int
    connected: int
    joined: int
    batches: int
    messages: int
    received_bytes: int
    reconnects: int
    refused: int
    delay_p50_ms: float | None
    delay_p99_ms: float | None


class _Header(msgspec.Struct):
    """What a counting viewer reads of a batch's first line."""

    seq: tuple[int, int]
    at: int


class FrameReader:
    """Cuts a server's byte stream into frames (unmasked, unfragmented, as our edge sends them)."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the (opcode, payload) of every frame that is now complete."""
        buffer = self._buffer + data if self._buffer else data
        frames: list[tuple[int, bytes]] = []
        at, size = 0, len(buffer)
        while size - at >= 2:  # noqa: PLR2004 - a frame's shortest head
            length, start = buffer[at + 1] & 0x7F, at + 2
            if length == _LEN_16:
                start = at + 4
                length = int.from_bytes(buffer[at + 2 : start], "big") if size >= start else sys.maxsize
            elif length == _LEN_64:
                start = at + 10
                length = int.from_bytes(buffer[at + 2 : start], "big") if size >= start else sys.maxsize
            if size - start < length:
                break
            frames.append((buffer[at] & 0x0F, buffer[start : start + length]))
            at = start + length
        self._buffer = buffer[at:]
        return frames


class Link(asyncio.Protocol):
    """One connection of the crowd."""

    __slots__ = ("_crowd", "_head", "_reader", "beat_at", "index", "joined", "pulls", "session", "transport", "turn", "url")

    def __init__(self, crowd: "Crowd", index: int, turn: int, session: Session | None, url: str) -> None:
        self._crowd = crowd
        self.turn = turn
        self.url = url
        self.pulls: dict[str, asyncio.Task[None]] = {}
        self._reader: FrameReader | None = None
        self._head = b""
        self.index = index
        self.session = session
        self.joined = False
        self.beat_at = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Take the upgrade's answer, then frames."""
        if self._reader is None:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self._head.startswith(b"HTTP/1.1 101"):
                self._crowd.refused += 1
                self._close()
                return
            self._reader, data, self._head = FrameReader(), self._head[end + 4 :], b""
            self._opened()
        for opcode, payload in self._reader.feed(data):
            if opcode == TEXT:
                self._crowd.took(self, payload)
            elif opcode == PING:
                self.send(payload, PONG)
            elif opcode == CLOSE:
                self._crowd.closing(self, int.from_bytes(payload[:2], "big") if payload else None)
                self._close()

    def connection_lost(self, _: Exception | None) -> None:
        """Come back, if the crowd still wants that."""
        self._crowd.lost(self)

    def give_up(self) -> None:
        """Wait no longer for the upgrade's answer."""
        if self._reader is None and self.transport is not None:
            self.transport.abort()

    def send(self, payload: bytes, opcode: int = TEXT) -> None:
        """Send a small masked frame (mask of zeros: it hides nothing from a test)."""
        if self.transport is not None and not self.transport.is_closing():
            size = len(payload)
            head = (
                bytes((0x80 | opcode, _MASK_BIT | size))
                if size < _LEN_16
                else bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
            )
            self.transport.write(head + b"\0\0\0\0" + payload)

    def _opened(self) -> None:
        if not self._crowd.wants(self.index, self.turn):
            self._close()
            return
        now = time.monotonic()
        self.beat_at = now + HEARTBEAT_S
        self._crowd.connected += 1
        self._crowd.links[self] = None
        if self.session is None:
            self.send(encode_frame(Join(self._crowd.room_of(self.index))))
        else:
            self.act(self.session.opened(now))

    def act(self, effects: Sequence[Effect]) -> None:
        """Do what the session says."""
        for effect in effects:
            if isinstance(effect, Send):
                self.send(effect.text)
            elif isinstance(effect, Disconnect):
                self._close()
            elif isinstance(effect, Pull):
                self._crowd.pull(self, effect)
            self._crowd.on_effect(f"crowd-{self.index}", effect)

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class Crowd:
    """`viewers` viewers spread over `rooms`.

    Viewers that lose their connection come back through the scheduler.
    """

    def __init__(
        self,
        scheduler_url: str,
        rooms: Sequence[str],
        viewers: int,
        *,
        joins_per_s: float = 1000.0,
        sample: int = 50,
        on_effect: Callable[[str, Effect], None] = lambda *_: None,
    ) -> None:
        self.on_effect = on_effect
        self.links: dict[Link, None] = {}
        self.connected = 0
        self.joined = 0
        self.refused = 0
        self._scheduler_url = scheduler_url
        self._rooms = list(rooms)
        self._viewers = viewers
        self._pause_s = 1 / joins_per_s
        self._sample = sample
        self._batches = self._messages = self._bytes = self._reconnects = 0
        self._delays: deque[float] = deque(maxlen=DELAY_SAMPLES)
        self._headers: OrderedDict[bytes, int] = OrderedDict()
        self._frames: OrderedDict[bytes, ReceivedBatch] = OrderedDict()
        self._decoder = msgspec.json.Decoder(_Header)
        self._http: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pulls: set[asyncio.Task[None]] = set()
        self._beating: asyncio.Task[None] | None = None
        self._stopping = False
        self._turns: dict[int, int] = {}
        self._counter = itertools.count()

    def room_of(self, index: int) -> str:
        """Return the room of viewer `index`."""
        return self._rooms[index % len(self._rooms)]

    async def start(self) -> None:
        """Let everybody come, at the set pace; returns when all have tried once."""
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
        self._beating = asyncio.create_task(self._beat())
        viewers, self._viewers = self._viewers, 0
        await self.grow(viewers, 1 / self._pause_s)
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def grow(self, viewers: int, joins_per_s: float) -> None:
        """Let more come until there are `viewers`; returns when the last one is on its way."""
        first, self._viewers = self._viewers, viewers
        began = time.monotonic()
        for index in range(first, viewers):
            await asyncio.sleep(max(0.0, began + (index - first) / joins_per_s - time.monotonic()))
            if index >= self._viewers:
                return  # it was made smaller meanwhile
            self._turns[index] = turn = next(self._counter)
            session = Session([self.room_of(index)]) if index % self._sample == 0 else None
            if session is not None:
                session.start()
            self._spawn(index, turn, session, 0.0)

    def shrink(self, viewers: int) -> list[str]:
        """Send the last ones home until `viewers` are left; return the names of those who left."""
        left = range(viewers, self._viewers)
        self._viewers = min(viewers, self._viewers)
        for index in left:
            self._turns.pop(index, None)
        for link in [link for link in self.links if not self.wants(link.index, link.turn)]:
            if link.transport is not None:
                link.transport.abort()
        return [f"crowd-{index}" for index in left]

    def wants(self, index: int, turn: int) -> bool:
        """Say whether a viewer is still to be there.

        `turn`: one that left is not the one that came later in its place.
        """
        return self._turns.get(index) == turn and not self._stopping

    async def stop(self) -> None:
        """Send everybody home."""
        self._stopping = True
        await end_tasks(*self._tasks, *self._pulls, self._beating)
        for link in list(self.links):
            if link.transport is not None:
                link.transport.abort()
        if self._http is not None:
            await self._http.close()

    def figures(self) -> Figures:
        """Return what was seen so far."""
        delays = sorted(self._delays)
        p50 = delays[len(delays) // 2] if delays else None
        p99 = delays[min(len(delays) - 1, len(delays) * 99 // 100)] if delays else None
        return Figures(
            wanted=self._viewers,
            connected=self.connected,
            joined=self.joined,
            batches=self._batches,
            messages=self._messages,
            received_bytes=self._bytes,
            reconnects=self._reconnects,
            refused=self.refused,
            delay_p50_ms=p50,
            delay_p99_ms=p99,
        )

    # ---- called by links
    def took(self, link: Link, text: bytes) -> None:
        """Count a frame; a sampled viewer reads all of it."""
        self._bytes += len(text)
        if text.startswith(b'{"t":"batch"'):
            self._batches += 1
            head = text.partition(b"\n")[0]
            count = self._headers.get(head)
            if count is None:
                header = self._decoder.decode(head)
                count = self._headers[head] = text.count(b"\n")
                self._delays.append(max(0.0, time.time() * 1000 - header.at))
                if len(self._headers) > REMEMBERED_HEADERS:
                    self._headers.popitem(last=False)
            self._messages += count
        elif not link.joined and text.startswith(b'{"t":"joined"'):
            link.joined = True
            self.joined += 1
        if link.session is not None:
            link.act(self._received(link.session, text))

    def pull(self, link: Link, pull: Pull) -> None:
        """Ask the link's gateway for what did not come; a room's pull ends with the next one."""
        task = asyncio.create_task(self._pull(link, pull))
        self._pulls.add(task)
        task.add_done_callback(self._pulls.discard)
        if before := link.pulls.get(pull.room):
            before.cancel()
        link.pulls[pull.room] = task

    def closing(self, link: Link, code: int | None) -> None:
        """The edge said why it ends the connection."""
        if link.session is not None:
            link.act(link.session.closed(code, time.monotonic(), random.random()))  # noqa: S311 - jitter

    def lost(self, link: Link) -> None:
        """A connection ended."""
        if self.links.pop(link, "none") is None:
            self.connected -= 1
            self.joined -= link.joined
            for task in link.pulls.values():
                task.cancel()
        if not self.wants(link.index, link.turn):
            return
        session = link.session
        if session is None:
            self._again(link.index, link.turn, None, random.uniform(0, 1))  # noqa: S311 - jitter
            return
        if session.state is State.OPEN:
            self.closing(link, None)
        elif session.state is State.CONNECTING:  # the upgrade was refused
            session.failed(time.monotonic(), random.random())  # noqa: S311 - jitter
        if session.state is not State.ENDED:
            self._again(link.index, link.turn, session, until(session))

    # ---- rules
    def _received(self, session: Session, text: bytes) -> list[Effect]:
        now = time.monotonic()
        frame: ServerFrame | ReceivedBatch | None = self._frames.get(text)
        if frame is None:
            try:
                frame = decode_server_frame(text)
            except BadFrameError:
                return session.received(text, now)
            if isinstance(frame, ReceivedBatch):  # the rest is for one viewer
                self._frames[text] = frame
                if len(self._frames) > REMEMBERED_FRAMES:
                    self._frames.popitem(last=False)
        return session.received_frame(frame, now)

    async def _pull(self, link: Link, pull: Pull) -> None:
        if self._http is None or link.session is None:
            return
        answer = await ask_pull(self._http, link.url, pull)
        if link.pulls.get(pull.room) is asyncio.current_task():
            del link.pulls[pull.room]
            link.act(take_answer(link.session, pull.room, answer))

    def _again(self, index: int, turn: int, session: Session | None, delay_s: float) -> None:
        if self.wants(index, turn):
            self._reconnects += 1
            self._spawn(index, turn, session, delay_s)

    def _spawn(self, index: int, turn: int, session: Session | None, delay_s: float) -> None:
        task = asyncio.create_task(self._come(index, turn, session, delay_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _come(self, index: int, turn: int, session: Session | None, delay_s: float) -> None:
        http = self._http
        if http is None:
            raise RuntimeError("not started")
        loop = asyncio.get_running_loop()
        while self.wants(index, turn):
            await asyncio.sleep(delay_s)
            if session is not None:
                session.tick(time.monotonic())
            try:
                entry = await ask_entry(http, self._scheduler_url, [self.room_of(index)])
                transport, link = await self._connect(entry.urls, index, turn, session)
            except (NoEntryError, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                self.refused += 1
                delay_s = random.uniform(0.1, 1.0)  # noqa: S311 - jitter
                if session is not None:
                    retry_after_s = error.retry_after_s if isinstance(error, NoEntryError) else None
                    session.failed(time.monotonic(), random.random(), retry_after_s)  # noqa: S311 - jitter
                    delay_s = until(session)
                continue
            key = base64.b64encode(secrets.token_bytes(16)).decode()
            address = urlsplit(link.url)
            transport.write(
                f"GET {address.path}?ticket={entry.ticket} HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n".encode()
            )
            loop.call_later(CONNECT_TIMEOUT_S, link.give_up)
            return

    async def _connect(
        self, urls: Sequence[str], index: int, turn: int, session: Session | None
    ) -> tuple[asyncio.WriteTransport, Link]:
        """Connect to the first gateway that answers; raise the last one's failure."""
        failure: Exception = ValueError("no address")
        for url in urls:
            address = urlsplit(url)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    return await asyncio.get_running_loop().create_connection(
                        partial(Link, self, index, turn, session, url), str(address.hostname), int(address.port or 80)
                    )
            except (OSError, TimeoutError) as error:
                failure = error
        raise failure

    async def _beat(self) -> None:
        """Send heartbeats; a session says itself what is due."""
        beat = encode_frame(Heartbeat())
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            for link in list(self.links):
                if link.session is None:
                    if now >= link.beat_at:
                        link.beat_at = now + HEARTBEAT_S
                        link.send(beat)
                elif link.session.state is State.OPEN and link.session.wake_at is not None and now >= link.session.wake_at:
                    link.act(link.session.tick(now))


def until(session: Session) -> float:
    """Return the seconds until a session wants to be ticked."""
    return max(0.0, (session.wake_at or 0.0) - time.monotonic())


async def _main(arguments: argparse.Namespace) -> int:
    crowd = Crowd(
        arguments.scheduler, arguments.room, arguments.viewers, joins_per_s=arguments.joins_per_s, sample=arguments.sample
    )
    coming = asyncio.create_task(crowd.start())
    end = time.monotonic() + arguments.duration
    try:
        while time.monotonic() < end:
            await asyncio.sleep(1)
            sys.stdout.buffer.write(orjson.dumps(crowd.figures()._asdict()) + b"\n")
            sys.stdout.flush()
            if coming.done():
                coming.result()
    finally:
        coming.cancel()
        await crowd.stop()
    return 0 if crowd.figures().messages else 1


def main() -> None:
    """Parse the command line and be a crowd."""
    parser = argparse.ArgumentParser(prog="python -m viewer.load", description="A crowd of viewers; one JSON line a second.")
    parser.add_argument("--scheduler", required=True, help="the scheduler's address, http://host:port")
    parser.add_argument("--room", action="append", required=True, help="a room; several times for several")
    parser.add_argument("--viewers", type=int, default=2000, help="how many [2000]")
    parser.add_argument("--joins-per-s", type=float, default=1000.0, help="how fast they come [1000]")
    parser.add_argument("--sample", type=int, default=50, help="one viewer in so many checks everything [50]")
    parser.add_argument("--duration", type=float, default=60.0, help="seconds [60]")
    arguments = parser.parse_args()
    try:
        import uvloop  # noqa: PLC0415 - not to be had on every system
    except ImportError:
        sys.exit(asyncio.run(_main(arguments)))
    sys.exit(uvloop.run(_main(arguments)))


if __name__ == "__main__":
    main()
