"""Close codes: one table, complete, and ours where RFC 6455 leaves room."""

import pytest

from liveroom.closecodes import ABNORMAL, TABLE, Close, CloseRule, rule_for

ROWS = [pytest.param(rule, id=rule.code.name) for rule in TABLE.values()]


def test_every_code_that_is_sent_has_one_row_and_every_row_a_code() -> None:
    assert {*TABLE, int(ABNORMAL.code)} == {int(code) for code in Close}
    assert all(TABLE[code].code == code for code in TABLE)
    assert ABNORMAL.code not in TABLE


@pytest.mark.parametrize("rule", ROWS)
def test_a_row_can_be_sent_and_read(rule: CloseRule) -> None:
    assert 1 <= len(rule.reason.encode()) <= 123
    assert rule.about.endswith(".")
    assert (rule.after_s > 0) is rule.reconnect, "who comes back waits first, so that not all come at once"


@pytest.mark.parametrize("rule", ROWS)
def test_codes_are_of_rfc_6455_or_private(rule: CloseRule) -> None:
    assert 4000 <= rule.code <= 4999 or rule.code in {1000, 1001, 1002, 1003, 1007, 1009, 1012}


@pytest.mark.parametrize("code", [None, 1005, 1006, 1011, 4999, 0, -1])
def test_a_connection_that_ended_in_any_other_way_is_made_again(code: int | None) -> None:
    assert rule_for(code) is ABNORMAL
    assert ABNORMAL.reconnect


def test_a_listed_code_follows_its_row() -> None:
    assert rule_for(4008) is TABLE[Close.SLOW]
    assert rule_for(4003).reconnect is False
