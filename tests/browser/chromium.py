"""A real Chromium, without a window, as `tests.prepare` found or brought it.

Missing is a failure, not a skip.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from playwright.async_api import Browser, async_playwright, expect

from devstack.page_server import FOLDER, PageState, make_page
from devstack.programs import CHROMIUM, need
from liveroom.ports import HOST
from liveroom.web import serve
from tests.browser.node import NODE

EXPECT_MS = 20_000  # a page beside other tests waits for the processor
ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")


@asynccontextmanager
async def chromium(*more: str) -> AsyncIterator[Browser]:
    """Run it while the block runs."""
    os.environ[NODE.variable] = need(NODE)
    expect.set_options(timeout=EXPECT_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=need(CHROMIUM), args=[*ARGUMENTS, *more])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def pages(state: PageState | None = None) -> AsyncIterator[str]:
    """Serve the pages, with no services behind them unless `state` names some; gives their
    address.
    """
    app: web.Application = make_page(state or PageState("k" * 32, ["lobby"]))
    assert FOLDER.is_dir()
    async with serve(app, HOST, 0, shutdown_timeout_s=0.2) as (_, port):
        yield f"http://{HOST}:{port}"
