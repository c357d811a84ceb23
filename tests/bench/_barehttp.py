"""The baseline of the ingress: aiohttp alone, JSON in and JSON out. `python -m tests.bench._barehttp` says its port."""

import asyncio

import uvloop
from aiohttp import web

from liveroom.web import serve


async def _take(request: web.Request) -> web.Response:
    body = await request.json()
    return web.json_response(
        {"id": "1", "room": request.match_info["room"], "kind": "danmaku", "chars": len(body["text"])}, status=202
    )


async def main() -> None:
    app = web.Application()
    app.router.add_post("/v1/rooms/{room}/danmaku", _take)
    async with serve(app, "127.0.0.1", 0) as (_, port):
        print(port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
