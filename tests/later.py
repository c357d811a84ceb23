"""A scheduler, a gateway and an ingress of a later version, for tests of both SDKs.

They speak as this version does, with more of everything: fields, types of frames, kinds, roles,
notices, codes, events and lines of an event stream. The room has three batches, of which the
second, with one reliable message, comes by a pull only. Every connection but the first
stays; the first is closed with a code of later.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

from liveroom.ports import HOST
from liveroom.web import serve
from liveroom.wire import SUBPROTOCOL

CLOSE_OF_LATER: Final = 4777
MORE: Final[dict[str, Any]] = {"later": {"x": [1, None]}, "x-later": "y"}
CORS: Final = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "*"}
POLL: Final = json.dumps({"t": "poll", "room": "r", "seq": [1, 99], "rseq": 99})
HELLO: Final = json.dumps(
    {"t": "hello", "gateway": "e", "generation": 1, "heartbeat_s": 20, "silence_s": 25, "user": "u", "pull": "secret"} | MORE
)
CARD: Final = {"epoch": 1, "seq": 0, "rseq": 0, "likes": 7, "devices": 3, "settings": {"emotes_only": True}} | MORE


def line(seq: int, rseq: int, kind: str, **more: Any) -> dict[str, Any]:
    fields = {"seq": seq, "kind": kind, "id": f"i{seq}", "user": "u", "at": 1, "rseq": rseq, "data": {"text": "hi"} | MORE}
    return fields | MORE | more


MESSAGES: Final = [
    line(1, 1, "gift"),
    line(2, 0, "danmaku", role="bot"),
    line(3, 2, "vote", role="bot"),
    line(4, 3, "vote"),
    line(5, 0, "sticker"),
]


def batch(first: int, last: int, rseq: int) -> str:
    head = {"t": "batch", "room": "r", "epoch": 1, "seq": [first, last], "rseq": rseq, "at": 1, "pos": f"0.{last}"}
    more = {"likes": 9, "viewers": [1, 2], "devices": 2}
    return "\n".join(map(json.dumps, [head | more | MORE, *MESSAGES[first - 1 : last]]))


FRAMES: Final = [
    json.dumps({"t": "joined", "room": "r", "epoch": 1, "seq": 0, "rseq": 0, "pos": "0.0", "card": CARD} | MORE),
    json.dumps({"t": "card", "room": "r", "card": CARD} | MORE),
    batch(1, 2, 1),
    json.dumps({"t": "notice", "room": "r", "kind": "shadow", "id": "n", "at": 1} | MORE),
    json.dumps({"t": "error", "code": "out_of_tickets", "room": "r"} | MORE),
    json.dumps({"t": "hb", "at": 1} | MORE),
    batch(4, 5, 3),
]


class Later:
    """`entries`, `joins`: how often each was asked for. `refuses`: how many entries it refuses."""

    def __init__(self, *, refuses: int = 0) -> None:
        self.port = 0
        self.refuses = refuses
        self.entries = 0
        self.joins = 0
        self._streams: dict[str, asyncio.Event] = {}
        self.app = web.Application()
        self.app.router.add_get("/v1/entry", self._entry)
        self.app.router.add_get("/v1/live", self._live)
        self.app.router.add_get("/v1/events", self._events)
        self.app.router.add_post("/v1/events", self._frame)
        self.app.router.add_get("/v1/rooms/r/messages", self._pulled)
        self.app.router.add_post("/v1/rooms/r/danmaku", self._danmaku)
        self.app.router.add_route("OPTIONS", "/{any:.*}", self._allow)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def _allow(self, _: web.Request) -> web.Response:
        return web.Response(headers=CORS)

    async def _entry(self, _: web.Request) -> web.Response:
        self.entries += 1
        if self.entries <= self.refuses:
            bodies: list[Any] = [{"code": "waiting_room", "title": "Wait", "retry_after_s": {"later": 1}, **MORE}, [], None]
            return web.json_response(bodies[self.entries % 3], status=503, headers=CORS)
        gateways = [{"id": "e", "url": f"ws://{HOST}:{self.port}/v1/live", "cells": [1], **MORE}]
        return web.json_response({"gateways": gateways, "ticket": "t", "cell": 7, **MORE}, headers=CORS)

    async def _live(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=(SUBPROTOCOL,))
        await socket.prepare(request)
        for frame in (POLL, HELLO, POLL):
            await socket.send_str(frame)
        await socket.receive()
        self.joins += 1
        is_first = self.joins == 1
        for frame in FRAMES:
            await socket.send_str(frame)
            await socket.send_str(POLL)
        if is_first:
            await socket.close(code=CLOSE_OF_LATER, message=b"later")
        else:
            await socket.receive()
        return socket

    async def _events(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers=CORS | {"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        joined = self._streams["secret"] = asyncio.Event()

        async def send(text: str) -> None:
            data = "\n".join(f"data: {part}" for part in text.split("\n"))
            await stream.write(f": a comment\nid: 7\nx-later: 1\n{data}\n\n".encode())
            await stream.write(b"event: later\ndata: not a frame\n\nretry: 60000\n\n")

        for frame in (POLL, HELLO, POLL):
            await send(frame)
        await joined.wait()
        self.joins += 1
        is_first = self.joins == 1
        for frame in FRAMES:
            await send(frame)
        if is_first:
            await stream.write(f"event: close\ndata: {CLOSE_OF_LATER} later\n\n".encode())
        else:
            await asyncio.sleep(3600)
        return stream

    async def _frame(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        if (await request.json())["t"] == "join":
            self._streams["secret"].set()
        return web.Response(status=204, headers=CORS)

    async def _pulled(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        answer = {"room": "r", "epoch": 1, "seq": 5, "rseq": 3, "pos": "0.5", "messages": MESSAGES[2:3], **MORE}
        return web.json_response(answer, headers=CORS)

    async def _danmaku(self, request: web.Request) -> web.Response:
        text = (await request.json())["text"]
        if text == "accepted":
            body, status = {"id": "i", "room": "r", "kind": "danmaku", "at_ms": 5, "cost": 1, **MORE}, 202
        else:
            body, status = {"code": "no_coins", "title": "No coins", "price": 7, **MORE}, 402
        return web.json_response(body, status=status, headers=CORS)


@asynccontextmanager
async def later(*, refuses: int = 0) -> AsyncIterator[Later]:
    """Serve while the block runs."""
    services = Later(refuses=refuses)
    async with serve(services.app, HOST, 0, shutdown_timeout_s=0.2) as (_, services.port):
        yield services
