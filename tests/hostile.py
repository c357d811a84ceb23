"""A scheduler, a gateway and an ingress whose room has what people and other services write:
characters that some languages take for the end of a line, and bodies that nobody expects.

The frames are made as the product makes them. A gift is lost, so that a client pulls it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from aiohttp import web

from liveroom.addresses import url_of
from liveroom.kinds import Kind
from liveroom.ports import HOST
from liveroom.web import serve
from liveroom.wire import SUBPROTOCOL, BatchHeader, Card, Hello, Joined, Message, Pulled, encode_frame, encode_message

CORS: Final = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "*"}
ENDS: Final = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x00\r\n"  # of lines, somewhere; JSON escapes a part of them only
TEXTS: Final = (
    *(f"before{end}after" for end in ENDS),
    ENDS,
    "\N{FACE WITH TEARS OF JOY}" * 200,
    '\\u2028 \\n "quoted" \\',
    "data: a\n\ndata: b",
    "\ufeff\u200b\ufffe\uffff",
)
NUMBERS: Final = (
    "null",
    '"5"',
    "-3",
    "1e999",
    "1e308",
    "123456789012345678901234567890",
    "0.5",
    "[]",
    "{}",
    "true",
    '"x"',
    "NaN",
)
COUNTS: Final = {  # what foreign services write for a count, as JSON, and what it means
    "5": 5,
    "5.0": 5,
    "5e0": 5,
    "9007199254740991": 9_007_199_254_740_991,
    "null": 1,
    '"5"': 1,
    "true": 1,
    "0": 1,
    "-3": 1,
    "0.5": 1,
    "1e999": 1,
    "-1e999": 1,
    "1e308": 1,
    "123456789012345678901234567890": 1,
    "9" * 5000: 1,
    "[5]": 1,
    '{"count":5}': 1,
}
PULLED: Final = {"gift": f"rose{ENDS}", "count": 3}


def danmaku(seq: int, text: str) -> Message:
    """Return a danmaku whose sender's name is as hostile as its text."""
    data = msgspec.json.encode({"text": text})
    return Message(seq, Kind.DANMAKU, f"i{seq}", "ann", 1, name=f"Ann{text[:40]}", data=msgspec.Raw(data))


def texts() -> list[Message]:
    """Return a danmaku for each of `TEXTS`."""
    return [danmaku(seq, text) for seq, text in enumerate(TEXTS, 1)]


class Hostile:
    """`lines`: what the room sends, numbered from 1; the first `seen` of them are history, and come
    in the room's snapshot. `sent`: the bodies of what clients send it.
    """

    def __init__(self, lines: Sequence[Message], room: str, seen: int) -> None:
        self.port = 0
        self.room = room
        self.seen = seen
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.announced: list[str] = []  # what gateways before this one announce for a URL
        self.joins = 0
        self.pulls = 0
        self.lines = list(lines)
        last = len(self.lines)
        self.lost = Message(last + 1, Kind.GIFT, "g", "ann", 1, 1, data=msgspec.Raw(msgspec.json.encode(PULLED)))
        self.end = Message(last + 2, Kind.GIFT, "end", "ann", 1, 2, data=msgspec.Raw(b'{"gift":"end"}'))
        self.app = web.Application()
        self.app.router.add_get("/v1/entry", self._entry)
        self.app.router.add_get("/v1/live", self._live)
        self.app.router.add_get(f"/v1/rooms/{room}/messages", self._pulled)
        self.app.router.add_post(f"/v1/rooms/{room}/danmaku", self._danmaku)
        self.app.router.add_route("OPTIONS", "/{any:.*}", self._allow)

    @property
    def url(self) -> str:
        return url_of("http", HOST, self.port)

    def _batch(self, lines: Sequence[Message], rseq: int) -> str:
        first, last = lines[0].seq, lines[-1].seq
        header = msgspec.json.encode(BatchHeader(self.room, 1, (first, last), rseq, at=1, pos=f"0.{last}"))
        return b"\n".join((header, *map(encode_message, lines))).decode()

    async def _allow(self, _: web.Request) -> web.Response:
        return web.Response(headers=CORS)

    async def _entry(self, _: web.Request) -> web.Response:
        urls = [*self.announced, url_of("ws", HOST, self.port, "/v1/live")]
        gateways = [{"id": f"e{number}", "url": url} for number, url in enumerate(urls)]
        return web.json_response({"gateways": gateways, "ticket": "t"}, headers=CORS)

    async def _live(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=(SUBPROTOCOL,))
        await socket.prepare(request)
        await socket.send_str(encode_frame(Hello("e", 1, 20, 25, "u", pull="secret")).decode())
        await socket.receive()
        self.joins += 1
        history = [msgspec.Raw(encode_message(line)) for line in self.lines[: self.seen]]
        card = Card(1, self.seen, 0, messages=history) if history else None
        await socket.send_str(encode_frame(Joined(self.room, 1, self.seen, 0, "0.0", card=card)).decode())
        if news := self.lines[self.seen :]:
            await socket.send_str(self._batch(news, 0))
        await socket.send_str(self._batch([self.end], 2))
        async for _ in socket:
            pass
        return socket

    async def _pulled(self, _: web.Request) -> web.Response:
        self.pulls += 1
        rest = [msgspec.Raw(encode_message(line)) for line in (self.lost, self.end)]
        answer = Pulled(self.room, 1, self.end.seq, 2, f"0.{self.end.seq}", messages=rest)
        return web.Response(body=encode_frame(answer), headers=CORS)

    async def _danmaku(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.sent.put_nowait(body)
        answer = {"id": body.get("id", "i"), "room": self.room, "kind": "danmaku", "at_ms": 5}
        return web.json_response(answer, status=202, headers=CORS)


@asynccontextmanager
async def hostile(lines: Sequence[Message], room: str = "lobby", seen: int = 0) -> AsyncIterator[Hostile]:
    """Serve while the block runs."""
    services = Hostile(lines, room, seen)
    async with serve(services.app, HOST, 0, shutdown_timeout_s=0.2) as (_, services.port):
        yield services


def shown(message: Message) -> str:
    """Return how the client of the document prints a message."""
    return f"{message.seq} {message.kind} {message.user} {json.dumps(msgspec.json.decode(message.data))}"
