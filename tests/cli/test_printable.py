"""Texts of the world in a terminal: none turns what stands beside it or loses a character."""

import json
from typing import Any

import msgspec
import pytest

from cli.printable import json_line, plain, printable, printable_user
from cli.watch import line_of
from liveroom.kinds import Kind
from liveroom.users import user_id
from liveroom.wire import Message

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
PERSIAN = "می‌خواهم"
NEW = "\U0001fae8\U0001faef\U0001fae9"  # newer than the table of Python 3.11
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
HINDI = "क्‍ष"
SHALOM = "שלום"


def message(kind: Kind, body: dict[str, Any], *, name: str = "Ann", user: str = "u1", n: int = 1) -> Message:
    return Message(7, kind, "i", user, 0, name=name, n=n, data=msgspec.Raw(json.dumps(body).encode()))


@pytest.mark.parametrize("text", [FAMILY, NEW, ENGLAND, HINDI, "👍🏽", "❤️ 1️⃣", "🇦🇸", "한국어", "ก็"])
def test_joiners_and_new_emoji_are_printed_as_they_are(text: str) -> None:
    assert line_of(message(Kind.DANMAKU, {"text": text})) == f"     7  Ann: {text}"
    assert line_of(message(Kind.DANMAKU, {"text": "hi"}, name=text)) == f"     7  {text}: hi"
    assert line_of(message(Kind.GIFT, {"gift": text})) == f"     7  Ann gives 1 {text}"
    assert (
        line_of(message(Kind.CUSTOM, {"type": text, "x": [text]}))
        == f"     7  Ann custom {{'type': '{text}', 'x': ['{text}']}}"
    )
    assert line_of(message(Kind.ANNOUNCEMENT, {"text": text})) == f"     7  Ann announces: {text}"


@pytest.mark.parametrize("text", [SHALOM, PERSIAN, "שלום 12!", "مرحبا abc", "abc שלום", "ߊ", "𞤀"])
def test_a_text_of_the_other_direction_turns_nothing_beside_it(text: str) -> None:
    inside = f"\u2068{text}\u2069"
    assert line_of(message(Kind.DANMAKU, {"text": text}, n=3)) == f"     7  Ann: {inside} x3"
    assert line_of(message(Kind.DANMAKU, {"text": "hi"}, name=text)) == f"     7  {inside}: hi"
    assert line_of(message(Kind.GIFT, {"gift": text, "count": 2}, name=text)) == f"     7  {inside} gives 2 {inside}"
    goods = {"title": text, "price": 1200, "currency": "JPY"}
    assert line_of(message(Kind.GOODS, goods)) == f"     7  Ann offers {inside} for 1200 JPY"
    assert line_of(message(Kind.ENTER, {"badge": text})).startswith("     7  Ann enter \u2068{")


@pytest.mark.parametrize(
    "control", [*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069", "\u2029", "\x85", "\x1b", "\x00"]
)
def test_no_text_ends_the_isolation_around_it(control: str) -> None:
    line = line_of(message(Kind.DANMAKU, {"text": f"{SHALOM}{control}x"}, name=f"{control}Ann", n=2))
    assert line == f"     7  \ufffdAnn: \u2068{SHALOM}\ufffdx\u2069 x2"


@pytest.mark.parametrize("name", ["", " ", "\u200b", "\u3164", "\u2800", "\u0301", "\ufe0f"])
def test_a_user_whose_name_shows_nothing_is_printed_by_the_text_of_the_id(name: str) -> None:
    assert printable_user(user_id("auth0|5f7c"), name) == "auth0|5f7c"
    assert printable_user(user_id("an\u200cna"), name) == "an\ufffdna"


@pytest.mark.parametrize(
    ("price", "currency", "text"),
    [(1200, "JPY", " for 1200 JPY"), (1500, "KWD", " for 1.500 KWD"), (1990, "CNY", " for 19.90 CNY")],
)
def test_a_price_is_printed_with_the_digits_of_its_currency(price: int, currency: str, text: str) -> None:
    body = {"goods": "g", "title": "Tea", "price": price, "currency": currency}
    assert line_of(message(Kind.GOODS, body)) == f"     7  Ann offers Tea{text}"


@pytest.mark.parametrize("control", list("\x7f\x85\x9b\u061c\u200f\u2028\u202e\u2066\u2069"))
def test_json_on_a_terminal_has_no_controls_and_says_the_same(control: str) -> None:
    line = json_line(json.dumps([f"a{control}b"], ensure_ascii=False), "utf-8")
    assert control not in line
    assert json.loads(line) == [f"a{control}b"]


def test_a_whole_price_with_a_decimal_point_is_the_same_price() -> None:
    body = {"title": "Tea", "price": 1200.0, "currency": "CNY"}
    assert line_of(message(Kind.GOODS, body)) == "     7  Ann offers Tea for 12.00 CNY"


@pytest.mark.parametrize("price", [0, -1, True, "5", None, 1.5, [1], 2**60])
def test_what_is_no_price_is_not_printed(price: Any) -> None:
    assert line_of(message(Kind.GOODS, {"title": "Tea", "price": price, "currency": "JPY"})) == "     7  Ann offers Tea"


def test_json_is_printed_as_python_writes_it() -> None:
    values: list[Any] = [{"a": [1, 2.5, None, True, "x"], "b": {"c": ""}}, [], "back\\slash"]
    assert list(map(plain, values)) == list(map(repr, values))
    assert printable(plain({"a": "it's"})) == r"{'a': 'it\'s'}"
