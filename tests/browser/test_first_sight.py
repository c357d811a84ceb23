"""The viewers' page for somebody who opens it: a guest is in the room at once, and needs a name to
speak.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from playwright.async_api import expect

from devstack.page_server import PageState
from liveroom.kinds import Role
from tests.browser.chromium import chromium, pages
from tests.browser.site import ROOM, Site, Somebody, site, somebody, until
from viewer.sender import Sender

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

OPEN = '#status[data-state="open"]'


async def set_modes(here: Site, http: aiohttp.ClientSession, **modes: bool) -> None:
    """Set modes of the room as its host does."""
    headers = {"Authorization": f"Bearer {here.system.token('host', Role.OPERATOR)}"}
    async with http.patch(f"{here.system.ingress_url}/v1/rooms/{ROOM}/modes", json=modes, headers=headers) as answer:
        assert answer.status == 202, await answer.text()


@asynccontextmanager
async def visitor(here: Site, path: str = "/", **options: str) -> AsyncIterator[Somebody]:
    """Somebody who has only opened the page."""
    async with chromium() as browser, somebody(browser, here, "", path, enters=False, **options) as one:
        yield one


async def test_the_page_shows_the_room_at_once_to_a_guest(kafka_bootstrap: str) -> None:
    async with site(kafka_bootstrap, edges=1) as here, visitor(here) as guest, aiohttp.ClientSession() as http:
        page = guest.page
        await page.wait_for_selector(OPEN)
        await expect(page.locator("#where")).to_have_text(ROOM)
        await expect(page.locator("#entry")).to_be_hidden()
        await expect(page.locator("#ended")).to_be_hidden()
        assert await page.evaluate("document.activeElement === document.body"), "a phone's keyboard stays away"
        await expect(page.locator("#viewers")).to_have_text("1")
        await Sender(here.system.ingress_url, here.system.token("ben", name="Ben"), http).danmaku(ROOM, "hello")
        await guest.sees("hello")
        assert await page.evaluate("sessionStorage.getItem('user-viewer')") is None, "no token was asked for"
        await guest.is_well()


@pytest.mark.parametrize(
    ("locale", "asked"),
    [("en-US", "Choose a name first, then you can take part."), ("zh-CN", "先取个昵称，就能参与互动了。")],
)
async def test_a_guest_that_wants_to_speak_is_asked_for_a_name_and_the_text_is_sent(
    kafka_bootstrap: str, locale: str, asked: str
) -> None:
    async with site(kafka_bootstrap, edges=1) as here, visitor(here, locale=locale) as ann:
        page = ann.page
        await page.wait_for_selector(OPEN)
        for wish in ("#like", "#give"):
            await page.click(wish)
            await expect(page.locator("#told")).to_have_text(asked)
            await expect(page.locator("#name")).to_be_focused()
            await page.evaluate("document.getElementById('told').textContent = ''; document.activeElement.blur()")
        await ann.says("hello all")
        await expect(page.locator("#told")).to_have_text(asked)
        await expect(page.locator("#name")).to_be_focused()
        assert await page.input_value("#text") == "hello all", "not lost"
        await page.keyboard.type("Ann")
        await page.keyboard.press("Enter")
        await ann.sees("hello all")
        await expect(page.locator("#log li", has_text="hello all")).to_have_count(1)
        await expect(page.locator("#log li.own .user")).to_have_text("Ann")
        await expect(page.locator("#name")).to_be_hidden()
        await expect(page.locator("#text")).to_be_focused()
        assert await page.input_value("#text") == ""
        await expect(page.locator("#viewers")).to_have_text("1")  # the guest is gone
        await page.keyboard.type("and again")
        await page.keyboard.press("Enter")
        await ann.sees("and again")
        await ann.is_well()


async def test_the_keyboard_alone_is_enough_and_the_name_comes_before_the_text(kafka_bootstrap: str) -> None:
    async with site(kafka_bootstrap, edges=1) as here, visitor(here, "/?name=Ann") as ann:
        page = ann.page
        await page.wait_for_selector(OPEN)
        await expect(page.get_by_label("Your name")).to_have_value("Ann")
        await page.focus("#name")
        await page.keyboard.press("Tab")
        await expect(page.locator("#text")).to_be_focused()
        await page.keyboard.type("by keys")
        await page.keyboard.press("Enter")
        await ann.sees("by keys")
        await ann.is_well()


async def test_a_reload_keeps_who_one_is_and_where(kafka_bootstrap: str) -> None:
    async with site(kafka_bootstrap, edges=1) as here, visitor(here, "/?room=other") as ann:
        page = ann.page
        await page.wait_for_selector(OPEN)
        await page.reload()
        await page.wait_for_selector(OPEN)
        await expect(page.locator("#name")).to_be_visible()  # still a guest
        await page.fill("#name", "Ann")
        await ann.says("before")
        await ann.sees("before")
        user = await page.locator("#log .own .user").get_attribute("title")
        await page.reload()
        await page.wait_for_selector(OPEN)
        await expect(page.locator("#name")).to_be_hidden()
        await expect(page.locator("#where")).to_have_text("other")
        await ann.says("after")
        await expect(page.locator("#log .own", has_text="after").locator(".user")).to_have_text("Ann")
        assert await page.locator("#log .own", has_text="after").locator(".user").get_attribute("title") == user
        await page.click("#leave")
        await page.fill("#name", "")
        await page.click("#entry button")
        await page.wait_for_selector(OPEN)
        await expect(page.locator("#name")).to_be_visible()  # a guest again
        await ann.is_well()


async def test_a_room_that_admits_no_guests_says_so_and_asks_for_a_name(kafka_bootstrap: str) -> None:
    async with site(kafka_bootstrap, edges=1) as here, visitor(here) as ann, aiohttp.ClientSession() as http:
        page, ended = ann.page, ann.page.locator("#ended")
        await page.wait_for_selector(OPEN)
        await set_modes(here, http, guests=False)
        await expect(ended).to_have_text("This room does not admit guests. Enter with your name.")  # who is inside is put out
        await expect(page.locator("#name")).to_be_focused()
        await page.reload()
        await expect(ended).to_have_text("This room does not admit guests. Enter with your name.")
        await page.fill("#name", "Ann")
        await page.keyboard.press("Enter")
        await page.wait_for_selector(OPEN)
        await ann.says("with a name")
        await ann.sees("with a name")
        await set_modes(here, http, restricted=True)
        await expect(ended).to_have_text("Only invited people may be in this room.")
        await page.reload()
        await expect(ended).to_have_text("Only invited people may be in this room.")
        await page.click("#language")
        await page.reload()
        await expect(ended).to_have_text("本直播间仅限受邀用户进入。")
        await set_modes(here, http, restricted=False)

        async def enters() -> bool:
            await page.click("#entry button")
            await expect(page.locator(f"{OPEN}, #ended:not([hidden])").first).to_be_visible()
            return await page.locator("#live").is_visible()

        assert await until(enters, wanted=True)
        await ann.is_well()


async def test_a_site_that_admits_no_guests_asks_for_a_name(kafka_bootstrap: str) -> None:
    more = {"settings_of": {"scheduler": {"GUESTS": "false"}}}
    async with site(kafka_bootstrap, edges=1, **more) as here, visitor(here) as ann:
        page = ann.page
        await expect(page.locator("#ended")).to_have_text("This room does not admit guests. Enter with your name.")
        await page.fill("#name", "Ann")
        await page.keyboard.press("Enter")
        await page.wait_for_selector(OPEN)
        await expect(page.locator("#ended")).to_be_hidden()


async def test_a_page_that_opens_before_the_services_are_ready_says_so_and_enters_when_they_are(kafka_bootstrap: str) -> None:
    state = PageState("", [ROOM])
    async with site(kafka_bootstrap, edges=1) as here, pages(state) as url, chromium() as browser:
        page = await browser.new_page(locale="en-US")
        await page.goto(url)
        await expect(page.locator("#ended")).to_have_text("The service is just starting.")
        state.ingress, state.scheduler = here.system.ingress_url, here.system.scheduler_url
        await expect(page.locator("#where")).to_have_text(ROOM)
        await expect(page.locator("#ended")).to_be_hidden()


@pytest.mark.parametrize("path", ["/?room=not+a+room", "/host.html"])
async def test_without_a_room_to_enter_and_for_hosts_there_is_the_form(path: str) -> None:
    state = PageState("k" * 32, [ROOM], "http://127.0.0.1:9", "http://127.0.0.1:9")
    async with pages(state) as url, chromium() as browser:
        page = await browser.new_page(locale="en-US")
        await page.goto(f"{url}{path}")
        await expect(page.locator("#entry")).to_be_visible()
        await expect(page.locator("#live")).to_be_hidden()
        await expect(page.get_by_label("Your name")).to_be_visible()


async def test_clicks_in_a_row_make_one_person_of_a_guest(kafka_bootstrap: str) -> None:
    async with site(kafka_bootstrap, edges=1) as here, visitor(here) as ann:
        page = ann.page
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url) if "/demo/token" in request.url else None)
        await page.wait_for_selector(OPEN)
        await page.fill("#name", "Ann")
        for _ in range(3):
            await page.click("#give")
        await expect(page.locator("#banners li")).to_contain_text("Ann gives rose")
        assert len(asked) == 1
        await ann.is_well()


OVERLAPS = """() => {
    const places = ["theatre", "log", "say", "leave"].map((id) => document.getElementById(id).getBoundingClientRect());
    return places.some((place, index) => places.slice(index + 1).some((other) =>
        place.left < other.right && other.left < place.right && place.top + 1 < other.bottom && other.top + 1 < place.bottom));
}"""


@pytest.mark.parametrize(("width", "height"), [(320, 568), (390, 420), (390, 844), (844, 390), (1280, 800)])
async def test_nothing_lies_over_the_forms_on_small_and_low_screens(width: int, height: int) -> None:
    state = PageState("k" * 32, [ROOM], "http://127.0.0.1:9", "http://127.0.0.1:9")
    async with pages(state) as url, chromium() as browser:
        page = await browser.new_page(viewport={"width": width, "height": height})
        await page.goto(url)
        await expect(page.locator("#say")).to_be_visible()
        assert not await page.evaluate(OVERLAPS)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls down only"
        await page.locator("#name").scroll_into_view_if_needed()
        await page.fill("#name", "Ann")
        await expect(page.locator("#name")).to_be_in_viewport()
