"""The broadcaster's baseline does the broadcaster's work: what it leaves out changes nothing that a
viewer gets.
"""

import itertools

import msgspec
import pytest

from broadcaster.rooms import Rooms
from cli import danmaku
from liveroom.kinds import Kind, Role
from liveroom.records.broadcast import Anchor, Batch, BatchParts, decode_broadcast, encode_batch
from liveroom.records.uplink import Item, Uplink, decode_uplink, encode_uplink
from tests.bench._barebatches import BareBatches
from tests.bench.e2e import FILE

EPOCH = 1_700_000_000
AT_MS = EPOCH * 1000
CUTS = (0, 1, 7, 300, 1000)


def records(rooms: int) -> list[tuple[bytes, bytes]]:
    """Return keys and values of real danmaku, of so many rooms in turn; some senders have a level
    or a role.
    """
    made = []
    for number, line in enumerate(danmaku.read_file(FILE).lines[: CUTS[-1]]):
        room = f"room-{number % rooms}"
        item = Item(Kind.DANMAKU, msgspec.Raw(msgspec.json.encode(line.body)))
        role = Role.MODERATOR if number % 7 == 0 else Role.VIEWER
        record = Uplink(
            1, room, f"i{number}", line.user, AT_MS + number, [item], name=f"观众 {number}", role=role, level=number % 3
        )
        made.append((room.encode(), encode_uplink(record)))
    return made


def batch(value: bytes) -> Batch:
    decoded = decode_broadcast(value)
    assert isinstance(decoded, Batch)
    return decoded


@pytest.mark.parametrize("count", [1, 30, 500])
def test_its_batches_hold_for_each_room_what_the_broadcasters_hold_to_the_byte(count: int) -> None:
    uplink, rooms, bare = records(count), Rooms(limit_per_s=10**9), BareBatches(EPOCH)
    deflated = 0
    for start, stop in itertools.pairwise(CUTS):
        for offset in range(start, stop):
            rooms.take(decode_uplink(*uplink[offset]), offset, AT_MS)
        packed = rooms.pack("0.1", AT_MS)
        ours = batch(encode_batch(BatchParts(EPOCH, bytes(16), 1, Anchor(stop, 0, None), 0, AT_MS, 0, packed.rooms)))
        theirs = batch(bare.batch([value for _, value in uplink[start:stop]], "0.1", AT_MS))
        assert list(theirs.rooms()) == list(ours.rooms())
        deflated += sum(entry.flags for entry, _ in ours.rooms())
    assert deflated, "large ones were among them"
