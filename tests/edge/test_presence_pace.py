"""When a gateway reports how many watch a room."""

from collections import Counter

from edge.presence_pace import CHANGED_AT_ONCE, MIN_INTERVAL_S, Pace
from edge.room import Audience
from liveroom.records.control import PRESENCE_INTERVAL_S


def due(pace: Pace, now_s: float, **audience: int) -> list[str]:
    sent = []
    for room in list(pace.due(now_s)):
        count = audience.get(room, 0)
        here = Audience(count, count, count)
        if pace.wants(room, here, now_s, has_changes=False):
            pace.reported(room, here, now_s, is_list=pace.needs_list(room, now_s))
            sent.append(room)
    return sent


def test_a_first_viewer_is_reported_at_once_and_more_of_them_after_the_interval() -> None:
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
    pace.reported("r", Audience(1, 1, 2), 0, is_list=True)
    assert not pace.wants("r", Audience(1, 1, 2), 5, has_changes=False)
    assert pace.wants("r", Audience(1, 2, 2), 5, has_changes=False)


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
    assert pace.wants("r", Audience(1, 1, 1), 0, has_changes=True)
    pace.failed("r", 0)
    assert due(pace, 0, r=1) == ["r"]


def test_a_user_who_came_for_one_who_left_is_reported_though_the_count_is_the_same() -> None:
    pace, here = Pace(), Audience(1, 1, 1)
    pace.reported("r", here, 0, is_list=True)
    assert pace.wants("r", here, 5, has_changes=True)
    assert not pace.needs_list("r", 5)


def test_the_list_of_users_goes_each_minute_however_often_the_room_changes() -> None:
    pace, lists = Pace(), []
    for second in range(0, 200, 5):
        pace.changed(["r"])
        for room in list(pace.due(second)):
            if pace.needs_list(room, second):
                lists.append(second)
            pace.reported(room, Audience(second, second, second + 1), second, is_list=pace.needs_list(room, second))
    assert lists == [0, 60, 120, 180]


def test_a_report_that_may_not_have_arrived_is_followed_by_a_list() -> None:
    pace, here = Pace(), Audience(1, 1, 1)
    pace.reported("r", here, 0, is_list=True)
    pace.failed("r", 5)
    assert pace.needs_list("r", 5)
    assert list(pace.due(5)) == ["r"]
    pace.reported("r", here, 5, is_list=True)
    assert not pace.needs_list("r", 6)


def test_a_room_whose_only_report_may_have_arrived_is_reported_when_it_is_empty() -> None:
    pace = Pace()
    pace.failed("r", 0)
    assert due(pace, 0, r=0) == ["r"]
    assert due(pace, 600, r=0) == []


def test_a_gateway_that_was_silent_lists_all_its_rooms_again() -> None:
    pace = Pace()
    for room in ("r", "s"):
        pace.reported(room, Audience(1, 1, 1), 0, is_list=True)
    pace.list_again()
    assert list(pace.due(12)) == ["r", "s"]
    assert pace.needs_list("s", 12)


def test_the_lists_that_a_gateway_repeats_after_a_silence_do_not_fall_due_together_again() -> None:
    pace, rooms, due_s = Pace(), [f"r{number}" for number in range(300)], dict[str, float]()
    for room in rooms:
        pace.reported(room, Audience(1, 1, 1), 0, is_list=True)
    pace.list_again()
    assert pace.due(10) == rooms
    for room in rooms:
        pace.reported(room, Audience(1, 1, 1), 10, is_list=True)
    for second in range(10, 71):
        due_s |= dict.fromkeys(pace.due(second), second)
    assert set(due_s) == set(rooms)
    assert max(Counter(due_s.values()).values()) <= len(rooms) / 20
    assert min(due_s.values()) >= 10 + PRESENCE_INTERVAL_S / 2


def test_rooms_that_many_viewers_enter_at_once_are_taken_in_one_part_after_the_other() -> None:
    pace, rooms = Pace(), [f"r{number}" for number in range(2 * CHANGED_AT_ONCE)]
    found: list[str] = []
    for _ in range(2):
        pace.changed(rooms)
        due = pace.due(1)
        assert len(due) == CHANGED_AT_ONCE
        found += due
    assert found == rooms
