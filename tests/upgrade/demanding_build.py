"""A build that adds sections which must be understood, so that other versions refuse its records.

`python -m tests.upgrade.demanding_build MODULE` runs a service that adds such a section to every
BATCH, for gateways and owners alike, and to the state of each partition and of each room.
"""

import runpy
import sys
from typing import Final

import msgspec

from liveroom.records import broadcast, snapshot
from liveroom.records.broadcast import BatchParts
from liveroom.records.sections import MUST, OWNER, Section
from liveroom.records.snapshot import PartitionState, RoomState, StoredRoom
from tests.upgrade.next_build import replace

IN_BATCH: Final = Section(MUST | 0x3F11, b"of a batch")  # types that no version uses
IN_STATE: Final = Section(MUST | OWNER | 0x3F12, b"of a state")
IN_ROOM: Final = Section(MUST | OWNER | 0x3F13, b"of a room")


def demand() -> None:
    """Write the sections, and understand them."""
    encode_batch, encode_room, encode_state = broadcast.encode_batch, snapshot.encode_room, snapshot.encode_state

    def encoding_batch(batch: BatchParts) -> bytes:
        return encode_batch(batch._replace(others=(*batch.others, IN_BATCH)))

    def encoding_room(state: RoomState) -> StoredRoom:
        return encode_room(msgspec.structs.replace(state, others=(*state.others, IN_ROOM)))

    def encoding_state(state: PartitionState) -> list[bytes]:
        return encode_state(msgspec.structs.replace(state, others=(*state.others, IN_STATE)))

    replace(broadcast, "encode_batch", encoding_batch)
    replace(broadcast, "_OF_BATCH", broadcast._OF_BATCH | {IN_BATCH.type})
    replace(snapshot, "encode_room", encoding_room)
    replace(snapshot, "_OF_ROOM", snapshot._OF_ROOM | {IN_ROOM.type})
    replace(snapshot, "encode_state", encoding_state)
    replace(snapshot, "_OF_STATE", snapshot._OF_STATE | {IN_STATE.type})


if __name__ == "__main__":
    demand()
    sys.argv[:] = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
