"""The pages on a running system, driven in a real browser as people do."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from liveroom.kinds import Role
from liveroom.ports import HOST, free_ports
from liveroom.tasks import end_tasks
from liveroom.users import user_id
from tests.browser.chromium import chromium
from tests.browser.site import LINES, ROOM, Site, site, somebody, until
from tests.browser.test_wishes import YOUNGER
from viewer.sender import Accepted, Sender
from viewer.session import PROBE_S

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
SHOTS = os.environ.get("LIVEROOM_SCREENSHOTS")  # a folder to keep them in
SAID_MS = 1000 * (PROBE_S + 30)  # a browser may keep a reset to itself: then the page probes, on whatever machine
PAGES = ("/", "/host.html", "/ops.html")


async def test_people_chat_give_and_moderate(kafka_bootstrap: str) -> None:
    async with (
        site(kafka_bootstrap) as here,
        chromium() as browser,
        somebody(browser, here, "Ann") as ann,
        somebody(browser, here, "Ben") as ben,
        somebody(browser, here, "Boss", "/host.html") as boss,
    ):
        await ann.says("hello Ben")
        await ben.sees("hello Ben")
        await ben.says("你好 Ann")
        await ann.sees("你好 Ann")
        await boss.sees("你好 Ann")

        await ben.page.select_option("#gift", "rocket")
        for _ in range(3):
            await ben.page.click("#give")
        banner = ann.page.locator("#banners li")
        await expect(banner).to_contain_text("Ben gives rocket ×3")
        await expect(boss.page.locator("#giftcount")).to_have_text("3")
        await ann.page.click("#like")
        await expect(ben.page.locator("#likes")).to_have_text("1")
        await expect(ben.page.locator("#viewers")).to_have_text("3")

        await boss.page.fill("#announcement", "Welcome all")
        await boss.page.press("#announcement", "Enter")
        await expect(ann.page.locator("#announcement")).to_contain_text("Welcome all")

        async with somebody(browser, here, "Late") as late:
            await expect(late.page.locator("#announcement")).to_contain_text("Welcome all")
            await late.sees("hello Ben")
            await late.is_well()

        await boss.page.fill("#word", "brandy")
        await boss.page.press("#word", "Enter")
        await expect(boss.page.locator("#wordlist")).to_contain_text("brandy")
        await ann.says("a brandy please")
        await expect(ann.page.locator("#refusal")).to_have_text(
            "That failed. Your message contains a word that this room blocks."
        )
        assert await ann.page.input_value("#text") == "a brandy please", "to be changed, not lost"

        await boss.page.locator("#log li", has_text="hello Ben").get_by_role("button", name="Mute").click()
        await expect(ann.page.locator("#told")).to_contain_text("You are muted")
        await boss.page.locator("#log li", has_text="hello Ben").get_by_role("button", name="Ban").click()
        await expect(ben.page.locator("#log li", has_text="hello Ben")).to_have_count(0)
        await expect(ann.page.locator("#ended")).to_have_text("You are banned from this room. It has no set end.")
        await expect(boss.page.locator("#people")).to_contain_text("banned")
        await expect(ben.page.locator("#log li", has_text="你好 Ann")).to_have_count(1)
        for one in (ann, ben, boss):
            await one.is_well()


async def test_a_host_tells_users_that_look_alike_apart(kafka_bootstrap: str) -> None:
    texts = ["anna", "anna\u200b", "anna ", "\u202eanna", ".."]
    async with (
        site(kafka_bootstrap, edges=1) as here,
        chromium() as browser,
        somebody(browser, here, "Boss", "/host.html") as boss,
        aiohttp.ClientSession() as http,
    ):
        page, people = boss.page, boss.page.locator("#people li")
        await expect(page.locator("#viewers")).to_have_text("1", timeout=20_000)  # in the room: a host's page shows no history
        for text in texts:
            sender = Sender(here.system.ingress_url, here.system.token(text), http)
            assert isinstance(await sender.danmaku(ROOM, "hello"), Accepted)
        await expect(page.locator("#log .user")).to_have_count(len(texts), timeout=20_000)
        for number, text in enumerate(texts, start=1):
            user = f'.user[title="{user_id(text)}"]'
            seen = re.sub("[\u200b\u202e]", "\ufffd", text)
            line = page.locator("#log li", has=page.locator(user))
            assert await line.locator(".user").text_content() == seen
            await line.get_by_role("button", name="Mute").click()
            await expect(people).to_have_count(number)
            assert await people.locator(user).text_content() == seen
        await people.filter(has=page.locator(f'.user[title="{user_id("..")}"]')).get_by_role("button").click()
        await expect(people).to_have_count(len(texts) - 1)
        await expect(people.locator(f'.user[title="{user_id("..")}"]')).to_have_count(0)
        await boss.is_well()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "drained"])
async def test_a_gateway_goes_and_both_pages_go_on_with_nothing_missing(kafka_bootstrap: str, how: signal.Signals) -> None:
    async with (
        site(kafka_bootstrap) as here,
        chromium() as browser,
        somebody(browser, here, "Ann") as ann,
        somebody(browser, here, "Ben") as ben,
        aiohttp.ClientSession() as http,
    ):
        sender = Sender(here.system.ingress_url, here.system.token("giver"), http)
        sent: list[str] = []

        async def give() -> None:
            for _ in range(80):
                outcome = await sender.gift(ROOM, "rose")
                assert isinstance(outcome, Accepted)
                sent.append(outcome.id)
                await asyncio.sleep(0.1)

        async def flows() -> bool:
            return len(await ann.lines()) >= 10 and len(await ben.lines()) >= 10

        giving = asyncio.create_task(give())
        assert await until(flows, wanted=True, timeout_s=60)
        name = await ann.page.get_attribute("#status", "title")
        dead = next(edge for edge in here.system.edges if edge.name == name)
        dead.kill(how)
        await giving
        for one in (ann, ben):
            assert await until(one.lines, sent) == sent, "every gift, once, in order"
            await expect(one.page.locator("#status")).to_have_text("connected")
            await one.is_well()
        assert await ann.page.get_attribute("#status", "title") != name


async def test_where_websocket_is_blocked_it_goes_on_over_http(kafka_bootstrap: str) -> None:
    async with blocking_proxy() as (port, target):
        more = {"settings_of": {"edge": {"PUBLIC_URL": f"ws://{HOST}:{port}/v1/live"}}}
        async with site(kafka_bootstrap, edges=1, **more) as here, chromium() as browser:
            target.append(here.system.edges[0].port)
            async with somebody(browser, here, "Ann") as ann:
                await expect(ann.page.locator("#status")).to_have_text("connected, over HTTP")
                await ann.says("hello")
                await ann.sees("hello")
                await ann.is_well()


@asynccontextmanager
async def blocking_proxy() -> AsyncIterator[tuple[int, list[int]]]:
    """A network that lets HTTP through, and cuts what asks for an upgrade."""
    target: list[int] = []
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if b"upgrade: websocket" in head.lower():
                writer.close()
                return
            there, to_writer = await asyncio.open_connection(HOST, target[0])
            to_writer.write(head)
            for task in (asyncio.create_task(pump(reader, to_writer)), asyncio.create_task(pump(there, writer))):
                tasks.add(task)

    [port] = free_ports(1)
    server = await asyncio.start_server(take, HOST, port)
    try:
        yield port, target
    finally:
        server.close()
        await end_tasks(*tasks)


async def test_a_lost_network_is_said_and_comes_back(kafka_bootstrap: str) -> None:
    async with (
        site(kafka_bootstrap, edges=1) as here,
        chromium() as browser,
        somebody(browser, here, "Ann") as ann,
        aiohttp.ClientSession() as http,
    ):
        edge = here.system.edges[0]
        await ann.page.context.set_offline(offline=True)
        edge.kill(signal.SIGKILL)
        await edge.ended()
        await expect(ann.page.locator("#status")).to_have_text("you are offline", timeout=SAID_MS)
        await edge.start_ready()
        sent = await Sender(here.system.ingress_url, here.system.token("giver"), http).gift(ROOM, "rose")
        assert isinstance(sent, Accepted)
        await ann.page.context.set_offline(offline=False)
        await expect(ann.page.locator("#status")).to_have_text("connected", timeout=SAID_MS)
        assert await until(ann.lines, [sent.id]) == [sent.id]


NO_WEBSOCKET = "delete window.WebSocket;"


async def test_of_seven_tabs_over_event_streams_only_those_in_the_room_say_that_they_are_connected(
    kafka_bootstrap: str,
) -> None:
    """A browser opens six connections to a host, and a stream takes one for good."""
    async with site(kafka_bootstrap, edges=1) as here, chromium() as browser, aiohttp.ClientSession() as http:
        context = await browser.new_context(locale="en-US")
        await context.add_init_script(NO_WEBSOCKET)
        tabs = [await context.new_page() for _ in range(7)]
        for tab in tabs:
            await tab.goto(here.url)
        texts = [tab.locator("#status") for tab in tabs]

        async def connected() -> list[int]:
            found = [await text.text_content() or "" for text in texts]
            return [number for number, text in enumerate(found) if text.startswith("connected")]

        async with asyncio.timeout(90):
            while len(await connected()) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        sender = Sender(here.system.ingress_url, here.system.token("giver"), http)
        for turn in range(6):
            before = await connected()
            outcome = await sender.gift(ROOM, "rose")
            assert isinstance(outcome, Accepted)
            async with asyncio.timeout(60):
                while True:
                    seen = [outcome.id in await tab.locator("#log ol").evaluate(LINES) for tab in tabs]
                    still = set(before) & set(await connected())  # another tab may have taken the place of one
                    if all(seen[number] for number in still):
                        break
                    await asyncio.sleep(0.2)
            assert len(before) < 7, turn
        await context.close()


@pytest.mark.parametrize("path", ["/", "/host.html"])
async def test_people_chat_in_a_browser_of_2021(kafka_bootstrap: str, path: str) -> None:
    async with (
        site(kafka_bootstrap, edges=1) as here,
        chromium() as browser,
        somebody(browser, here, "Ann", path, init=YOUNGER) as ann,
        somebody(browser, here, "Ben", init=YOUNGER) as ben,
    ):
        await ben.says("hello Ann")
        await ann.sees("hello Ann")
        await ben.page.click("#give")
        await expect(ann.page.locator("#banners li, #gifts li")).to_contain_text("Ben", timeout=10_000)
        for one in (ann, ben):
            await one.is_well()


async def test_an_operator_sees_gateways_and_the_pool_and_pauses_it(kafka_bootstrap: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("min = 2\nmax = 2\nwarm_up_s = 3\n", encoding="utf-8")
    more = {"autoscalers": 1, "settings": {"POLICY_FILE": str(policy)}}
    async with (
        site(kafka_bootstrap, edges=0, **more) as here,
        chromium() as browser,
        somebody(browser, here, "Ann") as ann,
        somebody(browser, here, "", "/ops.html", enters=False) as operator,
    ):
        page = operator.page
        await expect(page.locator("#gateways tr")).to_have_count(2)
        await expect(page.locator("#gateways")).to_contain_text("open")
        await expect(page.locator("#hot")).to_contain_text(ROOM)
        await expect(page.locator("#decisions")).to_contain_text("minimum")
        await page.click("#pause")
        await expect(page.locator("#pool")).to_contain_text("paused by operator-")
        await page.click("#resume")
        await expect(page.locator("#pool")).not_to_contain_text("paused")
        await page.click("#language")
        await expect(page.locator("h1")).to_have_text("运维台")
        await expect(page.locator("#gateways")).to_contain_text("可用")
        await operator.is_well()
        await ann.is_well()


XSS = (
    "<script>boom()</script>",
    "<img src=x onerror=boom()>",
    '"><svg onload=boom()>',
    "javascript:boom()",
    "<iframe srcdoc='<script>parent.boom()</script>'>",
    "</li><style>*{display:none}</style>",
    "{{constructor.constructor('boom()')()}}",
    "${boom()}",
    "<a href=javascript:boom()>x</a>",
    "\u202e<b>boom</b>",
)


NAMELESS = "auth0|<img src=x onerror=boom()>"  # a user without a name is shown by the identity service's text


async def test_what_others_send_is_text_and_nothing_else(kafka_bootstrap: str) -> None:
    boom = "window.booms = 0; window.boom = () => { window.booms += 1; };"
    async with (
        site(kafka_bootstrap, edges=1) as here,
        chromium() as browser,
        somebody(browser, here, "Ann", init=boom) as ann,
        somebody(browser, here, "Boss", "/host.html", init=boom) as boss,
        aiohttp.ClientSession() as http,
    ):
        system = here.system
        nameless = Sender(system.ingress_url, system.token(NAMELESS), http)
        assert isinstance(await nameless.danmaku(ROOM, "who am I"), Accepted)
        await expect(ann.page.locator("#log li", has_text="who am I").locator("b")).to_have_text(NAMELESS)
        await boss.page.locator("#log li", has_text="who am I").get_by_role("button", name="Mute").click()
        await expect(boss.page.locator("#people b")).to_have_text(NAMELESS)
        await boss.page.locator("#people").get_by_role("button").click()
        await expect(boss.page.locator("#people b")).to_have_count(0)
        assert isinstance(await nameless.danmaku(ROOM, "I am back"), Accepted)
        for number, text in enumerate(XSS):
            villain = Sender(system.ingress_url, system.token(f"villain-{number}", name=text[:64]), http)
            host = Sender(system.ingress_url, system.token("host", Role.OPERATOR, name=text[:64]), http)
            assert isinstance(await villain.danmaku(ROOM, text), Accepted)
            assert isinstance(await villain.gift(ROOM, "rose", to=text[:64]), Accepted)
            assert isinstance(await host.send(ROOM, "announcements", {"text": text}), Accepted)
            goods = {"goods": "g1", "title": text, "price": 100, "currency": "CNY"}
            assert isinstance(await host.send(ROOM, "goods", goods), Accepted)
            assert isinstance(await host.send(ROOM, "red-packets", {"packet": "p1", "text": text}), Accepted)
            await expect(ann.page.locator("#announcement")).to_contain_text(text.lstrip())
        for one in (ann, boss):
            await one.sees(XSS[0])
            found = await one.page.locator("#log li.danmaku > span:not(.actions):not(.times)").all_text_contents()
            assert [text for text in XSS if text not in found] == [], "shown as it was written"
            assert await one.page.evaluate("window.booms") == 0
            assert await one.page.locator("main script, main iframe, main img, main svg, main style").count() == 0
            await one.is_well()


@pytest.mark.parametrize(("width", "scheme", "locale"), [(1280, "light", "en-US"), (390, "dark", "zh-CN")])
async def test_pages_fit_and_are_open_to_all(kafka_bootstrap: str, width: int, scheme: str, locale: str) -> None:
    options: dict[str, Any] = {
        "viewport": {"width": width, "height": 800},
        "color_scheme": scheme,
        "locale": locale,
        "bypass_csp": True,
    }
    async with site(kafka_bootstrap, edges=1) as here, chromium() as browser, aiohttp.ClientSession() as http:
        for path in PAGES:
            async with somebody(browser, here, "Ann", path, enters=False, **options) as ann:
                page = ann.page
                if path != "/ops.html":
                    if path == "/":
                        await page.wait_for_selector('#status[data-state="open"]')
                        await _look_at(page, f"{path} guest {width}")
                        await page.click("#leave")
                    await _look_at(page, f"{path} entry {width}")
                    await page.fill("#name", "Ann")
                    await page.press("#name", "Enter")
                    await page.wait_for_selector('#status[data-state="open"]')
                    await _speak(here, http)
                    await page.wait_for_selector("#log li.danmaku")
                else:
                    await page.wait_for_selector("#gateways tr")
                await _look_at(page, f"{path} {width}")
                assert ann.errors == []


async def _speak(here: Site, http: aiohttp.ClientSession) -> None:
    system = here.system
    sender = Sender(system.ingress_url, system.token("ben", name="Ben"), http)
    host = Sender(system.ingress_url, system.token("host", Role.OPERATOR), http)
    await sender.danmaku(ROOM, "hello " + "很长的话" * 20, color=0xFF8800)
    await sender.gift(ROOM, "rose")
    await host.send(ROOM, "goods", {"goods": "g1", "title": "Tea " * 20, "price": 1990, "currency": "CNY"})
    await host.send(ROOM, "announcements", {"text": "Welcome " * 30})


async def _look_at(page: Page, name: str) -> None:
    """Hold that a page does not scroll sideways, and that axe finds nothing serious."""
    await page.wait_for_timeout(400)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} scrolls sideways"
    if SHOTS:
        await page.screenshot(path=Path(SHOTS) / f"{re.sub(r'[^a-z0-9]+', '-', name).strip('-')}.png")
    found = (await Axe().run(page)).response["violations"]
    serious = [
        (one["id"], [node["html"][:100] for node in one["nodes"][:3]])
        for one in found
        if one["impact"] in {"serious", "critical"}
    ]
    assert serious == [], name
