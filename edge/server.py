"""The viewers' side of the edge: the upgrade with its ticket, then one connection each.

Owns `GET /v1/live`. Refuses with a problem before the upgrade (ticket, origin, full, draining), with a close code after it.
What it knows of rooms it asks of the hub.
"""

import asyncio
import contextlib
import time
from typing import Final, cast

import aiohttp
import structlog
from aiohttp import web

from edge.hub import Frames, Hub, Room, quiet_members
from liveroom import metrics, tickets
from liveroom.closecodes import TABLE, Close
from liveroom.errors import Code, ProblemError
from liveroom.service import Runtime
from liveroom.settings import EdgeSettings
from liveroom.topics import ROOM_ID, room_hash
from liveroom.web import cors, origin_allowed, problems
from liveroom.wire import (
    EDGE_QUIET_S,
    MAX_CLIENT_FRAME_BYTES,
    MAX_ROOMS_PER_CONNECTION,
    SUBPROTOCOL,
    VIEWER_SILENCE_S,
    BadFrameError,
    Beat,
    Error,
    Heartbeat,
    Hello,
    Join,
    Joined,
    Leave,
    Left,
    Move,
    close_frame,
    decode_client_frame,
    encode_frame,
    websocket_frame,
)

PULL_TOKEN_TTL_S: Final = 300
FULL_WINDOW: Final = 15
LATE_HEARTBEATS: Final = 3
SWEEP_S: Final = 2.0
MOVE_SLICES: Final = 20
CLOSE_TIMEOUT_S: Final = 2.0
log = structlog.get_logger()


class Viewer:
    """One connection. Frames are written to its transport as they are; nothing waits for a slow one."""

    __slots__ = (
        "deflates",
        "heard_at",
        "max_unsent",
        "rooms",
        "slow_unsent",
        "slowed",
        "ticket_rooms",
        "transport",
        "user",
        "user_hash",
    )

    def __init__(
        self, transport: asyncio.WriteTransport, user: tickets.User, settings: EdgeSettings, *, deflates: bool
    ) -> None:
        self.transport = transport
        self.user = user.id
        self.user_hash = room_hash(user.id)
        self.ticket_rooms = user.rooms
        self.rooms: dict[int, Room] = {}
        self.deflates = deflates
        self.heard_at = time.monotonic()
        self.slow_unsent = settings.slow_unsent_bytes
        self.max_unsent = settings.max_unsent_bytes
        self.slowed = False

    def push(self, frames: Frames) -> int:
        """Send a batch; to a slow viewer its reliable part only, to one far behind a close instead."""
        unsent = self.transport.get_write_buffer_size()
        self.slowed = unsent > self.slow_unsent
        if unsent > self.max_unsent:
            self.close(Close.SLOW)
            return 0
        frame = frames.reliable(deflate=self.deflates) if self.slowed else frames.whole(deflate=self.deflates)
        if frame is None:
            return 0
        self.transport.write(frame)
        return len(frame)

    def send(self, frame: bytes) -> None:
        """Send a finished frame."""
        self.transport.write(frame)

    def close(self, code: Close) -> None:
        """Say why, and end: what is unsent is given up."""
        if not self.transport.is_closing():
            self.transport.write(close_frame(code, TABLE[code].reason))
            if self.transport.get_write_buffer_size() > self.slow_unsent:
                self.transport.abort()
            else:
                self.transport.close()


