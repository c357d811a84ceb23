"""The inbox of a partition: its bounds, its place in the uplink, and the search for a record that
no batch can hold.
"""

import pytest

from broadcaster.inbox import MAX_INBOX, Inbox
from liveroom.kafka_port import Record
from liveroom.records.codec import BadRecordError
from tests.memory_kafka import MemoryRecord


def records(*offsets: int) -> list[Record]:
    return [MemoryRecord("uplink", 0, offset, 1, b"r", b"value") for offset in offsets]


def taken(inbox: Inbox) -> list[int]:
    return [record.offset for record in inbox.take()]


def places(inbox: Inbox) -> tuple[int | None, int | None]:
    return inbox.wanted_next, inbox.next_offset


def test_nothing_says_where_to_begin_until_a_record_is_there() -> None:
    inbox = Inbox()
    assert places(inbox) == (None, None)
    inbox.put(records(7, 8))
    assert places(inbox) == (9, None)
    assert taken(inbox) == [7, 8]
    assert places(inbox) == (9, 9)


def test_a_record_that_was_taken_before_is_skipped() -> None:
    inbox = Inbox()
    inbox.next_offset = 3
    inbox.put(records(1, 2, 3))
    assert taken(inbox) == [3]


def test_what_was_not_taken_is_wanted_again_after_the_inbox_was_cleared() -> None:
    inbox = Inbox()
    inbox.put(records(0, 1, 2))
    next(inbox.take())
    inbox.clear()
    assert (len(inbox), inbox.wanted_next) == (0, 1)


def test_it_is_full_at_its_bound_and_has_space_again_when_it_is_half_empty() -> None:
    inbox = Inbox()
    assert inbox.put(records(*range(MAX_INBOX - 1)))
    assert not inbox.put(records(MAX_INBOX - 1))
    for _, _ in zip(range(MAX_INBOX // 2), inbox.take(), strict=False):
        assert not inbox.has_space
    next(inbox.take())
    assert inbox.has_space


def test_records_of_a_batch_that_failed_come_one_by_one_and_the_one_that_fails_alone_is_unfit() -> None:
    inbox = Inbox()
    inbox.put(records(0, 1))
    assert taken(inbox) == [0, 1]
    inbox.blame()
    inbox.clear()
    inbox.next_offset = 0
    inbox.put(records(0, 1, 2, 3))
    assert taken(inbox) == [0]
    assert taken(inbox) == [1]
    inbox.blame()
    assert inbox.unfit == {1}
    with pytest.raises(BadRecordError):
        inbox.refuse_unfit(1)
    inbox.refuse_unfit(2)
    assert taken(inbox) == [2, 3], "those behind come as ever"


def test_no_record_is_unfit_where_none_was_taken() -> None:
    inbox = Inbox()
    inbox.put(records(0, 1))
    taken(inbox)
    inbox.blame()
    inbox.next_offset = 1
    assert taken(inbox) == []
    inbox.blame()
    assert inbox.unfit == set()


def test_a_cut_uplink_forgives() -> None:
    inbox = Inbox()
    inbox.put(records(0))
    taken(inbox)
    inbox.blame()
    inbox.unfit.add(0)
    inbox.forgive()
    inbox.put(records(1, 2))
    assert (inbox.unfit, taken(inbox)) == (set(), [1, 2])
