"""Close codes: one table, complete, and ours where RFC 6455 leaves room."""

import pytest

from liveroom.closecodes import ABNORMAL, TABLE, Close, rule_for


def test_every_code_has_one_row_and_every_row_a_code() -> None:
    assert set(TABLE) == {int(code) for code in Close}
    assert all(TABLE[code].code == code for code in TABLE)


@pytest.mark.parametrize("code", list(Close), ids=lambda code: code.name)
def test_a_row_can_be_sent_and_read(code: Close) -> None:
    rule = TABLE[code]
    assert 1 <= len(rule.reason.encode()) <= 123
    assert rule.about.endswith(".")
    assert (rule.after_s > 0) is rule.reconnect, "who comes back waits first, so that not all come at once"


@pytest.mark.parametrize("code", list(Close), ids=lambda code: code.name)
def test_codes_are_of_rfc_6455_or_private(code: Close) -> None:
    assert 4000 <= code <= 4999 or code in {1000, 1001, 1002, 1003, 1007, 1009, 1011, 1012, 1013}


@pytest.mark.parametrize("code", [None, 1005, 1006, 4999, 0, -1])
def test_a_connection_that_ended_in_any_other_way_is_made_again(code: int | None) -> None:
    assert rule_for(code) is ABNORMAL
    assert ABNORMAL.reconnect


def test_a_listed_code_follows_its_row() -> None:
    assert rule_for(4008) is TABLE[Close.SLOW]
    assert rule_for(4003).reconnect is False
