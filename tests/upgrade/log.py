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

    `turns`: how often a partition went from one build to the other. `kept`: how often an owner of
    the last release wrote a section of a state or room that it did not know.
    """

    turns: int
    kept: int


async def judge_builds(bootstrap: str, prefix: str, partitions: int) -> Builds:
    """Read `broadcast` to its end; raise AssertionError where a section was lost."""
    turns = kept = 0
    for partition in range(partitions):
        records = await read_all(bootstrap, f"{prefix}broadcast", [partition])
        found = _judge_partition([(record.offset, record.value) for record in records])
        turns, kept = turns + found.turns, kept + found.kept
    return Builds(turns, kept)


def _judge_partition(records: list[tuple[int, bytes]]) -> Builds:
    ruling = NOBODY
    owners: list[bool] = []  # of each valid BATCH: whether the next build wrote it
    chunks: list[SnapshotChunk] = []
    counts: dict[str, Count] = {}
    kept = 0
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
                kept += _judge_snapshot(chunks, counts)
                chunks = []
    return Builds(sum(before != after for before, after in pairwise(owners)), kept)


def _judge_snapshot(chunks: list[SnapshotChunk], counts: dict[str, Count]) -> int:
    """Compare a snapshot with the ones before; return how many sections it has unchanged."""
    state = decode_state([chunk.data for chunk in sorted(chunks, key=lambda chunk: chunk.part)])
    found = {"": count_of(state.others, OF_STATE)}
    for stored in state.rooms:
        found[stored.room] = count_of(decode_room(stored).others, OF_ROOM)
    kept = 0
    for name, before in list(counts.items()):
        now = found.get(name)
        assert now is not None, f"the section of {name or 'the partition'} is lost"
        assert now.writes >= before.writes, f"the section of {name or 'the partition'} went back"
        kept += name == "" and now.writes == before.writes
    counts |= {name: count for name, count in found.items() if count is not None}
    return kept
