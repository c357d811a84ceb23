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
    const proxys = { code: "http_error", status: 502 };
    const failures = [{ code: "network", status: 0 }, proxys, { code: "token_failed", cause: slow }];
    const banned = { code: "banned", until_ms: new Date(2026, 10, 28, 17, 3).getTime(), detail: "spam" }; // in a frame
    const muted = { code: "muted", status: 403, untilMs: -1, detail: "", retryAfterS: 0 }; // of a call
    const said = [slow, { code: "odd", status: 400 }, {}, ...failures, banned, muted].map(why);
    return [TEXTS, REFUSALS, said];
}"""


async def test_both_languages_have_the_same_texts_and_pages_use_no_other() -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page(locale="en-US")
        await page.goto(url)
        texts, refusals, said = await page.evaluate(READ)
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
    slow, silent = "The room is in slow mode. Try again in 5 s.", "The service does not respond. Try again."
    ban = "You are banned from this room. It ends at Nov 28, 2026, 5:03 PM. Reason: spam"
    assert [text.replace("\N{NARROW NO-BREAK SPACE}", " ") for text in said] == [
        slow, "The request was refused (odd).", silent, silent, "The request was refused (502).", slow,
        ban, "You are muted in this room. It has no set end.",
    ]  # fmt: skip
