"""The epochs that viewers learn of a room never fall, and numbers go on or begin again with them.

Rooms are forgotten by every cap and by age, owners die at any moment, snapshots are not finished,
stored rooms are damaged, the uplink is cut, and the clocks of brokers and owners step in both
directions. What the valid batches and their cards name, in the order of the log, is held against
what a viewer knows.
"""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from broadcaster import rooms as caps
from broadcaster.rooms import AUDIENCE_KNOWN_MS, IDLE_MS, Rooms
from broadcaster.silent_rooms import SILENT_MS, VACANT_MS
from liveroom.audience import NOBODY, Viewers
from liveroom.kinds import Kind
from liveroom.records.broadcast import Batch
from liveroom.records.snapshot import PartitionState, decode_state
from liveroom.topics import BROADCAST, room_hash
from liveroom.wire import decode_card
from tests.broadcaster.ticks import T0, read, snapshot, tick, uplink

MOST = 2
NAMES = "abcdefgh"
BY_HASH = {room_hash(name): name for name in NAMES}
ROOMS = st.sampled_from(NAMES)
DAY_MS = BROADCAST.retention_ms + IDLE_MS + 1
CLOCK_STEPS_MS = (-DAY_MS, -1_000_000, -3_000, -1_000, 1_000, 3_000, 1_000_000)
STEPS_MS = st.sampled_from(CLOCK_STEPS_MS)
PASSED_MS = (VACANT_MS, AUDIENCE_KNOWN_MS, SILENT_MS)
SENT = (Kind.DANMAKU, Kind.DANMAKU, Kind.LIKE, Kind.GIFT, Kind.MUTE)
KINDS = st.sampled_from(SENT)
SCHEDULES = 400
STEPS = 150


class Known(NamedTuple):
    """What a viewer knows of a room."""

    epoch: int
    seq: int


