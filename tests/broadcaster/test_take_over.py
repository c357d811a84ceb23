"""A take-over, step by step over small logs: which epoch it claims, what it brings back, and what
it says is lost.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

import pytest

from broadcaster.ownership import Append, Apply, Lease, Load, Lost, TakenOver, take_over
from liveroom.fencing import Read, Ruling
from liveroom.kinds import RecordType
from liveroom.records.broadcast import (
    Anchor,
    BatchParts,
    Claim,
    SnapshotChunk,
    Stamp,
    encode_batch,
    encode_claim,
    encode_snapshot_chunk,
)
from liveroom.records.codec import AnotherVersionError
from liveroom.records.sections import SectionType, encode_sections

OLD, OTHER, NEW = b"o" * 16, b"x" * 16, b"n" * 16


_serials = count(1)


def claim(epoch: int, owner: bytes = OLD) -> bytes:
    return encode_claim(Claim(epoch, owner, 0, "test"))


def renewal(epoch: int) -> bytes:
    return encode_claim(Claim(epoch, OLD, 0, "test", next(_serials)))


def batch(epoch: int, claim_offset: int, uplink_next: int, snapshot_offset: int | None = None, owner: bytes = OLD) -> bytes:
    anchor = Anchor(uplink_next, claim_offset, snapshot_offset)
    return encode_batch(BatchParts(epoch, owner, next(_serials), anchor, 0, uplink_next, 0, []))


def chunk(epoch: int, claim_offset: int, part: int = 0, parts: int = 1, owner: bytes = OLD, id_: int = 7) -> bytes:
    anchor = Anchor(2, claim_offset, None)
    stamp = Stamp(RecordType.SNAPSHOT, epoch, owner)
    return encode_snapshot_chunk(SnapshotChunk(stamp, anchor, 0, id_, part, parts, b"part%d" % part))


class Story(NamedTuple):
    """What a take-over did and came to."""

    taken: TakenOver
    epochs: list[int]
    loaded: list[list[bytes]]
    applied: list[bytes]


def run(
    values: Sequence[bytes],
    *,
    start: int = 0,
    floor: int = 1,
    is_readable: bool = True,
    step: int = 2,
    rivals: Sequence[bytes] = (),
) -> Story:
    """Drive a take-over by `NEW` of a log whose head was cut at `start`; before each of its claims
    a rival may write.
    """
    log = list(values)
    coming = list(rivals)
    steps = take_over(start, len(log), NEW, floor)
    epochs: list[int] = []
    loaded: list[list[bytes]] = []
    applied: list[bytes] = []
    answer: Any = None
    while True:
        try:
            asked = steps.send(answer)
        except StopIteration as end:
            return Story(end.value, epochs, loaded, applied)
        match asked:
            case Read():
                assert start <= asked.start < asked.stop <= len(log), "it reads what is not there"
                answer = list(enumerate(log))[asked.start : min(asked.stop, asked.start + step)]
            case Append(epoch):
                epochs.append(epoch)
                if coming:
                    log.append(coming.pop(0))
                answer = len(log)
                log.append(claim(epoch, NEW))
            case Load(chunks):
                loaded.append(chunks)
                answer = is_readable
            case Apply(found):
                applied += found
                answer = None
            case _:
                raise AssertionError(asked)


# ---- nothing there yet
def test_an_empty_log_has_lost_nothing_and_names_no_place_in_the_uplink() -> None:
    story = run([])
    assert story.taken[1:] == (None, None)
    assert (story.epochs, story.loaded, story.applied) == ([1], [], [])
    assert story.taken.lease.ruling == Ruling(1, NEW, 0)


def test_a_log_of_claims_alone_has_lost_nothing_and_names_no_place_in_the_uplink() -> None:
    story = run([claim(1), claim(2, OTHER), claim(9)])
    assert story.taken[1:] == (None, None)
    assert story.epochs == [10]


def test_a_log_from_its_beginning_is_replayed_whole_without_a_snapshot() -> None:
    values = [claim(1), batch(1, 0, 3), batch(1, 0, 5), claim(2, OTHER), batch(1, 0, 9), batch(2, 3, 6, owner=OTHER)]
    story = run(values)
    assert story.taken[1:] == (6, None)
    assert story.applied == [values[1], values[2], values[5]], "what a deposed owner wrote is void"
    assert story.taken.lease.anchor(6) == Anchor(6, 6, None)


# ---- whole histories
def test_the_newest_snapshot_is_loaded_and_what_follows_it_applied() -> None:
    values = [claim(1), batch(1, 0, 1), chunk(1, 0, 0, 2), chunk(1, 0, 1, 2), renewal(1), batch(1, 4, 5, 2), batch(1, 4, 6, 2)]
    story = run(values, start=2)
    assert story.taken[1:] == (6, None)
    assert story.loaded == [[b"part0", b"part1"]]
    assert story.applied == values[5:]
    assert story.taken.lease.snapshot_offset == 2


def test_a_snapshot_behind_the_one_that_is_named_is_passed_over() -> None:
    values = [claim(1), chunk(1, 0), claim(1), chunk(1, 2, 0, 2), batch(1, 2, 5, 1)]
    story = run(values)
    assert story.loaded == [[b"part0"]]
    assert story.applied == values[4:]


def test_void_records_between_the_chunks_of_a_snapshot_are_stepped_over() -> None:
    values = [claim(2), chunk(2, 0, 0, 2), batch(1, 0, 9, owner=OTHER), chunk(2, 0, 1, 2), claim(2), batch(2, 4, 5, 1)]
    story = run(values)
    assert story.taken.lost is None
    assert story.loaded == [[b"part0", b"part1"]]


def test_a_renewed_claim_between_the_chunks_of_a_snapshot_is_stepped_over() -> None:
    values = [claim(1), chunk(1, 0, 0, 2), claim(1), chunk(1, 0, 1, 2), claim(1), batch(1, 4, 5, 1)]
    assert run(values).loaded == [[b"part0", b"part1"]]


def test_a_chunk_that_was_written_twice_counts_once() -> None:
    values = [claim(1), chunk(1, 0, 0, 2), chunk(1, 0, 0, 2), chunk(1, 0, 1, 2), claim(1), batch(1, 4, 5, 1)]
    assert run(values).loaded == [[b"part0", b"part1"]]


# ---- all of the last stretch is void
def test_where_all_of_the_last_stretch_is_void_the_one_before_it_is_looked_at() -> None:
    values = [
        claim(5),
        batch(5, 0, 4),
        claim(6, OTHER),
        claim(7, b"y" * 16),
        batch(6, 2, 99, owner=OTHER),
        batch(6, 2, 100, owner=OTHER),
    ]
    story = run(values)
    assert story.taken[1:] == (4, None)
    assert story.applied == [values[1]]
    assert story.epochs == [8]


def test_many_void_stretches_are_looked_through_one_after_another() -> None:
    values = [claim(1), batch(1, 0, 4)]
    for epoch in range(2, 12, 2):
        place = len(values)
        values += [claim(epoch, OTHER), claim(epoch + 1, OLD), batch(epoch, place, 99, owner=OTHER)]
    story = run(values)
    assert story.taken[1:] == (4, None)
    assert story.applied == [values[1]]


def test_a_void_last_stretch_before_which_the_log_is_cut_means_that_history_is_lost() -> None:
    values = [claim(1), batch(1, 0, 4), claim(6, OTHER), claim(7, b"y" * 16), batch(6, 2, 99, owner=OTHER)]
    story = run(values, start=2, floor=1_000)
    assert story.taken[1:] == (None, Lost.BROADCAST)
    assert story.epochs == [8], "the anchor's claim is there: all epochs that ruled are known"
    assert not story.loaded
    assert not story.applied


# ---- the head is gone
@pytest.mark.parametrize(
    ("values", "start", "epoch"),
    [
        pytest.param([claim(3), batch(3, 0, 4)], 2, 1_000, id="all of it is gone"),
        pytest.param([claim(3), batch(3, 0, 4), batch(3, 0, 5)], 1, 1_000, id="its claim is gone"),
        pytest.param([claim(3), batch(3, 0, 4), claim(4, OTHER)], 2, 1_000, id="a claim is left"),
        pytest.param([claim(3), batch(3, 0, 4), claim(1_999, OTHER)], 2, 2_000, id="a claim above the floor is left"),
    ],
)
def test_a_log_cut_behind_its_last_anchor_has_lost_its_history_and_is_claimed_above_the_floor(
    values: list[bytes], start: int, epoch: int
) -> None:
    story = run(values, start=start, floor=1_000)
    assert story.taken[1:] == (None, Lost.BROADCAST)
    assert story.epochs == [epoch]
    assert not story.loaded
    assert not story.applied
    assert story.taken.lease.snapshot_offset is None


def test_the_floor_is_for_logs_that_lost_their_anchor_only() -> None:
    assert run([claim(3), batch(3, 0, 4)], floor=1_000).epochs == [4]
    after = [claim(epoch, OTHER) for epoch in range(4, 14)]
    assert run([claim(3), batch(3, 0, 4), *after], floor=1_000).epochs == [14], "the anchor is found behind many claims"


def test_a_rival_above_the_floor_is_claimed_over_again() -> None:
    story = run([claim(3), batch(3, 0, 4)], start=2, floor=1_000, rivals=[claim(1_500, OTHER)])
    assert story.epochs == [1_000, 1_501]
    assert story.taken.lease.ruling == Ruling(1_501, NEW, 4)


# ---- the snapshot is gone
def lost_snapshots() -> list[Any]:
    first, rest = [claim(1), batch(1, 0, 1)], [renewal(1), batch(1, 4, 5, 2)]
    whole = [chunk(1, 0, 0, 2), chunk(1, 0, 1, 2)]
    return [
        pytest.param([*first, *whole, *rest], 3, True, id="its first chunk is cut away"),
        pytest.param([*first, *whole, *rest], 4, True, id="all of it is cut away"),
        pytest.param([*first, *whole, *rest], 0, False, id="it cannot be read"),
        pytest.param([*first, whole[0], *whole[:1], *rest], 0, True, id="its last chunk is missing"),
        pytest.param([*first, *whole[1:], *whole[1:], *rest], 0, True, id="its first chunk is missing"),
        pytest.param([*first, whole[0], chunk(1, 0, 1, 2, id_=8), *rest], 0, True, id="its chunks are of two"),
        pytest.param([*first, whole[0], batch(1, 0, 2), *rest], 0, True, id="a batch lies in it"),
        pytest.param([*first, batch(1, 0, 2), batch(1, 0, 3), *rest], 0, True, id="a batch lies in its place"),
        pytest.param(
            [claim(1), batch(1, 0, 1), batch(1, 0, 2), renewal(1), batch(1, 3, 5)], 1, True, id="none was ever written"
        ),
    ]


@pytest.mark.parametrize(("values", "start", "is_readable"), lost_snapshots())
@pytest.mark.parametrize("step", [1, 2, 100])
def test_without_its_snapshot_a_partition_goes_on_in_the_uplink_and_says_what_it_lost(
    values: list[bytes], start: int, is_readable: bool, step: int
) -> None:
    story = run(values, start=start, is_readable=is_readable, floor=1_000, step=step)
    assert story.taken[1:] == (5, Lost.SNAPSHOT)
    assert story.epochs == [2], "who ruled is known"
    assert not story.applied
    assert story.taken.lease.snapshot_offset is None


# ---- appends that were written twice
def test_a_batch_that_was_written_twice_is_applied_once() -> None:
    first, second = batch(1, 0, 4), batch(1, 0, 5)
    story = run([claim(1), first, first, second, first, second])
    assert story.applied == [first, second]
    assert story.taken.uplink_next == 5


def test_a_repeat_behind_a_renewed_claim_is_void_even_to_a_reader_that_begins_there() -> None:
    first, renewed, last = batch(1, 0, 4), renewal(1), batch(1, 2, 6)
    log = [claim(1), first, renewed, first, last]
    assert run(log).applied == [first, last]
    assert run(log, start=2).taken.uplink_next == 6


def test_a_late_copy_of_a_renewed_claim_moves_nothing() -> None:
    renewed, first = renewal(1), batch(1, 1, 4)
    story = run([claim(1), renewed, first, renewed, first, batch(1, 1, 5)])
    assert story.taken.uplink_next == 5
    assert len(story.applied) == 2


def test_a_late_copy_of_an_earlier_snapshot_does_not_break_the_one_that_is_loaded() -> None:
    early = chunk(1, 0, id_=6)
    values = [claim(1), early, chunk(1, 0, 0, 2), early, chunk(1, 0, 1, 2), renewal(1), batch(1, 5, 7, 2)]
    story = run(values)
    assert story.loaded == [[b"part0", b"part1"]]
    assert story.taken.lost is None


def test_a_late_copy_of_a_snapshot_does_not_take_the_uplink_back() -> None:
    written = chunk(1, 0)
    values = [claim(1), written, renewal(1), batch(1, 2, 5, 1), batch(1, 2, 9, 1), written]
    story = run(values)
    assert story.taken.uplink_next == 9
    assert story.applied == values[3:5]


# ---- what another version wrote
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_log_with_a_record_of_another_version_is_not_taken_over(place: int) -> None:
    values = [claim(1), batch(1, 0, 4), batch(1, 0, 5)]
    values[place] = b"LR\x02" + values[place][3:]
    with pytest.raises(AnotherVersionError, match="version 2"):
        run(values)


def test_a_snapshot_with_a_section_that_owners_must_understand_is_refused_and_not_given_up() -> None:
    whole = chunk(1, 0)
    head = len(whole) - len(encode_sections([(SectionType.CHUNK, b"part0")]))
    newer = whole[:head] + encode_sections([(SectionType.CHUNK, b"part0"), (0xC100, b"new")])
    with pytest.raises(AnotherVersionError, match="must be understood"):
        run([claim(1), newer, batch(1, 0, 4, 1)])


# ---- rivals
def test_what_the_old_owner_wrote_before_our_claim_counts() -> None:
    values, late = [claim(1), batch(1, 0, 4)], batch(1, 0, 8)
    story = run(values, rivals=[late])
    assert story.taken.uplink_next == 8
    assert story.applied[-1] == late
    assert story.epochs == [2]


def test_of_two_that_claim_one_epoch_the_first_rules_and_the_second_claims_again() -> None:
    story = run([claim(1), batch(1, 0, 4)], rivals=[claim(2, OTHER), claim(3, OTHER)])
    assert story.epochs == [2, 3, 4]
    assert story.taken.lease.ruling == Ruling(4, NEW, 6)


def test_records_that_cannot_be_read_are_void_and_stop_nobody() -> None:
    head_alone = batch(1, 1, 9)[:30]
    values = [b"", claim(1), b"no record of ours", batch(1, 1, 4), b"LR\x09", head_alone]
    story = run(values)
    assert story.taken[1:] == (4, None)
    assert story.applied == [values[3]]


# ---- the lease
def test_a_lease_that_is_alone_needs_nothing_of_the_log() -> None:
    lease = Lease(Ruling(4, NEW, 10))
    with pytest.raises(StopIteration) as done:
        next(lease.acked(11))
    assert done.value.value is True
    assert lease.next_offset == 12


def test_a_lease_whose_log_became_shorter_does_not_rule() -> None:
    lease = Lease(Ruling(4, NEW, 10))
    for steps in (lease.up_to(10), lease.acked(9)):
        with pytest.raises(StopIteration) as done:
            next(steps)
        assert done.value.value is False
