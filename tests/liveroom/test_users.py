"""The rule of user ids: one id for each text, and back, in Python and (by the same table) in
JavaScript (tests/browser/test_user_ids.py).
"""

import json
import re
import string
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from liveroom.kinds import Kind
from liveroom.moderation import key_of
from liveroom.records.codec import USER_PATTERN, BadRecordError
from liveroom.records.control import Moderation, RuleKind
from liveroom.records.uplink import Item, Uplink, decode_uplink, encode_uplink
from liveroom.topics import rule_key
from liveroom.users import (
    MAX_TEXT_BYTES,
    MAX_USER_ID_CHARS,
    USER_ID,
    UserIdError,
    check_user_id,
    shown_user,
    user_id,
    user_text,
    why_not,
)

TABLE = json.loads((Path(__file__).parents[1] / "data/user-ids.json").read_text())
PLAIN = string.ascii_letters + string.digits + "_.:@-"
# A byte string of at most 128 bytes, cut back to whole characters, reaches texts of any length.
TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=32)
    | st.text(PLAIN + "~", min_size=1, max_size=MAX_TEXT_BYTES)
    | st.binary(min_size=1, max_size=MAX_TEXT_BYTES).map(lambda data: data.decode(errors="ignore")).filter(bool)
)


@given(TEXTS)
@example("\N{PARTY POPPER}" * 32)
@example("~")
@example("~YW5uYQ")
@example("\0" * MAX_TEXT_BYTES)
@example("\N{RIGHT-TO-LEFT OVERRIDE}ann")
@example("\ufeffann")
@example(".")
@example("..")
@example("...")
def test_a_text_comes_back_from_its_user_id(text: str) -> None:
    user = user_id(text)
    assert (user == text) is (set(text) <= set(PLAIN) and text not in {".", ".."})
    assert user_text(user) == text
    assert check_user_id(user) == user
    assert USER_ID.match(user)
    assert len(user) <= 172 < MAX_USER_ID_CHARS
    assert not re.search(r"[^A-Za-z0-9_.:@~-]", user)


@given(TEXTS, TEXTS)
@example("~YW5uYQ", "anna")
@example("u\n", "u")
@example(unicodedata.normalize("NFC", "e\u0301"), unicodedata.normalize("NFD", "e\u0301"))
def test_two_texts_have_two_user_ids(one: str, other: str) -> None:
    assert (user_id(one) == user_id(other)) is (one == other)


@given(TEXTS)
def test_a_user_id_is_no_other_users_text_by_chance(text: str) -> None:
    """The id of an escaped text is never the id of the plain text that it is as a text."""
    user = user_id(text)
    if user != text:
        assert user_id(user) != user


@given(st.from_regex(USER_PATTERN[0].replace(r"\Z", ""), fullmatch=True) | st.text(max_size=200))
def test_whatever_is_given_as_an_id_is_one_or_is_refused_with_a_reason(given_id: str) -> None:
    shown = shown_user(given_id)
    try:
        text = user_text(given_id)
    except UserIdError as error:
        refused = str(error)
    else:
        assert user_id(text) == given_id
        assert shown == text
        return
    assert refused == why_not(given_id)
    assert shown == given_id


@pytest.mark.parametrize(("text", "user"), [pytest.param(*row, id=row[1][:24]) for row in TABLE["texts"]])
def test_the_table_holds(text: str, user: str) -> None:
    assert user_id(text) == user
    assert user_text(user) == text


def test_the_examples_of_the_document_hold() -> None:
    text = (Path(__file__).parents[2] / "docs/ingress.md").read_text(encoding="utf-8")
    rows = [line.split() for line in text.partition("sub   ")[2].partition("```")[0].splitlines()[1:]]
    assert [(sub, user_id(sub)) for sub, _ in rows] == [(sub, user) for sub, user in rows]
    assert len(rows) == 5


