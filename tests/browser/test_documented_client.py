"""The page that the SDK's document shows, run as it stands against what people write."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web
from msgspec.structs import replace

from devstack.page_server import FOLDER
from liveroom.addresses import url_of
from liveroom.bodies import Clear
from liveroom.kinds import Kind
from liveroom.ports import HOST
from liveroom.web import serve
from liveroom.wire import Message
from tests.browser.chromium import chromium
from tests.docs.blocks import only_body
from tests.hostile import PULLED, TEXTS, danmaku, hostile, texts

DEADLINE_S = 60.0  # nothing here takes so long, on whatever machine


@asynccontextmanager
async def beside(html: str, token: str = "token") -> AsyncIterator[str]:
    """Serve a page beside the SDK and an identity service; give its address."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html")

    async def identify(_: web.Request) -> web.Response:
        return web.Response(text=token)

    app = web.Application()
    app.router.add_get("/page.html", show)
    app.router.add_get("/my/identity/service", identify)
    app.router.add_static("/sdk", FOLDER / "sdk")
    async with serve(app, HOST, 0, shutdown_timeout_s=0.2) as (_, port):
        yield url_of("http", HOST, port, "/page.html")


LINES = "[...document.querySelectorAll('#chat li')].map((line) => line.textContent)"


async def test_the_page_of_the_document_shows_history_and_news_and_what_is_cleared_no_more() -> None:
    errors: list[str] = []
    logged: list[str] = []
    lines = texts()
    cleared = [Clear(id=lines[0].id, sender=lines[0].user), Clear(id="i2", sender="somebody else"), Clear(user="ben")]
    lines.append(replace(danmaku(len(lines) + 1, "spam"), user="ben"))
    for clear in cleared:
        lines.append(
            Message(len(lines) + 1, Kind.CLEAR, f"c{len(lines)}", "host", 1, data=msgspec.Raw(msgspec.json.encode(clear)))
        )
    wanted = [f"{line.name}: {text}" for line, text in zip(texts(), TEXTS, strict=True)][1:]
    gifts = [f"ann: {PULLED['gift']} x3", "ann: end x1"]
    async with hostile(lines, seen=4) as services:
        html = only_body("docs/sdk.md", "html")
        for address in ("https://entry.example", "https://send.example"):
            assert address in html
            html = html.replace(address, f"{services.url}/")  # as some write it
        async with beside(html) as url, chromium() as browser, asyncio.timeout(DEADLINE_S):
            here = await browser.new_page()
            here.on("pageerror", lambda error: errors.append(str(error)))
            here.on("console", lambda line: logged.append(line.text))
            await here.goto(url)
            assert (await services.sent.get())["text"] == "hello"
            await here.wait_for_function(f"(count) => {LINES}.length === count", arg=len(wanted) + len(gifts))
            shown = await here.evaluate(LINES)
    assert errors == []
    assert shown == [*wanted, *gifts]
    assert "sent as it is" in logged
    assert services.joins == 1
