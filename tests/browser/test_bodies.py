"""What the pages show of bodies that hold something else than they should."""

import pytest

from tests.browser.chromium import chromium, pages
from tests.hostile import COUNTS

BANNER = """async (bodies) => {
    const { Banners } = await import("/stage.js");
    const { said } = await import("/chat.js");
    return bodies.map((body) => {
        const place = document.createElement("ol");
        const banners = new Banners(place);
        const message = { kind: "gift", user: "ann", name: "Ann", data: JSON.parse(body) };
        banners.add(message);
        banners.add(message);
        const shown = place.textContent;
        banners.empty();
        return [said(message), shown];
    });
}"""
ODD = ("null", "5", "true", "{}", "[]", '""')
SAID = """async (bodies) => {
    const { said } = await import("/chat.js");
    return bodies.map(([kind, body]) => said({ kind, user: "ann", name: "Ann", data: JSON.parse(body) }));
}"""
FLIES = """async (bodies) => {
    const { Stage } = await import("/stage.js");
    const place = document.createElement("div");
    place.style.cssText = "width:800px;height:600px";
    document.body.append(place);
    const stage = new Stage(place);
    stage.mostPerS = stage.left = 1000;
    for (const body of bodies) stage.fly({ data: JSON.parse(body), n: 1 });
    return stage.danmaku.comments.map(({ text, mode, style }) => [text, mode, style.font.split(" ")[1], style.fillStyle]);
}"""


async def test_a_banner_counts_what_is_a_number_and_nothing_else() -> None:
    bodies = [f'{{"gift":"rose","count":{count},"combo":{count}}}' for count in COUNTS]
    async with pages() as url, chromium() as browser:
        page = await browser.new_page(locale="en-US")
        await page.goto(url)
        found = await page.evaluate(BANNER, bodies)
    for (said, shown), (written, count) in zip(found, COUNTS.items(), strict=True):
        assert said.endswith(f" ×{count}"), written
        combo = f" combo {count}" if count > 1 else ""
        if count < 2**52:  # twice as much is no whole number of a browser any more
            assert shown.endswith(f" ×{2 * count}{combo}"), written


@pytest.mark.parametrize("kind", ["danmaku", "announcement", "gift", "red_packet", "goods"])
async def test_a_line_of_the_chat_shows_texts_and_nothing_else(kind: str) -> None:
    names = {"gift": "gift", "goods": "title"}
    async with pages() as url, chromium() as browser:
        page = await browser.new_page(locale="en-US")
        await page.goto(url)
        bodies = [[kind, f'{{"{names.get(kind, "text")}":{value}}}'] for value in ODD]
        found = await page.evaluate(SAID, [*bodies, [kind, "{}"]])
    assert len(set(found)) == 1
    assert not any(word in found[0] for word in ("null", "undefined", "[object", "NaN", "true", "5"))


async def test_the_stage_takes_odd_sizes_colours_and_modes_for_the_usual_ones() -> None:
    odd = [*ODD, "-5", "1e999", "0.5", "16777216", '"constructor"', '"__proto__"', '"12"']
    bodies = [f'{{"text":"hi","size":{value},"color":{value},"mode":{value}}}' for value in odd]
    async with pages() as url, chromium() as browser:
        page = await browser.new_page(locale="en-US")
        await page.goto(url)
        found = await page.evaluate(FLIES, [*bodies, *(f'{{"text":{value}}}' for value in ODD), "{}"])
    assert len(found) == len(bodies), "what has no text does not fly"
    assert {text for text, *_ in found} == {"hi"}
    assert {mode for _, mode, *_ in found} == {"rtl"}
    assert {size for *_, size, _ in found} <= {"22px", "14px", "36px"}
    assert {colour for *_, colour in found} <= {"#fff", "#000005"}
