"""A crowd: thousands of viewers in one process, for load and demos. `python -m viewer.load --help`.

Each viewer is one raw connection without tasks. Most of them only count what arrives; every
`sample`-th runs a whole session, so that some viewers check everything. Frames are the same bytes
for a whole room, so each is decoded once and remembered.
"""

import argparse
import asyncio
import base64
import itertools
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import orjson

from liveroom import clock
from liveroom.chance import Chance, SystemChance
from liveroom.tasks import BackgroundTasks, end_tasks, report_failure
from liveroom.wire import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    BadFrameError,
    Heartbeat,
    Join,
    ReceivedBatch,
    ServerFrame,
    decode_server_frame,
    encode_frame,
)
from viewer.effects import Disconnect, Effect, Pull, Send
from viewer.entry import ask_entry
from viewer.frames import FrameReader, masked, upgrade
from viewer.position import MAX_BACKOFF_S
from viewer.problem import ServiceError, as_frame
from viewer.pull_request import ask_pull, take_answer
from viewer.session import Session, State
from viewer.tally import Figures, Tally

REMEMBERED_FRAMES: Final = 256
HEARTBEAT_S: Final = 20.0
TICK_S: Final = 0.25
CONNECT_TIMEOUT_S: Final = 10.0


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
        """Report the loss to the crowd, which may bring the viewer back."""
        self._crowd.lost(self)

    def give_up(self) -> None:
        """Drop the connection if the upgrade is still unanswered."""
        if self._reader is None and self.transport is not None:
            self.transport.abort()

    def send(self, payload: bytes, opcode: int = TEXT) -> None:
        """Send a small frame, unless the connection is closing."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(masked(payload, opcode))

    def _opened(self) -> None:
        if not self._crowd.wants(self.index, self.turn):
            self._close()
            return
        now = clock.monotonic_s()
        self.beat_at = now + HEARTBEAT_S
        self._crowd.connected += 1
        self._crowd.links[self] = None
        if self.session is None:
            self.send(encode_frame(Join(self._crowd.room_of(self.index))))
        else:
            self.act(self.session.opened(now))

    def act(self, effects: Sequence[Effect]) -> None:
        """Carry out a session's effects."""
        for effect in effects:
            if isinstance(effect, Send):
                self.send(effect.text)
            elif isinstance(effect, Disconnect):
                self._close()
            elif isinstance(effect, Pull):
                self._crowd.pull(self, effect)
            self._crowd.observe(f"crowd-{self.index}", effect)

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class Crowd:
    """`viewers` viewers spread over `rooms`; `start` brings them, `stop` ends them.

    Viewers that lose their connection come back through the scheduler. One viewer in `sample` runs
    a whole session, whose effects `on_effect` gets with the viewer's name. `chance` is for jitter,
    by default the system's.
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
        chance: Chance | None = None,
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
        self._chance = chance if chance is not None else SystemChance()
        self._tally = Tally()
        self._reconnects = 0
        self._frames: OrderedDict[bytes, ReceivedBatch] = OrderedDict()
        self._http: aiohttp.ClientSession | None = None
        self._tasks = BackgroundTasks("a viewer of the crowd")
        self._pulls = BackgroundTasks("a pull of the crowd")
        self._beating: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._stopping = False
        self._turns: dict[int, int] = {}
        self._counter = itertools.count()

    def room_of(self, index: int) -> str:
        """Return the room of viewer `index`."""
        return self._rooms[index % len(self._rooms)]

    async def start(self) -> None:
        """Bring all viewers at the set pace; return when each has tried once."""
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
        self._beating = asyncio.create_task(self._beat())
        viewers, self._viewers = self._viewers, 0
        await self.grow(viewers, 1 / self._pause_s)
        await self._tasks.wait()
        self._check()

    async def grow(self, viewers: int, joins_per_s: float) -> None:
        """Bring more until there are `viewers`; return when the last one is on its way."""
        first, self._viewers = self._viewers, viewers
        began = clock.monotonic_s()
        for index in range(first, viewers):
            await clock.sleep(max(0.0, began + (index - first) / joins_per_s - clock.monotonic_s()))
            if index >= self._viewers:
                return  # it was made smaller meanwhile
            self._turns[index] = turn = next(self._counter)
            session = Session([self.room_of(index)]) if index % self._sample == 0 else None
            if session is not None:
                session.start()
            self._spawn(index, turn, session, 0.0)

    def shrink(self, viewers: int) -> list[str]:
        """Remove the newest viewers until `viewers` are left; return the names of the removed."""
        left = range(viewers, self._viewers)
        self._viewers = min(viewers, self._viewers)
        for index in left:
            self._turns.pop(index, None)
        for link in [link for link in self.links if not self.wants(link.index, link.turn)]:
            if link.transport is not None:
                link.transport.abort()
        return [f"crowd-{index}" for index in left]

    def wants(self, index: int, turn: int) -> bool:
        """Return whether a viewer should still be there.

        `turn` tells a viewer from a later one with the same index.
        """
        return self._turns.get(index) == turn and not self._stopping

    async def stop(self) -> None:
        """End all connections and tasks."""
        self._stopping = True
        await self._tasks.cancel()
        await self._pulls.cancel()
        await end_tasks(self._beating)
        for link in list(self.links):
            if link.transport is not None:
                link.transport.abort()
        if self._http is not None:
            await self._http.close()

    def _check(self) -> None:
        """Raise what ended a part of the crowd: what is left of it proves nothing."""
        if self._beating is not None and self._beating.done() and not self._beating.cancelled():
            self._beating.result()
        if (failure := self._failure or self._tasks.failure or self._pulls.failure) is not None:
            raise failure

    def figures(self) -> Figures:
        """Return the state of the crowd; raise the failure of a part of it."""
        self._check()
        p50, p99 = self._tally.delays_ms()
        return Figures(
            wanted=self._viewers,
            connected=self.connected,
            joined=self.joined,
            batches=self._tally.batches,
            messages=self._tally.messages,
            received_bytes=self._tally.received_bytes,
            reconnects=self._reconnects,
            refused=self.refused,
            delay_p50_ms=p50,
            delay_p99_ms=p99,
        )

    # ---- called by links
    def observe(self, viewer: str, effect: Effect) -> None:
        """Report an effect of a viewer. Where the observer fails, `figures` raises what it
        raised: what it judges from then on is worth nothing.
        """
        try:
            self.on_effect(viewer, effect)
        except Exception as error:  # noqa: BLE001 - a protocol would take it for a lost connection
            self._failure = self._failure or error
            report_failure("on_effect of a crowd failed", error)

    def took(self, link: Link, text: bytes) -> None:
        """Count a frame; a sampled viewer's session takes all of it."""
        self._tally.count(text)
        if not link.joined and text.startswith(b'{"t":"joined"'):
            link.joined = True
            self.joined += 1
        if link.session is not None:
            link.act(self._received(link.session, text))

    def pull(self, link: Link, pull: Pull) -> None:
        """Carry out a pull at the link's gateway; it cancels the room's pull before it."""
        task = self._pulls.start(self._pull(link, pull))
        if before := link.pulls.get(pull.room):
            before.cancel()
        link.pulls[pull.room] = task

    def closing(self, link: Link, code: int | None) -> None:
        """Report the gateway's close code to the session."""
        if link.session is not None:
            link.act(link.session.closed(code, clock.monotonic_s(), self._chance.random()))

    def lost(self, link: Link) -> None:
        """Take note of an ended connection; bring its viewer back if it should be there."""
        if self.links.pop(link, "none") is None:
            self.connected -= 1
            self.joined -= link.joined
            for task in link.pulls.values():
                task.cancel()
        if not self.wants(link.index, link.turn):
            return
        session = link.session
        if session is None:
            self._again(link.index, link.turn, None, self._chance.random())
            return
        if session.state is State.OPEN:
            self.closing(link, None)
        elif session.state is State.CONNECTING:  # the upgrade was refused
            session.failed(clock.monotonic_s(), self._chance.random())
        if session.state is not State.ENDED:
            self._again(link.index, link.turn, session, until(session))

    # ---- rules
    def _received(self, session: Session, text: bytes) -> list[Effect]:
        now, uniform = clock.monotonic_s(), self._chance.random()
        frame: ServerFrame | ReceivedBatch | None = self._frames.get(text)
        if frame is None:
            try:
                frame = decode_server_frame(text)
            except BadFrameError:
                return session.received(text, now, uniform)
            if isinstance(frame, ReceivedBatch):  # the rest is for one viewer
                self._frames[text] = frame
                if len(self._frames) > REMEMBERED_FRAMES:
                    self._frames.popitem(last=False)
        return session.received_frame(frame, now, uniform)

    async def _pull(self, link: Link, pull: Pull) -> None:
        if self._http is None or link.session is None:
            return
        answer = await ask_pull(self._http, link.url, pull)
        if link.pulls.get(pull.room) is asyncio.current_task():
            del link.pulls[pull.room]
            link.act(take_answer(link.session, pull.room, answer, self._chance))

    def _again(self, index: int, turn: int, session: Session | None, delay_s: float) -> None:
        if self.wants(index, turn):
            self._reconnects += 1
            self._spawn(index, turn, session, delay_s)

    def _spawn(self, index: int, turn: int, session: Session | None, delay_s: float) -> None:
        self._tasks.start(self._come(index, turn, session, delay_s))

    async def _come(self, index: int, turn: int, session: Session | None, delay_s: float) -> None:
        http = self._http
        if http is None:
            raise RuntimeError("not started")
        loop = asyncio.get_running_loop()
        while self.wants(index, turn):
            await clock.sleep(delay_s)
            if session is not None:
                session.tick(clock.monotonic_s())
            try:
                entry = await ask_entry(http, self._scheduler_url, [self.room_of(index)], self._chance)
                transport, link = await self._connect(entry.urls, index, turn, session)
            except (ServiceError, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                self.refused += 1
                refusal = error if isinstance(error, ServiceError) else None
                if session is None:
                    if refusal is not None and refusal.is_final:
                        return
                    after_s = (refusal.retry_after_s if refusal else None) or 0.0
                    delay_s = after_s + self._chance.uniform(0.1, max(1.0, min(after_s, MAX_BACKOFF_S)))
                    continue
                frame, is_final = (as_frame(refusal), refusal.is_final) if refusal else (None, False)
                for effect in session.failed(clock.monotonic_s(), self._chance.random(), frame, is_final):
                    self.observe(f"crowd-{index}", effect)
                if session.state is State.ENDED:
                    return
                delay_s = until(session)
                continue
            key = base64.b64encode(self._chance.token_bytes(16)).decode()
            address = urlsplit(link.url)
            transport.write(upgrade(address.netloc, f"{address.path}?ticket={entry.ticket}", key=key))
            loop.call_later(CONNECT_TIMEOUT_S, link.give_up)
            return

    async def _connect(
        self, urls: Sequence[str], index: int, turn: int, session: Session | None
    ) -> tuple[asyncio.WriteTransport, Link]:
        """Connect to the first gateway that answers; raise the last one's failure."""
        failure: Exception = ValueError("no address")
        for url in urls:
            try:
                address = urlsplit(url)
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    return await asyncio.get_running_loop().create_connection(
                        partial(Link, self, index, turn, session, url), str(address.hostname), int(address.port or 80)
                    )
            except (OSError, TimeoutError, ValueError) as error:  # ValueError: it announces no URL
                failure = error
        raise failure

    async def _beat(self) -> None:
        """Send heartbeats; tick the sessions, which decide themselves."""
        beat = encode_frame(Heartbeat())
        while True:
            await clock.sleep(TICK_S)
            now = clock.monotonic_s()
            for link in list(self.links):
                if link.session is None:
                    if now >= link.beat_at:
                        link.beat_at = now + HEARTBEAT_S
                        link.send(beat)
                elif link.session.state is State.OPEN and link.session.wake_at is not None and now >= link.session.wake_at:
                    link.act(link.session.tick(now))


def until(session: Session) -> float:
    """Return the seconds until a session's next tick is due."""
    return max(0.0, (session.wake_at or 0.0) - clock.monotonic_s())


async def _main(arguments: argparse.Namespace) -> int:
    crowd = Crowd(
        arguments.scheduler, arguments.room, arguments.viewers, joins_per_s=arguments.joins_per_s, sample=arguments.sample
    )
    coming = asyncio.create_task(crowd.start())
    end = clock.monotonic_s() + arguments.duration
    try:
        while clock.monotonic_s() < end:
            await clock.sleep(1)
            sys.stdout.buffer.write(orjson.dumps(crowd.figures()._asdict()) + b"\n")
            sys.stdout.flush()
            if coming.done():
                coming.result()
    finally:
        coming.cancel()
        await crowd.stop()
    return 0 if crowd.figures().messages else 1


def main() -> None:
    """Parse the command line and run a crowd."""
    parser = argparse.ArgumentParser(prog="python -m viewer.load", description="A crowd of viewers; one JSON line a second.")
    parser.add_argument("--scheduler", required=True, help="the scheduler's address, http://host:port")
    parser.add_argument("--room", action="append", required=True, help="a room; several times for several")
    parser.add_argument("--viewers", type=int, default=2000, help="how many [2000]")
    parser.add_argument("--joins-per-s", type=float, default=1000.0, help="how fast they come [1000]")
    parser.add_argument("--sample", type=int, default=50, help="one viewer in so many checks everything [50]")
    parser.add_argument("--duration", type=float, default=60.0, help="seconds [60]")
    arguments = parser.parse_args()
    try:
        import uvloop  # noqa: PLC0415 - not available on every platform
    except ImportError:
        sys.exit(asyncio.run(_main(arguments)))
    sys.exit(uvloop.run(_main(arguments)))


if __name__ == "__main__":
    main()
