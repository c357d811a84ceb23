"""Which ranges a read serves: near and far ones apart, users in turn, nobody with less than
alone.
"""

import itertools
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.pull_queue import (
    FAR_READS,
    MAX_OF_USER,
    MAX_WAITING,
    NEAR,
    LogRead,
    PullQueue,
    QueueFullError,
    RoomRange,
    WaitingRange,
)

END = 100_000
FAR = 10


def far(start: int = FAR, room: int = 1) -> RoomRange:
    return RoomRange(room, start, END)


def near(start: int = END - 100, room: int = 1) -> RoomRange:
    return RoomRange(room, start, END)


def taken(queue: PullQueue) -> LogRead:
    read = queue.take()
    assert read is not None
    return read


def test_all_who_want_the_same_wait_for_one_read() -> None:
    queue = PullQueue()
    ranges = {queue.add(0, near(), f"u{number}") for number in range(1000)}
    assert len(ranges) == 1
    read = taken(queue)
    assert queue.add(0, near(), "late") in ranges
    assert queue.take() is None
    assert queue.served(read, [END]) == list(ranges)
    assert queue.waiting == []


def test_what_begins_behind_is_taken_along_and_answered_only_where_the_read_reached_its_end() -> None:
    queue = PullQueue()
    first = queue.add(0, far(100), "a")
    same = queue.add(0, far(200, room=2), "b")
    earlier = queue.add(0, far(50), "c")
    other = queue.add(1, far(100), "d")
    read, elsewhere = taken(queue), taken(queue)
    assert read.ranges == [first, same]
    assert elsewhere.ranges == [other]
    assert queue.take() is None
    assert queue.served(read, [5000, 5000]) == [first], "the other one gets no less than a read of its own brings"
    again = taken(queue)
    assert again.ranges[0] is same
    assert queue.served(again, [END]) == [same]
    assert taken(queue).ranges == [earlier]


def test_far_pulls_never_hold_up_near_ones() -> None:
    queue = PullQueue()
    for number in range(FAR_READS * 4):
        queue.add(number % 3, far(number), f"u{number}")
    reads = [taken(queue) for _ in range(FAR_READS)]
    assert queue.take() is None
    waiting = queue.add(reads[0].partition, near(), "near")
    assert taken(queue).ranges == [waiting]
    assert NEAR > 100


def test_a_user_with_many_ranges_delays_another_one_by_a_read_or_two() -> None:
    queue = PullQueue()
    for number in range(MAX_OF_USER, 0, -1):
        queue.add(0, far(number), "greedy")
    read = taken(queue)
    honest = queue.add(0, far(0), "honest")
    queue.served(read, [20] + [None] * (len(read.ranges) - 1))
    reads = 0
    while (read := taken(queue)).ranges[0] is not honest:
        reads += 1
        queue.served(read, [20] + [None] * (len(read.ranges) - 1))
    assert reads <= 1


def test_who_joins_a_range_brings_its_own_turn() -> None:
    queue = PullQueue()
    ranges = [queue.add(0, far(number), "greedy") for number in range(10, 0, -1)]
    assert queue.add(0, far(1), "honest") is ranges[-1]
    assert ranges[-1].turn == ranges[0].turn


def test_ranges_beyond_the_limits_are_refused() -> None:
    queue = PullQueue()
    for number in range(MAX_OF_USER):
        queue.add(0, far(number), "one")
    with pytest.raises(QueueFullError):
        queue.add(0, far(MAX_OF_USER), "one")
    queue.add(0, near(), "one")
    for number in range(MAX_WAITING - MAX_OF_USER):
        queue.add(0, far(100 + number), f"u{number}")
    with pytest.raises(QueueFullError):
        queue.add(0, far(7777), "two")


@dataclass
class Pull:
    """A pull that asks again where its answer ended. `reads_waited`: that began before its own."""

    user: str
    partition: int
    at: int
    asks: int = 0
    reads_waited: int = 0
    waits_for: WaitingRange | None = None


STEP = 400  # records that a read of these passes
STOP = 4000
OTHERS = 4


@dataclass
class Asked:
    """What another one asks, and which of the reads under way ends then."""

    user: int
    partition: int
    room: int
    start: int
    ends: int


ASKED = st.builds(
    Asked, st.integers(1, OTHERS), st.integers(0, 1), st.integers(1, 2), st.integers(-1, STOP - 1), st.integers(0, 5)
)


@given(st.integers(0, 1), st.integers(-1, STOP), st.lists(ASKED, min_size=1, max_size=30))
def test_whatever_others_ask_every_pull_ends_after_as_many_asks_as_alone_and_soon(
    partition: int, start: int, others: list[Asked]
) -> None:
    """Others ask again and again from wherever, and reads stop as early as they may."""
    queue, reads, mine = PullQueue(), list[LogRead](), Pull("me", partition, start)
    for step, asked in enumerate(itertools.islice(itertools.cycle(others), 2000)):
        if mine.waits_for is None:
            if mine.at >= STOP:
                break
            mine.waits_for = queue.add(partition, RoomRange(1, mine.at, STOP), mine.user)
            mine.asks, mine.reads_waited = mine.asks + 1, 0
        with suppress(QueueFullError):
            queue.add(asked.partition, RoomRange(asked.room, asked.start, STOP), f"other{asked.user}")
        while (read := queue.take()) is not None:
            reads.append(read)
            mine.reads_waited += not mine.waits_for.is_read
        read = reads.pop(asked.ends % len(reads) if step % 3 else 0)  # the oldest one ends too, some time
        reach = read.ranges[0].range.start + STEP
        stops = [min(reach, one.range.stop) if one.range.start < reach else None for one in read.ranges]
        answered = queue.served(read, stops)
        assert read.ranges[0] in answered
        if mine.waits_for in answered:
            stop = stops[read.ranges.index(mine.waits_for)]
            assert stop is not None
            assert stop > mine.at, "an answer never goes back"
            mine.at, mine.waits_for = stop, None
        assert mine.reads_waited <= 3 * OTHERS, "a read or two for each of the others, not for all that they asked"
    assert mine.at >= STOP
    assert mine.asks <= max(1, -(-(STOP - start) // STEP))