@pytest.mark.parametrize("text", [pytest.param(text, id=ascii(text)[:24]) for text in TABLE["no_texts"]])
def test_a_text_without_a_user_id_is_refused(text: str) -> None:
    with pytest.raises(UserIdError):
        user_id(text)


@pytest.mark.parametrize("user", [pytest.param(user, id=ascii(user)[:24]) for user in TABLE["no_ids"]])
def test_what_is_not_canonical_is_no_user_id(user: str) -> None:
    with pytest.raises(UserIdError):
        user_text(user)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "empty", id="empty"),
        pytest.param("é" * 65, "130 bytes of UTF-8, at most 128", id="130 bytes in 65 characters"),
        pytest.param("\ud800", "lone surrogate", id="half a pair"),
    ],
)
def test_a_refused_text_gets_its_reason(text: str, reason: str) -> None:
    with pytest.raises(UserIdError, match=reason):
        user_id(text)


@pytest.mark.parametrize(
    ("given_id", "named"),
    [
        pytest.param("auth0|1", "its user id is ~YXV0aDB8MQ", id="a text"),
        pytest.param(".", "its user id is ~Lg", id="a dot"),
        pytest.param("..", "its user id is ~Li4", id="two dots"),
        pytest.param("u" * 193, "193 bytes", id="too long"),
    ],
)
def test_who_gives_a_text_where_an_id_belongs_learns_the_id(given_id: str, named: str) -> None:
    with pytest.raises(UserIdError, match=re.escape(named) + "[^`]*$"):
        check_user_id(given_id)
    with pytest.raises(UserIdError, match=re.escape(named) + r".* - at `\$\.user`$"):
        check_user_id(given_id, "$.user")


@pytest.mark.parametrize(
    ("given_id", "named"),
    [
        pytest.param("~tom", "its user id is ~fnRvbQ", id="a text with a tilde"),
        pytest.param("~YW5uYQ", "the user id of the text in it is anna", id="a plain text that was escaped"),
        pytest.param("~fnRvbR", "the user id of the text in it is ~fnRvbQ", id="other bits behind the last byte"),
        pytest.param("u" * 129, "129 bytes", id="longer than any text"),
    ],
)
def test_an_id_that_stands_for_no_text_is_checked_as_records_check_it(given_id: str, named: str) -> None:
    assert check_user_id(given_id) == given_id
    with pytest.raises(UserIdError, match=re.escape(named)):
        user_text(given_id)


@given(st.text(PLAIN + "~", max_size=200) | st.text(st.characters(exclude_categories=["Cs"]), max_size=10))
@example(".")
@example("..")
@example("~.")
@example("u" * 192)
def test_whoever_a_record_can_name_a_command_can_name_too(given_id: str) -> None:
    record = Uplink(1, "lobby", "i", given_id, 0, [Item(Kind.LIKE)])
    try:
        named = check_user_id(given_id, "$.user")
    except UserIdError as refused:
        reason = str(refused)[:200]  # a record's error keeps so much
        with pytest.raises(BadRecordError, match=re.escape(reason)):
            decode_uplink(b"lobby", encode_uplink(record))
    else:
        assert decode_uplink(b"lobby", encode_uplink(record)).user == named == given_id


def test_records_have_room_for_192_characters() -> None:
    assert USER_ID.match("~" + "u" * 191)
    assert USER_ID.match("u" * 191)
    assert not USER_ID.match("~" + "u" * 192)
    assert not USER_ID.match("~")
    assert not USER_ID.match("u~")


def test_the_key_of_a_rule_about_a_plain_user_id_is_the_key_that_was_always_written() -> None:
    rule = Moderation(1, "lobby", 0, RuleKind.MUTE, user_id("ann@example.org"))
    assert key_of(rule) == b"lobby/mute/ann@example.org"


@given(TEXTS, TEXTS)
def test_rules_about_two_users_never_share_a_key(one: str, other: str) -> None:
    assert (rule_key("r", "ban", user_id(one)) == rule_key("r", "ban", user_id(other))) is (one == other)
    assert rule_key("r", "ban", user_id(one)).count(b"/") == 2
