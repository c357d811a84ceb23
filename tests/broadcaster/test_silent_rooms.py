"""Rooms in which nobody ever spoke leave nothing behind, and rooms of every kind stay within their
caps.
"""

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest

from broadcaster.rooms import PACKED_PER_ROOM, RoomLimit, Rooms
from broadcaster.silent_rooms import SILENT_MS
from liveroom.audience import NOBODY, Viewers
from liveroom.kinds import Kind
from liveroom.records.snapshot import decode_state
from liveroom.topics import room_hash
from liveroom.wire import Card, decode_card
from tests.broadcaster.ticks import T0, Tick, loaded, read, snapshot, tick, uplink

SOMEBODY = Viewers(1, 1)


def opened(rooms: Rooms, *names: str, at_ms: int = T0) -> Tick:
    """Viewers come into these rooms, and their gateway asks for cards."""
    for name in names:
        rooms.watch(name, SOMEBODY)
        rooms.want_card(name)
    return tick(rooms, at_ms)


def left(rooms: Rooms, *names: str, at_ms: int = T0) -> Tick:
    for name in names:
        rooms.watch(name, NOBODY)
    return tick(rooms, at_ms)


def cards(got: Tick) -> dict[int, Card]:
    return {entry.room: decode_card(text) for entry, text in got.batch.cards()}


def lasting(rooms: Rooms, watched: Iterable[str] = ()) -> set[str]:
    """The rooms that a snapshot written now names."""
    return {stored.room for stored in decode_state(snapshot(rooms, tuple(watched))).rooms}


def speak(rooms: Rooms, room: str, id_: str = "a", at_ms: int = T0, kind: Kind = Kind.GIFT) -> Tick:
    rooms.take(uplink(id_, kind, room=room), 0, at_ms)
    return tick(rooms, at_ms)


def by_snapshot(rooms: Rooms, _: bytes, **settings: Any) -> Rooms:
    return loaded(snapshot(rooms), **settings)


def by_batch(_: Rooms, value: bytes, **settings: Any) -> Rooms:
    again = Rooms(**settings)
    again.apply(read(value))
    return again


def not_at_all(rooms: Rooms, _: bytes) -> Rooms:
    return rooms


REBUILT = [
    pytest.param(not_at_all, id="same owner"),
    pytest.param(by_snapshot, id="by snapshot"),
    pytest.param(by_batch, id="by batches"),
]


def test_nothing_is_left_of_a_room_in_which_nobody_spoke_once_its_viewers_have_been_gone_for_long() -> None:
    rooms = Rooms()
    opened(rooms, "invented")
    left(rooms, "invented", at_ms=T0 + 1000)
    assert lasting(rooms) == {"invented"}, "a viewer may come back"
    rooms.forget_silent(T0 + 999 + SILENT_MS)
    assert len(rooms) == 1
    rooms.forget_silent(T0 + 1000 + SILENT_MS)
    assert (len(rooms), rooms.silent) == (0, 0)
    assert lasting(rooms) == set()
    assert not rooms.lost


def test_a_room_that_was_only_asked_for_is_forgotten_like_one_that_was_left() -> None:
    rooms = Rooms()
    rooms.want_card("asked")
    tick(rooms)
    rooms.forget_silent(T0 + SILENT_MS)
    assert len(rooms) == 0


def test_viewers_that_come_and_go_in_a_room_in_which_nobody_speaks_cause_no_snapshot() -> None:
    rooms = Rooms()
    opened(rooms, "r")
    lasting(rooms)
    left(rooms, "r")
    opened(rooms, "r")
    assert not rooms.has_changed
    speak(rooms, "r")
    assert rooms.has_changed


@pytest.mark.parametrize("kind", [Kind.DANMAKU, Kind.GIFT, Kind.LIKE, Kind.MUTE, Kind.ROOM])
def test_a_room_lasts_from_the_first_message_like_sanction_or_mode_on(kind: Kind) -> None:
    rooms = Rooms()
    opened(rooms, "r")
    speak(rooms, "r", kind=kind)
    left(rooms, "r")
    rooms.forget_silent(T0 + SILENT_MS)
    rooms.forget_silent(T0 + 2 * SILENT_MS)
    assert lasting(rooms) == {"r"}
    assert rooms.silent == 0


