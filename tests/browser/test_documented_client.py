"""The page that the SDK's document shows, run as it stands against what people write."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from playwright.async_api import ConsoleMessage

from devstack.page_server import FOLDER
from liveroom.addresses import url_of
from liveroom.ports import HOST
from liveroom.web import serve
from tests.browser.chromium import chromium
from tests.docs.test_clients import block
from tests.hostile import PULLED, TEXTS, hostile, texts

DEADLINE_S = 60.0  # nothing here takes so long, on whatever machine


@asynccontextmanager
async def beside(html: str) -> AsyncIterator[str]:
    """Serve a page beside the SDK and an identity service; give its address."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html")

    async def identify(_: web.Request) -> web.Response:
        return web.Response(text="token")

    app = web.Application()
    app.router.add_get("/page.html", show)
    app.router.add_get("/my/identity/service", identify)
    app.router.add_static("/sdk", FOLDER / "sdk")
    async with serve(app, HOST, 0, shutdown_timeout_s=0.2) as (_, port):
        yield url_of("http", HOST, port, "/page.html")


async def test_the_page_of_the_document_shows_every_hostile_text_once_and_sends() -> None:
    logged: list[list[Any]] = []
    errors: list[str] = []
    has_all = asyncio.Event()

    async def note(line: ConsoleMessage) -> None:
        values = [await value.json_value() for value in line.args]
        if values and isinstance(values[-1], dict):
            logged.append(values)
        if len(logged) == len(TEXTS) + 2:
            has_all.set()

    async with hostile(texts()) as services:
        html = block("docs/sdk.md", "html")
        for address in ("https://entry.example", "https://send.example"):
            assert address in html
            html = html.replace(address, f"{services.url}/")  # as some write it
        async with beside(html) as url, chromium() as browser, asyncio.timeout(DEADLINE_S):
            here = await browser.new_page()
            here.on("pageerror", lambda error: errors.append(str(error)))
            here.on("console", note)
            await here.goto(url)
            assert (await services.sent.get())["text"] == "hello"
            await has_all.wait()
    assert errors == []
    danmaku = [(name, data) for name, data in logged if "text" in data]
    assert danmaku == [(f"Ann{text[:40]}", {"text": text}) for text in TEXTS]
    assert [data for _, data in logged if "gift" in data] == [{"gift": "end"}, PULLED]
    assert services.joins == 1