class Server:
    """The public app of a gateway."""

    def __init__(self, settings: EdgeSettings, hub: Hub, runtime: Runtime, generation: int) -> None:
        self.settings = settings
        self.hub = hub
        self.generation = generation
        self.viewers: dict[Viewer, None] = {}
        self.joins = 0
        self.leaves = 0
        self.draining = False
        self._emptied = asyncio.Event()
        self._keys = settings.keys()
        self._runtime = runtime
        made = runtime.metrics
        self._joined = {outcome: made.counter(metrics.JOINS, outcome) for outcome in ("joined", "refused")}
        self._refused = {code: made.counter(metrics.UPGRADES_REFUSED, code.value) for code in Code}
        self.app = web.Application(middlewares=[cors(settings.origins), problems(lambda code: self._refused[code].inc())])
        self.app.router.add_get("/v1/live", self._live)

    async def _live(self, request: web.Request) -> web.StreamResponse:
        user = self._admit(request)
        ws = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,), max_msg_size=MAX_CLIENT_FRAME_BYTES, compress=True, autoping=True, timeout=5.0
        )
        await ws.prepare(request)
        transport = cast("asyncio.WriteTransport | None", request.transport)
        if transport is None:
            return ws  # gone already
        viewer = Viewer(transport, user, self.settings, deflates=ws.compress == FULL_WINDOW)
        self.viewers[viewer] = None
        try:
            self._greet(viewer, user)
            await self._listen(ws, viewer)
        finally:
            self.hub.drop(viewer)
            del self.viewers[viewer]
            if not self.viewers:
                self._emptied.set()
            self.leaves += 1
            self._runtime.metrics.counter(metrics.CLOSES, str(ws.close_code or "none")).inc()
        return ws

    def _admit(self, request: web.Request) -> tickets.User:
        """Return who comes, or raise the refusal. Cheap checks first."""
        if self.draining or self._runtime.stopping.is_set():
            raise ProblemError(Code.DRAINING, retry_after_s=0.2)
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise ProblemError(Code.UPGRADE_REQUIRED)
        origin = request.headers.get("Origin")
        if origin is not None and self.settings.origins and not origin_allowed(origin, self.settings.origins):
            raise ProblemError(Code.ORIGIN, origin[:200])
        if len(self.viewers) >= self.settings.max_connections:
            raise ProblemError(Code.FULL, retry_after_s=1)
        now_ms = time.time_ns() // 1_000_000
        ticket = tickets.verify(request.query.get("ticket", ""), self._keys, tickets.ENTRY, now_ms)
        if (self.settings.instance, self.generation) not in ticket.gateways:
            raise ProblemError(Code.TICKET_INVALID, "the ticket is for other gateways, or for this one before it was restarted")
        return ticket.user

    def _greet(self, viewer: Viewer, user: tickets.User) -> None:
        now_ms = time.time_ns() // 1_000_000
        key_id, key = next(iter(self._keys.items()))
        here = ((self.settings.instance, self.generation),)
        pull = tickets.Ticket(tickets.PULL, user, now_ms + PULL_TOKEN_TTL_S * 1000, "", here)
        hello = Hello(
            gateway=self.settings.instance,
            generation=self.generation,
            heartbeat_s=self.settings.heartbeat_s,
            silence_s=VIEWER_SILENCE_S,
            user=user.id,
            pull=tickets.sign(pull, key_id, key),
        )
        viewer.send(websocket_frame(encode_frame(hello)))

    async def _listen(self, ws: web.WebSocketResponse, viewer: Viewer) -> None:
        async for message in ws:
            viewer.heard_at = time.monotonic()
            if message.type is not aiohttp.WSMsgType.TEXT:
                await _close(ws, Close.UNSUPPORTED_DATA)
                return
            try:
                frame = decode_client_frame(message.data)
            except BadFrameError:
                await _close(ws, Close.BAD_FRAME)
                return
            match frame:
                case Join():
                    self._join(viewer, frame)
                case Leave():
                    if self.hub.leave(viewer, frame.room):
                        viewer.send(websocket_frame(encode_frame(Left(frame.room))))
                    else:
                        _refuse(viewer, Code.NOT_IN_ROOM, frame.room)
                case Heartbeat():
                    viewer.send(websocket_frame(encode_frame(Beat(time.time_ns() // 1_000_000))))

    def _join(self, viewer: Viewer, frame: Join) -> None:
        refusal = None
        if not ROOM_ID.match(frame.room):
            refusal = Code.ROOM_INVALID
        elif viewer.ticket_rooms and frame.room not in viewer.ticket_rooms:
            refusal = Code.FORBIDDEN
        elif len(viewer.rooms) >= MAX_ROOMS_PER_CONNECTION and room_hash(frame.room) not in viewer.rooms:
            refusal = Code.TOO_MANY_ROOMS
        if refusal is not None:
            self._joined["refused"].inc()
            _refuse(viewer, refusal, frame.room)
            return
        room = self.hub.join(viewer, frame.room, time.monotonic())
        self.joins += 1
        self._joined["joined"].inc()
        joined = Joined(room=room.name, epoch=room.epoch, seq=room.seq, rseq=room.rseq, pos=room.pos)
        viewer.send(websocket_frame(encode_frame(joined)))

    async def sweep(self) -> None:
        """Every other second: beat where nothing was pushed, end who said nothing for too long. For ever."""
        pushes: dict[Viewer, float] = {}
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            beat = websocket_frame(encode_frame(Beat(time.time_ns() // 1_000_000)))
            quiet = cast("list[Viewer]", quiet_members(self.hub.rooms.values(), now - EDGE_QUIET_S / 2))
            for viewer in quiet:
                if now - pushes.get(viewer, 0.0) >= EDGE_QUIET_S / 2:
                    viewer.send(beat)
                    pushes[viewer] = now
            pushes = {viewer: at for viewer, at in pushes.items() if viewer in self.viewers}
            for viewer in list(self.viewers):
                silent = now - viewer.heard_at
                if silent > self.settings.heartbeat_s * LATE_HEARTBEATS:
                    viewer.close(Close.HEARTBEAT_LATE)
                elif not viewer.rooms and silent > self.settings.handshake_timeout_s:
                    viewer.close(Close.HANDSHAKE_LATE)

    async def drain(self) -> None:
        """Take nobody more, ask viewers in slices to move, end those who stay."""
        self.draining = True
        log.info("draining", viewers=len(self.viewers), over_s=self.settings.drain_s)
        viewers = list(self.viewers)
        per_slice = -(-len(viewers) // MOVE_SLICES) or 1
        move = websocket_frame(encode_frame(Move("drain")))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_s):
                for start in range(0, len(viewers), per_slice):
                    for viewer in viewers[start : start + per_slice]:
                        viewer.send(move)
                    await asyncio.sleep(self.settings.drain_s / 2 / MOVE_SLICES)
                await self._all_gone()
        for viewer in list(self.viewers):
            viewer.close(Close.SERVICE_RESTART)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._all_gone()
        for viewer in list(self.viewers):
            viewer.transport.abort()

    async def _all_gone(self) -> None:
        if self.viewers:
            self._emptied.clear()
            await self._emptied.wait()


def _refuse(viewer: Viewer, code: Code, room: str) -> None:
    viewer.send(websocket_frame(encode_frame(Error(code.value, room=room[:64]))))


async def _close(ws: web.WebSocketResponse, code: Close) -> None:
    await ws.close(code=int(code), message=TABLE[code].reason.encode())
