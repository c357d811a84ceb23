"""What the pages say: both languages have everything, and a person is told why, whatever the
refusal.
"""

import re

from devstack.page_server import FOLDER
from liveroom.errors import Code
from tests.browser.chromium import chromium, pages

NOT_FOR_PERSONS = {  # a page that works never sees them
    Code.BAD_REQUEST,
    Code.BODY_LATE,
    Code.BAD_JSON,
    Code.PACKAGE_TOO_LARGE,
    Code.UNSUPPORTED_MEDIA_TYPE,
    Code.NOT_FOUND,
    Code.METHOD_NOT_ALLOWED,
    Code.ROOM_INVALID,
    Code.TOKEN_MISSING,
    Code.TOKEN_INVALID,
    Code.TICKET_INVALID,
    Code.TICKET_EXPIRED,
    Code.TICKET_USED,
    Code.ORIGIN,
    Code.UPGRADE_REQUIRED,
    Code.TOO_MANY_ROOMS,
    Code.NOT_IN_ROOM,
    Code.UNKNOWN_FRAME,
}
READ = """async () => {
    const { TEXTS, REFUSALS, why } = await import("/i18n.js");
    const slow = { code: "slow_mode", status: 429, retryAfterS: 4.2 };
    return [TEXTS, REFUSALS, why(slow), why({ code: "odd", status: 400 }), why({})];
}"""


async def test_both_languages_have_the_same_texts_and_pages_use_no_other() -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page(locale="en-US")
        await page.goto(url)
        texts, refusals, slow, odd, silent = await page.evaluate(READ)
    assert texts["en"].keys() == texts["zh"].keys()
    for key, text in texts["en"].items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", texts["zh"][key])), key
    used: set[str] = set()
    for file in FOLDER.glob("*.*"):
        content = file.read_text(encoding="utf-8")
        used |= set(re.findall(r'data-t(?:-label|-placeholder)?="([^"]+)"', content))
        used |= set(re.findall(r'\bt\("([^"]+)"', content))
    assert used <= texts["en"].keys()
    for language in ("en", "zh"):
        assert {Code(code) for code in refusals[language]} == set(Code) - NOT_FOR_PERSONS
    assert slow == "The room is in slow mode. Try again in 5 s."
    assert odd == "The request was refused (odd)."
    assert silent == "The service does not respond. Try again."
