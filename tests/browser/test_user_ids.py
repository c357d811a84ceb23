"""The rule of user ids in JavaScript gives what it gives in Python, by one table."""

from pathlib import Path

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


async def test_the_table_holds_in_javascript() -> None:
    async with pages() as url, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/sdk/session.js")
        wrong, texts, ids = await page.evaluate(RUN, TABLE.read_text())
    assert wrong == []
    assert {*texts, *ids} == {None}
