"""A scheduler and a gateway that keep the rules of tickets, for trials of wishes with both SDKs.

The gateway lets a viewer join only the rooms of its ticket, as the real one does. Tests set what
goes wrong, and read what was asked for.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from liveroom import clock
from liveroom.ports import HOST
from liveroom.web import serve
from liveroom.wire import SUBPROTOCOL

CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Expose-Headers": "Retry-After",
}
DEADLINE_S = 60.0  # nothing takes so long, on whatever machine


class Rooms:
    """`entries`: the rooms of each entry that was asked for, and `asked_at` when, in seconds of the
    monotonic clock. `joins`: the rooms of each connection. `entered`: the rooms that were let in.

    `refusals`: the status, headers and problem, or a proxy's page, of the next entries. `holds`:
    where it is set, the answer to an entry waits until `release` is called. `is_silent`: heartbeats
    stay unanswered.
    `refused`: the error of a join of each of these rooms. `pulled`: the answer to a pull, or
    `pull_refusal` where it is refused. `public`: the host and port that entries name, if they are
    not those that the services listen on.
    """

    def __init__(self) -> None:
        self.port = 0
        self.public = ""
        self.entries: list[list[str]] = []
        self.asked_at: list[float] = []
        self.joins: list[list[str]] = []
        self.entered: list[str] = []
        self.left: list[str] = []
        self.beats = 0
        self.pulls = 0
        self.is_silent = False
        self.refusals: deque[tuple[int, dict[str, str], dict[str, Any] | str]] = deque()
        self.refused: dict[str, dict[str, Any]] = {}
        self.open: list[web.WebSocketResponse] = []
        self.pulled: dict[str, Any] = {}
        self.pull_refusal: dict[str, Any] = {}
        self._goes = asyncio.Event()
        self._goes.set()
        self.app = web.Application()
        self.app.router.add_get("/v1/entry", self._entry)
        self.app.router.add_get("/v1/live", self._live)
        self.app.router.add_get("/v1/rooms/{room}/messages", self._pulled)
        self.app.router.add_route("OPTIONS", "/{any:.*}", self._allow)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def hold(self) -> None:
        """Let entries wait for `release`."""
        self._goes.clear()

    def release(self) -> None:
        """Answer the entries that wait, and later ones at once."""
        self._goes.set()

    async def push(self, *lines: dict[str, Any]) -> None:
        """Send a frame on every open connection."""
        for socket in self.open:
            await socket.send_str("\n".join(map(json.dumps, lines)))

    async def _allow(self, _: web.Request) -> web.Response:
        return web.Response(headers=CORS)

    async def _entry(self, request: web.Request) -> web.Response:
        rooms = request.query.getall("room", [])
        self.entries.append(rooms)
        self.asked_at.append(clock.monotonic_s())
        await self._goes.wait()
        if self.refusals:
            status, headers, problem = self.refusals.popleft()
            if isinstance(problem, str):
                return web.Response(text=problem, status=status, content_type="text/html", headers=CORS | headers)
            return web.json_response(problem, status=status, headers=CORS | headers)
        if not rooms:
            return web.json_response({"code": "bad_request"}, status=400, headers=CORS)
        gateways = [{"id": "e", "url": f"ws://{self.public or f'{HOST}:{self.port}'}/v1/live"}]
        return web.json_response({"gateways": gateways, "ticket": ",".join(rooms)}, headers=CORS)

    async def _live(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=(SUBPROTOCOL,))
        await socket.prepare(request)
        permitted = request.query["ticket"].split(",")
        joins: list[str] = []
        self.joins.append(joins)
        self.open.append(socket)
        hello = {"t": "hello", "gateway": "e", "generation": 1, "heartbeat_s": 20, "silence_s": 25, "user": "u", "pull": "p"}
        try:
            await socket.send_json(hello)
            async for message in socket:
                frame = json.loads(message.data)
                room = frame.get("room", "")
                match frame["t"]:
                    case "join":
                        joins.append(room)
                        if room in self.refused:
                            await socket.send_json({"t": "error", "room": room, **self.refused[room]})
                        elif room in permitted:
                            self.entered.append(room)
                            await socket.send_json({"t": "joined", "room": room, "epoch": 1, "seq": 10, "rseq": 2, "pos": "1"})
                        else:
                            await socket.send_json({"t": "error", "code": "forbidden", "room": room})
                    case "leave":
                        self.left.append(room)
                        await socket.send_json({"t": "left", "room": room})
                    case _:
                        self.beats += 1
                        if not self.is_silent:
                            await socket.send_json({"t": "hb", "at": 1})
        finally:
            self.open.remove(socket)
        return socket

    async def _pulled(self, _: web.Request) -> web.Response:
        self.pulls += 1
        if self.pull_refusal:
            return web.json_response(self.pull_refusal, status=429, headers=CORS)
        return web.json_response(self.pulled, headers=CORS)


@asynccontextmanager
async def serving_rooms() -> AsyncIterator[Rooms]:
    """Serve while the block runs."""
    rooms = Rooms()
    async with serve(rooms.app, HOST, 0, shutdown_timeout_s=0.2) as (_, rooms.port):
        yield rooms


async def comes(condition: Callable[[], object]) -> None:
    """Return when the condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
