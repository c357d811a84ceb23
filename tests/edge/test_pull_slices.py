"""What is kept of the log for later pulls: slices that are continued, and an index of rooms."""

from edge import pull_slices
from edge.prepared_batch import PreparedBatch
from edge.pull_slices import INDEX_S, KEPT_S, PART_BYTES, KeptSlices, LogSlice, Part, PartitionIndex

ROOM, PARTITION = 1, 0


def slice_of(start: int, stop: int, *offsets: int, at_s: float = 0.0, size: int = 100, is_full: bool = False) -> LogSlice:
    parts = [Part(7, PreparedBatch(b"x" * size, is_deflated=False, offset=offset)) for offset in offsets]
    return LogSlice(start, stop, parts, cut=0, at_s=at_s, size=len(parts) * (size + PART_BYTES), is_full=is_full)


def test_a_slice_answers_pulls_that_begin_within_it_until_it_is_old() -> None:
    kept = KeptSlices()
    one = slice_of(-1, 100, 5, 50)
    kept.keep(ROOM, one, 0)
    assert kept.find(ROOM, PARTITION, -1, 1) is one
    assert kept.find(ROOM, PARTITION, 100, 1) is one
    assert kept.find(ROOM, PARTITION, 101, 1) is None
    assert kept.find(2, PARTITION, 50, 1) is None
    assert (one.covers(20, 100), one.covers(20, 101), one.covers(-2, 100)) == (True, False, False)
    assert kept.find(ROOM, PARTITION, -1, KEPT_S) is None


def test_a_slice_that_ends_early_is_continued_without_a_double() -> None:
    longer = slice_of(-1, 100, 5, 50).joined(slice_of(40, 120, 50, 110, at_s=3))
    assert [part.prepared.offset for part in longer.parts] == [5, 50, 110]
    assert (longer.start, longer.stop, longer.at_s, longer.size) == (-1, 120, 0, 3 * (100 + PART_BYTES))


def test_a_slice_that_is_continued_behind_what_is_gone_says_so() -> None:
    before, later = slice_of(-1, 100, 5), slice_of(100, 200, 160)._replace(cut=150)
    assert before.joined(later).cut == 150
    assert later.joined(slice_of(200, 300, 250)).cut == 150


def test_a_slice_that_others_began_earlier_answers_from_where_a_pull_begins() -> None:
    parts = slice_of(-1, 100, 5, 20, 20, 50).parts_from(20)
    assert [part.prepared.offset for part in parts] == [20, 20, 50]
    assert list(slice_of(-1, 100, 5).parts_from(6)) == []


def test_a_full_slice_answers_the_beginning_and_is_not_continued() -> None:
    kept = KeptSlices()
    full = slice_of(-1, 100, 5, is_full=True)
    kept.keep(ROOM, full, 0)
    assert full.covers(50, 10_000)
    assert kept.find(ROOM, PARTITION, 99, 0) is full
    assert kept.find(ROOM, PARTITION, 100, 0) is None


def test_slices_within_a_new_one_go_and_the_oldest_go_where_all_are_too_large() -> None:
    kept = KeptSlices()
    for start in range(50, 0, -1):
        kept.keep(ROOM, slice_of(start, 100, 60), 0)
    assert kept.size == 100 + 2 * PART_BYTES
    large = pull_slices.KEPT_BYTES // 3
    for room in range(2, 12):
        kept.keep(room, slice_of(0, 10, 5, size=large), 0)
        assert kept.size <= pull_slices.KEPT_BYTES
    assert kept.find(ROOM, PARTITION, 60, 0) is None
    assert kept.find(11, PARTITION, 5, 0) is not None
    kept.expire(KEPT_S)
    assert kept.size == 0


def test_rooms_that_a_read_did_not_meet_are_known_to_be_empty() -> None:
    kept = KeptSlices()
    kept.keep_index(PARTITION, PartitionIndex(10, 100, {ROOM: 40}, is_first=True, is_cut=True, at_s=0), 0)
    invented = kept.find(99, PARTITION, -1, 0)
    assert invented is not None
    assert (invented.stop, list(invented.parts), invented.cut) == (100, [], 10)
    assert kept.find(ROOM, PARTITION, -1, 0) is None
    silent = kept.find(ROOM, PARTITION, 41, 0)
    assert silent is not None
    assert (silent.stop, silent.cut) == (100, 0)
    assert kept.find(99, 1, -1, 0) is None
    assert kept.find(99, PARTITION, -1, INDEX_S) is None


def test_an_index_is_continued_and_a_shorter_one_does_not_take_its_place() -> None:
    kept = KeptSlices()
    kept.keep_index(PARTITION, PartitionIndex(10, 100, {1: 40}, is_first=True, is_cut=False, at_s=0), 0)
    kept.keep_index(PARTITION, PartitionIndex(100, 150, {2: 120}, is_first=False, is_cut=False, at_s=5), 5)
    kept.keep_index(PARTITION, PartitionIndex(400, 500, {}, is_first=False, is_cut=False, at_s=5), 5)
    assert kept.find(2, PARTITION, 0, 5) is None
    found = kept.find(3, PARTITION, 0, 5)
    assert found is not None
    assert found.stop == 150


def test_an_index_of_too_many_rooms_is_not_kept() -> None:
    kept = KeptSlices()
    last = dict.fromkeys(range(pull_slices.MAX_INDEXED), 5)
    kept.keep_index(PARTITION, PartitionIndex(0, 100, last, is_first=True, is_cut=False, at_s=0), 0)
    assert kept.find(-1, PARTITION, 0, 0) is not None
    kept.keep_index(PARTITION, PartitionIndex(100, 200, {-2: 150}, is_first=False, is_cut=False, at_s=0), 0)
    assert kept.find(-1, PARTITION, 0, 0) is None
