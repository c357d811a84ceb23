"""Texts of the world: what shows something, what is replaced, and what is isolated, by one table
that the pages follow too (tests/browser/test_texts.py).
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveroom.money import price_text
from liveroom.texts import decode_lines, is_blank, is_visible, isolated, shown

TABLE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data/texts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", TABLE["visible"], ids=ascii)
def test_a_text_that_shows_something_is_visible(text: str) -> None:
    assert is_visible(text)
    assert is_visible("\u200b\u3164 " + text)


@pytest.mark.parametrize("text", TABLE["blank"], ids=ascii)
def test_a_text_that_shows_nothing_is_not_visible(text: str) -> None:
    assert not is_visible(text)
    assert is_visible(text + "a")


@given(st.text())
def test_a_text_is_visible_if_one_of_its_characters_is(text: str) -> None:
    assert is_visible(text) == any(not is_blank(char) for char in text)


@pytest.mark.parametrize(("text", "seen", "joins"), TABLE["shown"], ids=lambda value: ascii(value)[:40])
def test_what_turns_texts_or_hides_is_replaced_and_what_words_and_emoji_need_stays(text: str, seen: str, joins: bool) -> None:
    assert shown(text, joins=joins) == seen


@given(st.text())
def test_a_shown_text_stays_as_it_is(text: str) -> None:
    assert shown(shown(text)) == shown(text)
    assert len(shown(text)) == len(text)


@pytest.mark.parametrize(("text", "safe"), TABLE["isolated"], ids=ascii)
def test_a_text_of_the_other_direction_is_isolated(text: str, safe: str) -> None:
    assert isolated(text) == safe


@pytest.mark.parametrize(("price", "currency", "text"), TABLE["prices"])
def test_a_price_has_the_digits_of_its_currency(price: int, currency: str, text: str) -> None:
    assert price_text(price, currency) == text


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff")))
def test_a_file_reads_the_same_with_each_mark(text: str) -> None:
    marked = [text.encode("utf-8-sig"), text.encode("utf-16"), b"\xfe\xff" + text.encode("utf-16-be")]
    assert [decode_lines(data) for data in marked] == [text] * 3
