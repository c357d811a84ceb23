"""The log of refusals: few lines whatever comes, and in them no word of the caller's."""

import hashlib
import hmac
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from liveroom import clock
from liveroom.closecodes import Close
from liveroom.errors import Code
from liveroom.refusals import RefusalLog, user_mark
from tests.manual_clock import ManualClock

KEY = b"k" * 32


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as events:
        yield events


def test_a_crowd_is_logged_by_a_few_lines_and_the_others_are_counted(logged: list[Any]) -> None:
    refusals, time = RefusalLog(KEY, per_s=3), ManualClock()
    with clock.running_on(time):
        for number in range(1000):
            refusals.refused(Code.RATE_USER, "POST /x", f"r{number}")
        refusals.refused(Code.MUTED, "POST /x", "m")
        refusals.closed(Close.SLOW, "too slow", "c", rooms=("r",), user="ann")
        refusals.tell()
        time.now_s += 1
        refusals.tell()
        refusals.refused(Code.RATE_USER, "POST /x", "later")
    assert [(line["event"], line.get("request_id")) for line in logged] == [
        ("refused", "r0"),
        ("refused", "r1"),
        ("refused", "r2"),
        ("refused", "m"),
        ("closed", "c"),
        ("refusals_not_logged", None),
        ("refused", "later"),
    ]
    assert logged[5]["counts"] == {"refused rate_user": 997}


def test_a_limit_of_none_logs_only_how_many_there_were(logged: list[Any]) -> None:
    refusals, time = RefusalLog(per_s=0), ManualClock()
    with clock.running_on(time):
        refusals.put_out(Code.BANNED, "i", room="r", user="ann")
        time.now_s += 1
        refusals.tell()
    assert [line["event"] for line in logged] == ["refusals_not_logged"]


def test_a_user_has_the_same_mark_in_every_line_of_every_service_and_another_under_another_key(logged: list[Any]) -> None:
    for refusals in (RefusalLog(KEY), RefusalLog(KEY), RefusalLog(b"x" * 32), RefusalLog()):
        refusals.refused(Code.MUTED, "POST /x", "i", user="ann")
    marks = [line["user"] for line in logged]
    assert marks[0] == marks[1] == user_mark(KEY, "ann") == hmac.new(KEY, b"ann", hashlib.sha256).hexdigest()[:16]
    assert len({*marks}) == 3
    assert marks[3] is None
    assert "ann" not in str(logged)
