"""Which lines a room keeps for its card: those taken one by one and those of a text alike."""

import pytest

from broadcaster.lines import RECENT_BYTES, RECENT_MESSAGES, newest, remember, remember_all

LARGE = b"x" * (RECENT_BYTES + 1)


@pytest.mark.parametrize("before", [0, 1, RECENT_MESSAGES])
@pytest.mark.parametrize("count", [1, 2, RECENT_MESSAGES, RECENT_MESSAGES + 5])
@pytest.mark.parametrize("large", [(), (0,), (-1,), (0, -1)])
def test_a_text_of_many_lines_leaves_what_its_lines_one_by_one_leave(before: int, count: int, large: tuple[int, ...]) -> None:
    lines = [b"line %d" % number for number in range(count)]
    for index in large:
        lines[index] = LARGE
    one_by_one = [b"before %d" % number for number in range(before)]
    at_once = list(one_by_one)
    for line in lines:
        remember(one_by_one, line)
    remember_all(at_once, b"\n".join(lines))
    assert at_once == one_by_one
    assert len(at_once) <= RECENT_MESSAGES


def test_the_newest_lines_that_fit_are_kept_and_the_others_forgotten() -> None:
    recent = [b"a" * 100, b"b" * (RECENT_BYTES - 10), b"c" * 10]
    assert newest(recent) == recent == [b"b" * (RECENT_BYTES - 10), b"c" * 10]
