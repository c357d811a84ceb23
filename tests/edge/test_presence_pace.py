"""When a gateway reports how many watch a room."""

from edge.presence_pace import MIN_INTERVAL_S, Pace
from edge.room import Audience
from liveroom.records.control import PRESENCE_INTERVAL_S


def due(pace: Pace, now_s: float, **audience: int) -> list[str]:
    sent = []
    for room in list(pace.due(now_s)):
        count = audience.get(room, 0)
        here = Audience(count, count, count)
        if pace.wants(room, here, now_s):
            pace.reported(room, here, now_s)
            sent.append(room)
    return sent


def test_a_first_viewer_is_reported_at_once_and_more_of_them_after_two_seconds() -> None:
    pace = Pace()
    pace.changed(["r"])
    assert due(pace, 0, r=1) == ["r"]
    pace.changed(["r"])
    assert due(pace, MIN_INTERVAL_S - 0.1, r=5) == []
    assert due(pace, MIN_INTERVAL_S, r=9) == ["r"]
    assert due(pace, 2 * MIN_INTERVAL_S, r=9) == []


def test_an_unchanged_audience_is_not_reported_again_until_the_refresh() -> None:
    pace = Pace()
    pace.changed(["r"])
    assert due(pace, 0, r=1) == ["r"]
    pace.changed(["r"])
    assert due(pace, 5, r=1) == []
    assert due(pace, PRESENCE_INTERVAL_S - 1, r=1) == []
    assert due(pace, PRESENCE_INTERVAL_S, r=1) == ["r"]


def test_a_user_who_changes_the_device_is_reported() -> None:
    pace = Pace()
    pace.reported("r", Audience(1, 1, 2), 0)
    assert not pace.wants("r", Audience(1, 1, 2), 5)
    assert pace.wants("r", Audience(1, 2, 2), 5)


def test_a_room_that_emptied_is_reported_once_and_forgotten() -> None:
    pace = Pace()
    pace.changed(["r"])
    assert due(pace, 0, r=1) == ["r"]
    pace.changed(["r"])
    assert due(pace, 3, r=0) == ["r"]
    assert due(pace, 10 * PRESENCE_INTERVAL_S, r=0) == []


def test_a_visit_between_two_checks_is_not_reported() -> None:
    pace = Pace()
    pace.changed(["r"])
    assert due(pace, 0, r=0) == []


def test_a_report_that_failed_stays_due() -> None:
    pace = Pace()
    pace.changed(["r"])
    assert list(pace.due(0)) == ["r"]
    assert pace.wants("r", Audience(1, 1, 1), 0)
    pace.failed("r")
    assert due(pace, 0, r=1) == ["r"]