@pytest.mark.parametrize("rebuild", REBUILT)
def test_the_epoch_of_a_card_is_that_of_the_first_message(rebuild: Callable[..., Rooms]) -> None:
    rooms = Rooms()
    first = opened(rooms, "r")
    shown = cards(first)[room_hash("r")]
    assert (shown.epoch, shown.seq, shown.users) == (T0 // 1000, 0, 1)
    rooms = rebuild(rooms, first.value)
    rooms.forget_silent(T0 + 60_000)
    opened(rooms, "r", at_ms=T0 + 61_000)
    rooms.forget_silent(T0 + 60_000 + SILENT_MS)
    assert cards(opened(rooms, "r", at_ms=T0 + 2 * SILENT_MS))[room_hash("r")].epoch == shown.epoch
    got = speak(rooms, "r", at_ms=T0 + 2 * SILENT_MS)
    assert (got.entries["r"].epoch, got.numbers()) == (shown.epoch, [(1, 1)])


def test_the_first_message_does_not_hide_how_many_watch() -> None:
    rooms = Rooms()
    opened(rooms, "r")
    speak(rooms, "r")
    rooms.want_card("r")
    assert cards(tick(rooms))[room_hash("r")].users == 1


def test_a_next_owner_forgets_rooms_of_a_snapshot_that_nobody_reports_to_watch() -> None:
    rooms = Rooms()
    opened(rooms, "a", "b")
    again = by_snapshot(rooms, b"")
    again.forget_silent(T0)
    again.watch("b", SOMEBODY)
    tick(again)
    again.forget_silent(T0 + SILENT_MS)
    assert lasting(again) == {"b"}


def test_the_epoch_of_a_room_that_was_forgotten_is_higher_when_somebody_speaks_in_it() -> None:
    rooms = Rooms()
    opened(rooms, "r", at_ms=T0 + SILENT_MS)  # the clock of this process may be ahead of the log's
    left(rooms, "r", at_ms=T0 + SILENT_MS)
    rooms.forget_silent(T0 + 2 * SILENT_MS)
    assert speak(rooms, "r").entries["r"].epoch == (T0 + SILENT_MS) // 1000 + 1


def test_beyond_the_cap_the_longest_vacant_room_goes_first_and_then_no_more_is_opened() -> None:
    rooms = Rooms(max_rooms=3)
    opened(rooms, "a", "b", "c")
    left(rooms, "b")
    left(rooms, "a")
    opened(rooms, "d")
    assert lasting(rooms) == {"a", "c", "d"}
    opened(rooms, "e")
    got = opened(rooms, "f")
    assert lasting(rooms) == {"c", "d", "e"}
    assert not got.frames
    assert not cards(got)
    assert not rooms.has_news, "it is not tried for ever"
    assert rooms.limited == {RoomLimit.SILENT_FORGOTTEN: 2, RoomLimit.SILENT_REFUSED: 2}
    assert speak(rooms, "f").numbers("f") == [(1, 1)], "whoever speaks is never refused"


def test_the_cap_holds_for_rooms_that_come_in_one_batch() -> None:
    rooms = Rooms(max_rooms=3)
    opened(rooms, "a", "b")
    got = opened(rooms, *(f"x{number}" for number in range(10)))
    assert rooms.silent == len(lasting(rooms)) == 3
    assert list(got.frames) == ["x0"]
    assert rooms.limited == {RoomLimit.SILENT_REFUSED: 9 + 2}, "all audiences, and the cards that may wait"


def test_a_next_owner_with_too_many_rooms_forgets_those_that_nobody_watches() -> None:
    rooms = Rooms()
    opened(rooms, *"abcdef")
    again = loaded(snapshot(rooms), max_rooms=2)
    again.watch("f", SOMEBODY)
    again.watch("e", SOMEBODY)
    tick(again)
    again.forget_silent(T0)
    assert lasting(again) == {"e", "f"}


def test_open_rooms_beyond_the_cap_are_packed_and_come_back_as_they_were() -> None:
    rooms = Rooms(max_rooms=3)
    for number in range(10):
        speak(rooms, f"r{number}", at_ms=T0 + 2000 * number)
    assert len(rooms._open) == 3
    assert len(rooms) == 10
    later = T0 + 30_000
    assert not speak(rooms, "r0", at_ms=later).messages("r0"), "it remembers what it saw"
    assert speak(rooms, "r0", "b", at_ms=later).numbers("r0") == [(2, 2)]
    assert lasting(rooms) == {f"r{number}" for number in range(10)}


def test_beyond_the_cap_the_smallest_packed_rooms_are_forgotten_and_no_watched_one() -> None:
    rooms = Rooms(max_rooms=1)
    speak(rooms, "watched")
    for number in range(30):
        rooms.take(uplink(f"d{number}", room="show", user=f"user {number * 7919}".replace(" ", "-")), number, T0)
    tick(rooms)
    for number in range(2 * PACKED_PER_ROOM):
        speak(rooms, f"r{number}", at_ms=T0 + 2000 * (number + 1))
    kept = lasting(rooms, ("watched",))
    assert len(kept) <= PACKED_PER_ROOM
    assert kept >= {"watched", "show"}
    assert rooms.limited[RoomLimit.FORGOTTEN] == 2 * PACKED_PER_ROOM + 2 - len(kept)
    gone = next(name for name in ("r0", "r1", "r2") if name not in kept)
    assert speak(rooms, gone, "b", at_ms=T0 + 90_000).numbers(gone) == [(1, 1)]


def test_an_hour_of_invented_names_leaves_no_more_than_the_caps_allow_and_loses_no_room_with_viewers() -> None:
    chance, most = Random(7), 50
    rooms = Rooms(max_rooms=most)
    epoch = speak(rooms, "honest").entries["honest"].epoch
    rooms.watch("honest", SOMEBODY)
    for second in range(3600):
        now_ms = T0 + 1000 * second
        names = [f"x{chance.randrange(10**9)}" for _ in range(chance.randrange(8))]
        opened(rooms, *names, at_ms=now_ms)
        left(rooms, *names[1:], at_ms=now_ms)
        if second % 60 == 0:
            for name in list(rooms._silent)[: most // 2]:
                rooms.watch(name, NOBODY)
        for name in names[:2]:
            speak(rooms, f"{name}-said", at_ms=now_ms)
        speak(rooms, "honest", f"g{second}", at_ms=now_ms)
        rooms.forget_silent(now_ms)
        if second % 30 == 0:
            lasting(rooms, ("honest",))
        assert rooms.silent <= most
        assert len(rooms._open) <= 2 * most
        assert len(rooms._stored) <= most * (PACKED_PER_ROOM + 3)
    got = speak(rooms, "honest", "last", at_ms=T0 + 3_600_000)
    assert (got.entries["honest"].epoch, got.numbers("honest")) == (epoch, [(3602, 3602)])
