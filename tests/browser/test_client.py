"""The SDK's connection against a gateway of its own, in a page that is too busy for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
from aiohttp import ClientConnectionResetError, web

from liveroom.kinds import Kind
from liveroom.ports import HOST
from liveroom.tasks import end_tasks
from liveroom.web import serve
from liveroom.wire import SUBPROTOCOL, BatchHeader, Hello, Joined, Message, encode_frame, encode_message
from tests.browser.chromium import chromium, pages

DEADLINE_S = 60.0  # nothing here takes so long, on whatever machine
BEAT_S = 0.5
WATCH = """async ([scheduler, busyMs]) => {
    const { LiveRoom } = await import("/sdk/liveroom.js");
    const onEffect = ({ type }) => {
        if (type !== "delivered") return;
        const until = performance.now() + busyMs;
        while (performance.now() < until);
    };
    new LiveRoom({ scheduler, rooms: ["r"], onEffect }).start();
}"""


def batch(seq: int) -> str:
    message = encode_message(Message(seq, Kind.DANMAKU, f"d{seq}", "u", 1, data=msgspec.Raw(b'{"text":"hi"}')))
    return b"\n".join((msgspec.json.encode(BatchHeader("r", 1, (seq, seq), 0, at=1, pos="0.1")), message)).decode()


class Gateway:
    """A scheduler and the gateway it names, which pushes as fast as anybody reads."""

    def __init__(self) -> None:
        self.port = 0
        self.upgrades = 0
        self.beats: asyncio.Queue[str] = asyncio.Queue()
        self.app = web.Application()
        self.app.router.add_get("/v1/entry", self.entry)
        self.app.router.add_get("/v1/live", self.live)

    async def entry(self, _: web.Request) -> web.Response:
        gateways = [{"id": "e", "url": f"ws://{HOST}:{self.port}/v1/live"}]
        return web.json_response({"gateways": gateways, "ticket": "t"}, headers={"Access-Control-Allow-Origin": "*"})

    async def live(self, request: web.Request) -> web.WebSocketResponse:
        self.upgrades += 1
        socket = web.WebSocketResponse(protocols=(SUBPROTOCOL,))
        await socket.prepare(request)
        listening = asyncio.create_task(self.listen(socket))
        try:
            await socket.send_str(encode_frame(Hello("e", 1, BEAT_S, 25, "u")).decode())
            await socket.send_str(encode_frame(Joined("r", 1, 0, 0, "0.0")).decode())
            seq = 0
            with suppress(ClientConnectionResetError):
                while True:
                    seq += 1
                    await socket.send_str(batch(seq))
                    if seq % 50 == 0:
                        await asyncio.sleep(0)
        finally:
            await end_tasks(listening)
        return socket

    async def listen(self, socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if msgspec.json.decode(message.data)["t"] == "hb":
                self.beats.put_nowait(message.data)


@asynccontextmanager
async def flooding() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    async with serve(gateway.app, HOST, 0, shutdown_timeout_s=0.2) as (_, gateway.port):
        yield gateway


async def test_a_page_that_gets_more_than_it_can_take_says_that_it_lives_all_the_same() -> None:
    async with flooding() as gateway, pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        await page.evaluate(WATCH, [f"http://{HOST}:{gateway.port}", 1])
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(4):
                await gateway.beats.get()
        assert gateway.upgrades == 1
