"""A room with 1,000 messages a second in the viewer's page: what becomes of its memory and its
frames.

Beside it, in the same run and under the same load, a page with nothing on it: this machine's own
hitches.
"""

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import aiohttp
import orjson
from playwright.async_api import Page

from cli.danmaku import default_file, read_file
from devstack.system import System
from liveroom.kinds import Role
from liveroom.tasks import end_tasks
from tests.browser.chromium import chromium
from tests.browser.site import ROOM, site, somebody, until
from tests.rates import UNLIMITED
from viewer.client import Viewer
from viewer.effects import Delivered, Effect

PER_S = 1000
EVERY_S = 0.1
WARM_S = 8.0
EMPTY_S = 5.0
LONG_MS = 50
COUNT_FRAMES = f"""
window.paced = {{ frames: 0, long: 0 }};
let last = performance.now();
requestAnimationFrame(function tick(now) {{
    window.paced.frames += 1;
    if (now - last > {LONG_MS}) window.paced.long += 1;
    last = now;
    requestAnimationFrame(tick);
}});
"""
COUNT_LINES = r"""
window.stood = 0;
new MutationObserver((changes) => {
    for (const line of changes.flatMap(({ addedNodes }) => [...addedNodes]))
        window.stood += line.message ? 1 : Number(/^(\d+) more messages$/.exec(line.textContent)?.[1] ?? 0);
}).observe(document.querySelector("#log ol"), { childList: true });
"""
NEWEST = "() => [...document.querySelectorAll('#log li')].findLast((line) => line.message)?.message.at ?? 0"


class Paced(NamedTuple):
    """Frames and those over 50 ms a second, of the room's page and of an empty one; its heap after
    garbage collection in MiB, warm and at the end; its lines; how old its newest message was, in
    seconds, in the median of the first and of the last third; how many messages stood in it or were
    counted as more, in the end, of how many the room had."""

    frames_per_s: float
    long_per_s: float
    empty_frames_per_s: float
    empty_long_per_s: float
    heap_before_mib: float
    heap_mib: float
    lines: int
    behind_first_s: float
    behind_last_s: float
    stood: int
    numbered: int


async def paced(bootstrap: str, seconds: float) -> Paced:
    """Watch the page for so long."""
    settings = {**UNLIMITED}
    numbered = 0

    def note(effect: Effect) -> None:
        nonlocal numbered
        if isinstance(effect, Delivered):
            numbered = max(numbered, effect.message.seq)

    async with (
        site(bootstrap, edges=1, settings=settings) as here,
        chromium("--js-flags=--expose-gc") as browser,
        somebody(browser, here, "Ann") as ann,
        aiohttp.ClientSession() as http,
        Viewer(here.system.scheduler_url, [ROOM], http=http, on_effect=note) as beside,
    ):
        await beside.joined()
        await ann.page.evaluate(COUNT_LINES)
        async with talking(here.system):
            await asyncio.sleep(WARM_S)
            before = await heap_mib(ann.page)
            empty = await ann.page.context.new_page()
            await empty.goto("about:blank")
            await empty.bring_to_front()
            empty_frames, empty_long = await frames_per_s(empty, EMPTY_S)
            await empty.close()
            await ann.page.bring_to_front()
            watching = asyncio.create_task(behind(ann.page, seconds))
            frames, long = await frames_per_s(ann.page, seconds)
            ages = await watching
            after = await heap_mib(ann.page)
            lines = await ann.page.locator("#log li").count()
        last = None
        while last != numbered:  # what was on its way
            last = numbered
            await asyncio.sleep(1)
        stood = await until(partial(ann.page.evaluate, "window.stood"), numbered)
        await ann.is_well()
        third = len(ages) // 3
        first_s, last_s = statistics.median(ages[:third]), statistics.median(ages[-third:])
        return Paced(frames, long, empty_frames, empty_long, before, after, lines, first_s, last_s, stood, numbered)


async def behind(page: Page, seconds: float) -> list[float]:
    """Return how old the newest message was, once a second."""
    ages: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(1)
        ages.append(time.time() - await page.evaluate(NEWEST) / 1000)
    return ages


async def frames_per_s(page: Page, seconds: float) -> tuple[float, float]:
    """Return frames and long ones a second."""
    await page.evaluate(COUNT_FRAMES)
    began = time.monotonic()
    await asyncio.sleep(seconds)
    seen = await page.evaluate("window.paced")
    passed = time.monotonic() - began
    return seen["frames"] / passed, seen["long"] / passed


async def heap_mib(page: Page) -> float:
    """Return what the page's scripts hold."""
    session = await page.context.new_cdp_session(page)
    await session.send("HeapProfiler.collectGarbage")
    used: float = (await session.send("Runtime.getHeapUsage"))["usedSize"] / 2**20
    await session.detach()
    return used


@asynccontextmanager
async def talking(system: System) -> AsyncIterator[None]:
    """Real danmaku, and a gift in a hundred, 1,000 a second while the block runs."""
    texts = [line.body.text for line in read_file(default_file()).lines]
    token = system.token("upstream", Role.SERVICE, ttl_s=86_400)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def item(number: int) -> dict[str, object]:
        is_gift = number % 100 == 0
        return {
            "room": ROOM,
            "user": f"u{number % 480}",
            "kind": "gift" if is_gift else "danmaku",
            "id": secrets.token_hex(8),
            "data": {"gift": "rose"} if is_gift else {"text": texts[number % len(texts)]},
        }

    async def talk(http: aiohttp.ClientSession) -> None:
        began, number = time.monotonic(), 0
        while True:
            await asyncio.sleep(EVERY_S)
            due = int((time.monotonic() - began) * PER_S) - number
            body = orjson.dumps({"items": [item(number + each) for each in range(min(due, 1000))]})
            async with http.post(f"{system.ingress_url}/v1/interactions", data=body, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
            number += due

    async with aiohttp.ClientSession() as http:
        task = asyncio.create_task(talk(http))
        try:
            yield
            if task.done():
                task.result()
        finally:
            await end_tasks(task)
