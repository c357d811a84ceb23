"""A page of one's own origin beside `liveroom up --origin`: it enters, connects and sends."""

import asyncio
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.chromium import chromium
from tests.browser.test_documented_client import beside
from tests.docs.blocks import only_body
from tests.up import MINE, Up

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
OTHER = "http://other.test:5173"
TOKEN = "liveroom token --user ann --name Ann"
ASKS = "url => fetch(url).then((answer) => answer.status, () => 'the browser keeps the answer to itself')"


async def test_a_page_of_an_origin_that_up_names_is_in_the_room_and_another_is_not(up: Up) -> None:
    done = await asyncio.to_thread(up.run, f'echo "$LIVEROOM_SCHEDULER_URL" "$LIVEROOM_INGRESS_URL" "$({TOKEN})"')
    scheduler, ingress, token = done.stdout.split()
    html = only_body("docs/sdk.md", "html").replace("https://entry.example", scheduler).replace("https://send.example", ingress)
    async with beside(html, token) as url:
        here = url.removeprefix("http://").partition("/")[0]
        mapped = ",".join(f"MAP {origin.removeprefix('http://')} {here}" for origin in (MINE, OTHER))
        async with chromium("--no-proxy-server", f"--host-resolver-rules={mapped}") as browser:
            page = await browser.new_page()
            logged = _logged(page)
            await page.goto(f"{MINE}/page.html")
            await expect(page.locator("#chat li", has_text="Ann: hello")).to_have_count(1)
            assert any(line.startswith("sent") for line in logged), logged
            assert await page.evaluate(ASKS, f"{scheduler}/v1/entry?room=lobby") == 200

            await page.goto(f"{OTHER}/page.html")
            refused: Any = await page.evaluate(ASKS, f"{scheduler}/v1/entry?room=lobby")
            assert refused == "the browser keeps the answer to itself"
            await expect(page.locator("#chat li")).to_have_count(0)


def _logged(page: Page) -> list[str]:
    lines: list[str] = []
    page.on("console", lambda line: lines.append(line.text))
    return lines