class Epochs(RuleBasedStateMachine):
    """Owners of a partition one after the other, and a viewer who saw all rooms from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(caps, "PACKED_PER_ROOM", 1)
        self.known: dict[str, Known] = {}
        self.state: PartitionState | None = None
        self.log: list[bytes] = []
        self.brokers_ms = self.owners_ms = T0
        self.passed_ms = 0
        self.sent = 0
        self.rooms = Rooms(max_rooms=MOST)

    # ---- users
    @rule(room=ROOMS, kind=KINDS)
    def somebody_speaks(self, room: str, kind: Kind) -> None:
        self.sent += 1
        self.rooms.take(uplink(f"i{self.sent}", kind, room=room), self.sent, self.brokers_ms)

    @rule(room=ROOMS)
    def somebody_sends_the_same_again(self, room: str) -> None:
        self.rooms.take(uplink("same", room=room), self.sent, self.brokers_ms)

    @rule(rooms=st.lists(ROOMS, min_size=1, max_size=4), asks=st.booleans())
    def viewers_come(self, rooms: list[str], asks: bool) -> None:
        for room in rooms:
            self.rooms.watch(room, Viewers(1, 1))
            if asks:
                self.rooms.want_card(room)

    @rule(room=ROOMS)
    def a_card_is_wanted(self, room: str) -> None:
        self.rooms.want_card(room)

    @rule(rooms=st.lists(ROOMS, min_size=1, max_size=8))
    def viewers_leave(self, rooms: list[str]) -> None:
        for room in rooms:
            self.rooms.watch(room, NOBODY)

    # ---- time
    @rule(step_ms=STEPS_MS)
    def the_clock_of_the_brokers_steps(self, step_ms: int) -> None:
        self.brokers_ms += step_ms

    @rule(step_ms=STEPS_MS)
    def the_clock_of_the_owners_steps(self, step_ms: int) -> None:
        self.owners_ms += step_ms

    @rule(passed_ms=st.sampled_from(PASSED_MS))
    def time_passes(self, passed_ms: int) -> None:
        for part_ms in (0, passed_ms):
            self.passed_ms += part_ms
            self.rooms.forget_silent(self.passed_ms)

    @rule()
    def a_day_passes(self) -> None:
        self.brokers_ms += DAY_MS

    # ---- the owner
    @rule()
    def a_batch_is_written(self) -> None:
        self._write()

    @rule(is_whole=st.booleans())
    def a_snapshot_is_written(self, is_whole: bool) -> None:
        self._write()
        chunks = snapshot(self.rooms)
        if is_whole:
            self.state, self.log = decode_state(chunks), []

    @rule(loses_a_batch=st.booleans(), damaged=ROOMS | st.none())
    def the_owner_dies(self, loses_a_batch: bool, damaged: str | None) -> None:
        if loses_a_batch:
            tick(self.rooms, self.owners_ms)
        state = self.state
        if state is not None and damaged is not None:
            stored = [msgspec.structs.replace(room, data=b"?") if room.room == damaged else room for room in state.rooms]
            state = msgspec.structs.replace(state, rooms=stored)
        self.rooms = Rooms(state, max_rooms=MOST)
        for value in self.log:
            self.rooms.apply(read(value))

    @rule(is_whole=st.booleans())
    def the_uplink_is_lost(self, is_whole: bool) -> None:
        self._write()
        floor = max(self.rooms.epoch_above_all, self.owners_ms // 1000)
        self.rooms = Rooms(epoch_floor=floor, max_rooms=MOST)
        if is_whole:
            self.state, self.log = decode_state(snapshot(self.rooms)), []

    def _write(self) -> None:
        got = tick(self.rooms, self.owners_ms)
        self.log.append(got.value)
        self._hold(got.batch)

    def _hold(self, batch: Batch) -> None:
        """Hold what a batch names against what the viewer knows."""
        for entry, _ in batch.rooms():
            name = BY_HASH[entry.hash]
            known = self.known.get(name, Known(0, 0))
            assert entry.epoch >= known.epoch, "viewers drop what has a lower epoch"
            assert entry.first == (known.seq if entry.epoch == known.epoch else 0) + 1
            self.known[name] = Known(entry.epoch, entry.last)
        for card_entry, text in batch.cards():
            card = decode_card(text)
            assert Known(card.epoch or 0, card.seq or 0) == self.known[BY_HASH[card_entry.room]]

    def teardown(self) -> None:
        for name in NAMES:
            self.rooms.take(uplink("last", Kind.GIFT, room=name), self.sent, self.brokers_ms)
        self._write()
        self.patch.undo()


def play(seed: int) -> None:
    """Let one schedule run, longer than Hypothesis would make it."""
    chance = Random(seed)
    story = Epochs()

    def rooms() -> list[str]:
        return chance.choices(NAMES, k=chance.randrange(1, 4))

    acts: list[tuple[int, Callable[[], None]]] = [
        (8, lambda: story.somebody_speaks(chance.choice(NAMES), chance.choice(SENT))),
        (2, lambda: story.somebody_sends_the_same_again(chance.choice(NAMES))),
        (5, lambda: story.viewers_come(rooms(), chance.random() < 0.5)),
        (4, lambda: story.a_card_is_wanted(chance.choice(NAMES))),
        (5, lambda: story.viewers_leave(rooms())),
        (1, lambda: story.the_clock_of_the_brokers_steps(chance.choice(CLOCK_STEPS_MS))),
        (1, lambda: story.the_clock_of_the_owners_steps(chance.choice(CLOCK_STEPS_MS))),
        (3, lambda: story.time_passes(chance.choice(PASSED_MS))),
        (1, story.a_day_passes),
        (10, story.a_batch_is_written),
        (3, lambda: story.a_snapshot_is_written(chance.random() < 0.5)),
        (2, lambda: story.the_owner_dies(chance.random() < 0.3, chance.choice(NAMES) if chance.random() < 0.3 else None)),
        (1, lambda: story.the_uplink_is_lost(chance.random() < 0.5)),
    ]
    weights = [weight * chance.choice((0, 1, 1, 3)) for weight, _ in acts]
    weights[9] = 10
    try:
        for _, act in chance.choices(acts, weights, k=STEPS):
            act()
    finally:
        story.teardown()


def test_no_long_schedule_lets_an_epoch_fall() -> None:
    for seed in range(SCHEDULES):
        try:
            play(seed)
        except Exception as error:
            raise AssertionError(f"schedule {seed}") from error


TestEpochs = Epochs.TestCase
TestEpochs.settings = settings(max_examples=150, stateful_step_count=40)
