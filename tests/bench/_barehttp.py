"""The baselines of ingress and entry: aiohttp alone, JSON in and JSON out; an entry that is always
the same.

`python -m tests.bench._barehttp` says its port.
"""

import asyncio

import uvloop
from aiohttp import web

from liveroom.web import serve

_GATEWAY = {"id": "e1", "url": "ws://127.0.0.1:1/v1/live", "host": "h", "ip": "127.0.0.1", "port": 1, "weight": 1.5}
ANSWER = {"gateways": [_GATEWAY] * 3, "ticket": "t" * 300, "expires_ms": 1, "user": "guest-1", "role": "guest"}


async def _take(request: web.Request) -> web.Response:
    body = await request.json()
    return web.json_response(
        {"id": "1", "room": request.match_info["room"], "kind": "danmaku", "chars": len(body["text"])}, status=202
    )


async def _answer(request: web.Request) -> web.Response:
    return web.json_response(ANSWER | {"rooms": request.query.getall("room")})


async def main() -> None:
    app = web.Application()
    app.router.add_get("/v1/entry", _answer)
    app.router.add_post("/v1/rooms/{room}/danmaku", _take)
    async with serve(app, "127.0.0.1", 0) as (_, port):
        print(port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
