"""Delays that are shown to people."""

import pytest

from liveroom.clock import running_on
from tests.manual_clock import ManualClock
from viewer.delays import delay_ms
from viewer.tally import Tally

NOW_MS = 1_800_000_000_000


@pytest.mark.parametrize(
    ("at_ms", "shown"),
    [
        pytest.param(NOW_MS - 120, 120.0, id="120 ms"),
        pytest.param(NOW_MS + 5, 0.0, id="clocks that differ by 5 ms"),
        pytest.param(NOW_MS - 120_000, 120_000.0, id="two minutes without a broadcaster"),
        pytest.param(NOW_MS + 90_000, None, id="the other clock is ahead"),
        pytest.param(NOW_MS - 3_600_000, None, id="this clock is an hour ahead"),
        pytest.param(0, None, id="1970"),
    ],
)
def test_a_delay_that_only_clocks_explain_is_none(at_ms: int, shown: float | None) -> None:
    with running_on(ManualClock(NOW_MS / 1000)):
        assert delay_ms(at_ms) == shown


def test_a_crowd_shows_no_delay_of_hours_and_none_below_zero() -> None:
    tally = Tally()
    with running_on(ManualClock(NOW_MS / 1000)):
        for number, at_ms in enumerate((NOW_MS + 3_600_000, NOW_MS - 3_600_000)):
            tally.count(b'{"t":"batch","room":"r","seq":[%d,%d],"at":%d}\n{}' % (number, number, at_ms))
        assert tally.delays_ms() == (None, None)
        tally.count(b'{"t":"batch","room":"r","seq":[9,9],"at":%d}\n{}' % (NOW_MS - 40))
        assert tally.delays_ms() == (40.0, 40.0)
    assert (tally.batches, tally.messages) == (3, 3)
