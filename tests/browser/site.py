"""The pages on a running system, and people at them in a real browser."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page, expect

from devstack.page_server import PageState, make_page
from devstack.system import System
from liveroom.ports import HOST, free_ports
from liveroom.web import serve
from tests.e2e.audience import knows_gateways

ROOM = "lobby"
WATCH_CSP = """
window.violations = [];
document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
    window.violations.push(`${violatedDirective} ${blockedURI}`));
"""
LINES = "list => [...list.children].filter((line) => line.message).map(({ message }) => message.id)"


class Site:
    """Where the pages are, and what they are the pages of."""

    def __init__(self, url: str, system: System) -> None:
        self.url = url
        self.system = system


@asynccontextmanager
async def site(bootstrap: str, *, edges: int = 2, **more: Any) -> AsyncIterator[Site]:
    """Run a system with its pages while the block runs."""
    [port] = free_ports(1)
    state = PageState("", [ROOM])
    async with serve(make_page(state), HOST, port, shutdown_timeout_s=0.2):
        url = f"http://{HOST}:{port}"
        prefix = f"p{secrets.token_hex(4)}."
        async with System(bootstrap, prefix=prefix, partitions=2, edges=edges, origins=(url,), **more) as system:
            await knows_gateways(system, edges or 1)
            state.token_key, state.ingress, state.scheduler = system.token_key, system.ingress_url, system.scheduler_url
            state.autoscaler = system.autoscalers[0].url if system.autoscalers else None
            yield Site(url, system)


class Somebody:
    """A person at a page, with a browser of their own: what they see, and whether the page
    complained.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))

    async def lines(self) -> list[str]:
        """Return the ids of the messages in the chat, as they stand there."""
        found: list[str] = await self.page.locator("#log ol").evaluate(LINES)
        return found

    async def says(self, text: str) -> None:
        await self.page.fill("#text", text)
        await self.page.press("#text", "Enter")

    async def sees(self, text: str) -> None:
        await expect(self.page.locator("#log li", has_text=text).first).to_be_visible()

    async def is_well(self) -> None:
        """Hold that nothing went wrong within the page."""
        assert self.errors == []
        assert await self.page.evaluate("window.violations") == []


@asynccontextmanager
async def somebody(
    browser: Browser, here: Site, name: str, path: str = "/", *, init: str = "", enters: bool = True, **options: Any
) -> AsyncIterator[Somebody]:
    """Somebody who has entered the room by name; on the viewers' page they were a guest before."""
    context: BrowserContext = await browser.new_context(
        **{"viewport": {"width": 1280, "height": 800}, "locale": "en-US"} | options
    )
    await context.add_init_script(WATCH_CSP + init)
    page = await context.new_page()
    person = Somebody(page)
    try:
        await page.goto(here.url + path)
        if enters:
            await page.fill("#name", name)
            await page.press("#name", "Enter")
            await expect(page.locator("#name")).to_be_hidden()
            await expect(page.locator("#status")).to_have_attribute("data-state", "open")
        yield person
    finally:
        await context.close()


async def until(found: Any, wanted: Any, timeout_s: float = 15) -> Any:
    """Ask until it is as wanted, or the time is over; return what it is."""
    async with asyncio.timeout(timeout_s + 5):
        end = asyncio.get_running_loop().time() + timeout_s
        while (got := await found()) != wanted and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return got
