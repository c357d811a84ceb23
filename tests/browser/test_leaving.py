"""The names of the viewers' page: one that shows nothing, and one that is made known too late."""

import asyncio

from playwright.async_api import Route, expect

from devstack.page_server import PageState
from tests.browser.chromium import chromium, pages
from tests.rooms import DEADLINE_S, serving_rooms

OPEN = '#status[data-state="open"]'


async def test_who_leaves_while_the_name_is_made_known_stays_out_of_the_room() -> None:
    async with serving_rooms() as rooms, chromium() as browser, asyncio.timeout(3 * DEADLINE_S):
        state = PageState("k" * 32, ["lobby"], rooms.url, rooms.url)
        async with pages(state) as url:
            page = await browser.new_page(locale="en-US")
            asked, goes = asyncio.Event(), asyncio.Event()

            async def answer_late(route: Route) -> None:
                asked.set()
                await goes.wait()
                await route.continue_()

            await page.route("**/demo/token", answer_late)
            await page.goto(url)
            await page.wait_for_selector(OPEN)
            await page.fill("#name", "Ann")
            await page.click("#give")
            await asked.wait()
            await page.click("#leave")
            await expect(page.locator("#entry")).to_be_visible()
            async with page.expect_response("**/demo/token"):
                goes.set()
            await page.evaluate("fetch('/demo/config').then((answer) => answer.text())")  # what followed the answer is done
            await expect(page.locator("#live")).to_be_hidden()
            assert len(rooms.entries) == 1
            await page.click("#entry button")  # whoever wants in again gets in
            await page.wait_for_selector(OPEN)
            assert len(rooms.entries) == 2


async def test_a_name_that_shows_nothing_is_refused_with_the_reason() -> None:
    async with (
        asyncio.timeout(3 * DEADLINE_S),
        serving_rooms() as rooms,
        pages(PageState("k" * 32, ["lobby"], rooms.url, rooms.url)) as url,
        chromium() as browser,
    ):
        page = await browser.new_page(locale="en-US")
        await page.goto(url)
        await page.wait_for_selector(OPEN)
        await page.click("#leave")
        await page.fill("#name", "\u3164")
        await page.click("#entry button")
        await expect(page.locator("#ended")).to_have_text("This name shows nothing. Choose one that others can see.")
        await expect(page.locator("#entry")).to_be_visible()
        await page.fill("#name", "Ann")
        await page.click("#entry button")
        await page.wait_for_selector(OPEN)
        await expect(page.locator("#ended")).to_be_hidden()
