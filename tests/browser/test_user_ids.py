"""The rule of user ids in JavaScript gives what it gives in Python, by one table."""

from pathlib import Path

from liveroom.users import user_id
from tests.browser.chromium import chromium, pages

TABLE = Path(__file__).parents[1] / "data/user-ids.json"
RUN = """async (text) => {
    const { userId, userText } = await import("/sdk/liveroom.js");
    const { texts, no_texts, no_ids } = JSON.parse(text);
    const refuses = (call, given) => {
        try {
            return `${JSON.stringify(given)} gives ${JSON.stringify(call(given))}`;
        } catch (error) {
            return error instanceof RangeError ? null : String(error);
        }
    };
    const wrong = texts.filter(([one, user]) => userId(one) !== user || userText(user) !== one);
    return [wrong, no_texts.map((one) => refuses(userId, one)), no_ids.map((one) => refuses(userText, one))];
}"""
NO_TEXTS = """async () => {
    const { userId, userText } = await import("/sdk/liveroom.js");
    const outcome = (call, given) => {
        try {
            return `${String(given)} gives ${String(call(given))}`;
        } catch (error) {
            return error.constructor.name;
        }
    };
    return [42, null, undefined, true, ["a"], {}, 0].flatMap((one) => [outcome(userId, one), outcome(userText, one)]);
}"""
JOINED = "\U0001f469\u200d\U0001f467 \u0639\u0644\u06cc\u200c\u0631\u0636\u0627"  # a family, and a Persian name
# The text of a user, the name, and what people see.
SHOWN: list[tuple[str, str, str]] = [
    ("anna", "", "anna"),
    ("anna\u200b", "", "anna\ufffd"),
    ("\u202eanna", "", "\ufffdanna"),
    ("anna\u00ad", "", "anna\ufffd"),
    ("a\u200db", "", "a\ufffdb"),
    ("anna", "An\u200bna\u202e", "An\u200bna\ufffd"),
    ("anna", "\u0e2a\u0e21\u200b\u0e0a\u0e32\u0e22", "\u0e2a\u0e21\u200b\u0e0a\u0e32\u0e22"),  # a Thai name
    ("anna", JOINED, JOINED),
]
SHOW = """async (rows) => {
    const { userElement } = await import("/common.js");
    const { userId } = await import("/sdk/liveroom.js");
    return rows.map(([text, name]) => {
        const made = userElement(userId(text), name);
        return [made.textContent, made.title];
    });
}"""


async def test_the_table_holds_in_javascript() -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        wrong, texts, ids = await page.evaluate(RUN, TABLE.read_text(encoding="utf-8"))
    assert wrong == []
    assert {*texts, *ids} == {None}


async def test_what_is_not_a_text_has_no_user_id_and_is_none() -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        assert {*await page.evaluate(NO_TEXTS)} == {"TypeError"}


async def test_users_that_look_alike_differ_in_what_the_pages_show_or_in_its_title() -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/host.html")
        shown = await page.evaluate(SHOW, SHOWN)
    assert shown == [[seen, user_id(text)] for text, _, seen in SHOWN]
