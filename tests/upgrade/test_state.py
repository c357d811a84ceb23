"""The last release keeps what this version writes of a partition, and hands it back."""

import base64
import json
import subprocess
from typing import Final

from broadcaster.rooms import AUDIENCE_KNOWN_MS, Rooms
from broadcaster.silent_rooms import SILENT_MS
from liveroom.audience import NOBODY, Viewers
from liveroom.kinds import Kind
from liveroom.records.snapshot import decode_room, decode_state
from tests.broadcaster.ticks import T0, loaded, snapshot, tick, uplink
from tests.upgrade.tagged import build_of, last_release

# An owner of the last release takes the state over, reads every room, and writes it again.
OWNER: Final = """
import base64, json, sys
from broadcaster.rooms import Rooms
from liveroom.records.snapshot import decode_room, decode_state, encode_state
chunks = [base64.b64decode(chunk) for chunk in json.load(sys.stdin)]
for stored in decode_state(chunks).rooms:
    decode_room(stored)
rooms = Rooms(decode_state(chunks))
while not rooms.store(10):
    pass
json.dump([base64.b64encode(chunk).decode() for chunk in encode_state(rooms.snapshot())], sys.stdout)
"""


def by_the_last_release(chunks: list[bytes]) -> list[bytes]:
    build = build_of(last_release())
    given = json.dumps([base64.b64encode(chunk).decode() for chunk in chunks])
    command = [build.python, "-c", OWNER]
    done = subprocess.run(command, cwd=build.folder, input=given, capture_output=True, text=True, check=True)
    return [base64.b64decode(chunk) for chunk in json.loads(done.stdout)]


def test_the_last_release_passes_over_the_floor_of_epochs_and_keeps_it() -> None:
    rooms = Rooms()
    rooms.forget_silent(T0 - AUDIENCE_KNOWN_MS)
    rooms.take(uplink("a", Kind.GIFT, room="said"), 0, T0)
    rooms.watch("silent", Viewers(1, 1))
    tick(rooms)
    rooms.watch("silent", NOBODY)
    rooms.forget_silent(T0)
    rooms.forget_silent(T0 + SILENT_MS)
    chunks = by_the_last_release(snapshot(rooms))
    state = decode_state(chunks)
    assert state.epoch_floor == T0 // 1000 + 1
    assert [(room.epoch, decode_room(room).epoch) for room in state.rooms] == [(0, T0 // 1000)]
    again = loaded(chunks)
    again.take(uplink("a", Kind.GIFT, room="said"), 1, T0 - 60_000)
    again.take(uplink("b", Kind.GIFT, room="silent"), 2, T0 - 60_000)
    got = tick(again)
    assert got.entries["silent"].epoch == T0 // 1000 + 1, "though the clock went back"
    assert not got.messages("said"), "it was met before"
