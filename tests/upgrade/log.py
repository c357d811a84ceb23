"""Reads from the log of a rollout which build owned a partition, and whether its sections survived.

A BATCH of the next build has its sections, and none of the last release has. Snapshots of both must
have what the next build put into the states: once it is in a valid snapshot, no owner may lose it.
"""

from itertools import pairwise
from typing import NamedTuple

from liveroom.fencing import NOBODY, stamp_of, validate
from liveroom.records.broadcast import Batch, SnapshotChunk, decode_broadcast
from liveroom.records.snapshot import decode_room, decode_state
from tests.log import read_all
from tests.upgrade.next_build import FOR_ALL, OF_ROOM, OF_STATE, Count, count_of


class Builds(NamedTuple):
    """What a log came to.

    `turns`: how often a partition went from one build to the other. `kept`, `kept_rooms`: how often
    an owner of the last release wrote the state of a partition or of a room again, with the section
    that it does not know.
    """

    turns: int = 0
    kept: int = 0
    kept_rooms: int = 0


class _Known(NamedTuple):
    """A state with our section, as the last snapshot had it: what we counted, and its bytes."""

    counted: Count
    data: bytes


async def judge_builds(bootstrap: str, prefix: str, partitions: int) -> Builds:
    """Read `broadcast` to its end; raise AssertionError where a section was lost."""
    found = []
    for partition in range(partitions):
        records = await read_all(bootstrap, f"{prefix}broadcast", [partition])
        found.append(_judge_partition([(record.offset, record.value) for record in records]))
    return Builds(*map(sum, zip(*found, strict=True)))


def _judge_partition(records: list[tuple[int, bytes]]) -> Builds:
    ruling = NOBODY
    owners: list[bool] = []  # of each valid BATCH: whether the next build wrote it
    chunks: list[SnapshotChunk] = []
    known: dict[str, _Known] = {}
    kept: list[str] = []
    for offset, value in records:
        stamp = stamp_of(value)
        assert stamp is not None, "a record that nobody can read"
        ruling, is_valid = validate(ruling, stamp, offset)
        if not is_valid:
            continue
        record = decode_broadcast(value, as_owner=True)
        if isinstance(record, Batch):
            owners.append(FOR_ALL in {section.type for section in record.sections.others})
        elif isinstance(record, SnapshotChunk):
            chunks = [*(chunk for chunk in chunks if chunk.snapshot_id == record.snapshot_id), record]
            if len({chunk.part for chunk in chunks}) == record.parts:
                kept += _judge_snapshot(chunks, known)
                chunks = []
    turns = sum(before != after for before, after in pairwise(owners))
    return Builds(turns, kept.count(""), sum(map(bool, kept)))


def _judge_snapshot(chunks: list[SnapshotChunk], known: dict[str, _Known]) -> list[str]:
    """Compare a snapshot with the ones before.

    Returns the rooms whose state an owner of the last release wrote with our section, and "" for
    the state of the partition: the next build would have counted up.
    """
    data = [chunk.data for chunk in sorted(chunks, key=lambda chunk: chunk.part)]
    state = decode_state(data)
    found = {"": (count_of(state.others, OF_STATE), b"".join(data))}
    for stored in state.rooms:
        found[stored.room] = count_of(decode_room(stored).others, OF_ROOM), stored.data
    kept = []
    for name, before in known.items():
        count, written = found.get(name, (None, b""))
        assert count is not None, f"the section of {name or 'the partition'} is lost"
        assert count.writes >= before.counted.writes, f"the section of {name or 'the partition'} went back"
        if count.writes == before.counted.writes and written != before.data:
            kept.append(name)
    known |= {name: _Known(count, written) for name, (count, written) in found.items() if count is not None}
    return kept
