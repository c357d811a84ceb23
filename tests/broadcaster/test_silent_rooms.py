"""Rooms in which nobody ever spoke leave nothing behind, and rooms of every kind stay within their
caps.
"""

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from broadcaster.rooms import AUDIENCE_KNOWN_MS, FORGET_STEP, PACKED_PER_ROOM, RoomLimit, Rooms
from broadcaster.silent_rooms import SILENT_MS, VACANT_MS
from liveroom.audience import NOBODY, Viewers
from liveroom.kinds import Kind, Role
from liveroom.records.balance import Balance
from liveroom.records.snapshot import PartitionState, RoomState, decode_state, encode_room
from liveroom.topics import room_hash
from liveroom.wire import Card, decode_card
from tests.broadcaster.ticks import T0, Tick, loaded, read, snapshot, states, tick, uplink

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


def known(rooms: Rooms, at_ms: int = T0) -> None:
    """All gateways have reported whom they have."""
    rooms.forget_silent(at_ms - AUDIENCE_KNOWN_MS)
    rooms.forget_silent(at_ms)


def lasting(rooms: Rooms) -> set[str]:
    """The rooms that a snapshot written now names."""
    return {stored.room for stored in decode_state(snapshot(rooms)).rooms}


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
    known(rooms, T0 + 1000)
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
    known(rooms)
    rooms.want_card("asked")
    assert cards(tick(rooms))
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
    known(rooms, T0 + 60_000)
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
    known(rooms)
    opened(rooms, "r", at_ms=T0 + SILENT_MS)  # the clock of this process may be ahead of the log's
    left(rooms, "r", at_ms=T0 + SILENT_MS)
    rooms.forget_silent(T0 + 2 * SILENT_MS)
    assert speak(rooms, "r").entries["r"].epoch == (T0 + SILENT_MS) // 1000 + 1


def test_beyond_the_cap_the_longest_vacant_room_goes_first_and_then_no_more_is_opened() -> None:
    rooms = Rooms(max_rooms=3)
    known(rooms)
    opened(rooms, "a", "b", "c")
    left(rooms, "b")
    left(rooms, "a")
    rooms.forget_silent(T0 + VACANT_MS)
    opened(rooms, "d")
    assert lasting(rooms) == {"a", "c", "d"}
    opened(rooms, "e")
    got = opened(rooms, "f")
    assert lasting(rooms) == {"c", "d", "e"}
    assert not got.frames
    assert not cards(got)
    rooms.forget_silent(T0 + 2 * VACANT_MS)
    assert not rooms.has_news, "it is not tried for ever"
    assert rooms.limited == {RoomLimit.SILENT_FORGOTTEN: 2, RoomLimit.SILENT_REFUSED: 1}
    assert speak(rooms, "f").numbers("f") == [(1, 1)], "whoever speaks is never refused"


def test_the_cap_holds_for_rooms_that_come_in_one_batch() -> None:
    rooms = Rooms(max_rooms=3)
    opened(rooms, "a", "b")
    got = opened(rooms, *(f"x{number}" for number in range(10)))
    assert rooms.silent == len(lasting(rooms)) == 3
    assert list(got.frames) == ["x0"]
    assert rooms.limited == {RoomLimit.SILENT_REFUSED: 9}


def test_a_next_owner_with_too_many_rooms_forgets_those_that_nobody_watches() -> None:
    rooms = Rooms()
    opened(rooms, *"abcdef")
    again = loaded(snapshot(rooms), max_rooms=2)
    again.watch("f", SOMEBODY)
    again.watch("e", SOMEBODY)
    tick(again)
    known(again)
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
    known(rooms)
    speak(rooms, "watched", kind=Kind.LIKE)
    rooms.watch("watched", SOMEBODY)
    for number in range(30):
        rooms.take(uplink(f"d{number}", room="show", user=f"user {number * 7919}".replace(" ", "-")), number, T0)
    tick(rooms)
    for number in range(2 * PACKED_PER_ROOM):
        speak(rooms, f"r{number}", at_ms=T0 + 2000 * (number + 1), kind=Kind.DANMAKU)
    kept = lasting(rooms)
    assert len(kept) <= PACKED_PER_ROOM
    assert kept >= {"watched", "show"}
    assert rooms.limited[RoomLimit.FORGOTTEN] == 2 * PACKED_PER_ROOM + 2 - len(kept)
    gone = next(name for name in ("r0", "r1", "r2") if name not in kept)
    assert speak(rooms, gone, "b", at_ms=T0 + 90_000).numbers(gone) == [(1, 1)]


def test_rooms_above_the_cap_or_past_their_time_are_forgotten_in_steps() -> None:
    stored = [encode_room(RoomState(f"r{number}", 7, seq=3, last_ms=T0)) for number in range(4 * FORGET_STEP)]
    rooms = Rooms(PartitionState(Balance(), T0, stored), max_rooms=5)
    for number in range(3 * FORGET_STEP):
        rooms.watch(f"r{number}", SOMEBODY)
    known(rooms)
    counts = [rooms.limited[RoomLimit.FORGOTTEN]]
    for number in range(3 * FORGET_STEP):
        rooms.watch(f"r{number}", NOBODY)
    while counts[-1] < len(stored) - 5 * PACKED_PER_ROOM:
        rooms.forget_silent(T0)
        counts.append(rooms.limited[RoomLimit.FORGOTTEN])
    assert [after - before for before, after in pairwise(counts)][:2] == [FORGET_STEP] * 2
    over = Rooms(PartitionState(Balance(), 2 * T0, stored))
    assert [len(over.snapshot().rooms) for _ in range(5)] == [FORGET_STEP * left for left in (3, 2, 1, 0, 0)]


@pytest.mark.parametrize("kind", [Kind.GIFT, Kind.BAN, Kind.ROOM])
def test_no_cap_forgets_what_was_seen_within_ten_minutes_or_what_hosts_and_services_said(kind: Kind) -> None:
    rooms = Rooms(max_rooms=1)
    known(rooms)
    rooms.take(uplink("once", kind, room="quiet"), 0, T0)
    tick(rooms)
    modes = states(rooms)["quiet"].settings
    for number in range(3 * PACKED_PER_ROOM):
        speak(rooms, f"{number:030}", at_ms=T0 + 2000 * (number + 1), kind=Kind.DANMAKU)
    assert "quiet" in lasting(rooms)
    assert rooms.limited[RoomLimit.FORGOTTEN]
    rooms.take(uplink("once", kind, room="quiet"), 0, T0 + 500_000)
    tick(rooms)
    assert rooms.balance.duplicate == 1
    assert states(rooms)["quiet"].settings == modes


@pytest.mark.parametrize("is_taken_over", [False, True])
def test_rooms_with_nothing_but_sanctions_are_forgotten_once_ten_minutes_are_over(is_taken_over: bool) -> None:
    """The system mutes viewers in whatever room they sent refused texts to."""
    rooms = Rooms(max_rooms=1)
    known(rooms)
    for number in range(3 * PACKED_PER_ROOM):
        sanction = uplink(f"m{number}", Kind.MUTE, room=f"invented-{number}", user="system", role=Role.OPERATOR)
        rooms.take(sanction, number, T0)
        tick(rooms)
    assert len(lasting(rooms)) >= 3 * PACKED_PER_ROOM
    if is_taken_over:
        rooms = loaded(snapshot(rooms), max_rooms=1)
        known(rooms)
    speak(rooms, "another", at_ms=T0 + 601_000, kind=Kind.DANMAKU)
    assert len(lasting(rooms)) <= PACKED_PER_ROOM + 1


def test_no_room_is_forgotten_before_all_gateways_have_reported_their_viewers() -> None:
    rooms = Rooms(max_rooms=1)
    for number in range(2 * PACKED_PER_ROOM):
        speak(rooms, f"r{number}", at_ms=T0 + 2000 * (number + 1), kind=Kind.DANMAKU)
    everybody = lasting(rooms)
    again = loaded(snapshot(rooms), max_rooms=1)
    assert lasting(again) == everybody
    known(again)
    assert len(lasting(again)) <= PACKED_PER_ROOM + 1


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
            speak(rooms, f"{name}-said", at_ms=now_ms, kind=chance.choice([Kind.DANMAKU, Kind.LIKE]))
        speak(rooms, "honest", f"g{second}", at_ms=now_ms)
        rooms.forget_silent(now_ms)
        if second % 30 == 0:
            lasting(rooms)
        assert rooms.silent <= most
        assert len(rooms._open) <= 2 * most
        assert len(rooms._stored) <= most * (PACKED_PER_ROOM + 3)
    got = speak(rooms, "honest", "last", at_ms=T0 + 3_600_000)
    assert (got.entries["honest"].epoch, got.numbers("honest")) == (epoch, [(3602, 3602)])


# ---- who watches
def test_a_room_that_found_no_place_publishes_its_viewers_with_its_first_message() -> None:
    rooms = Rooms(max_rooms=1)
    opened(rooms, "taken")
    assert not opened(rooms, "real").frames
    got = speak(rooms, "real")
    assert got.frames["real"].header.viewers == SOMEBODY
    rooms.want_card("real")
    assert cards(tick(rooms))[room_hash("real")].users == 1


def test_a_room_that_found_no_place_gets_one_and_publishes_its_viewers_once_another_room_is_left() -> None:
    rooms = Rooms(max_rooms=1)
    known(rooms)
    opened(rooms, "taken")
    opened(rooms, "late", "gone")
    left(rooms, "gone")
    left(rooms, "taken")
    rooms.forget_silent(T0 + VACANT_MS - 1)
    assert not rooms.has_news, "it was left only a moment ago"
    rooms.forget_silent(T0 + VACANT_MS)
    got = tick(rooms, T0 + VACANT_MS)
    assert {name: frame.header.viewers for name, frame in got.frames.items()} == {"late": SOMEBODY}
    assert lasting(rooms) == {"late"}
    rooms.forget_silent(T0 + 2 * VACANT_MS)
    assert not rooms.has_news


def test_a_room_that_was_packed_away_comes_back_with_its_viewers() -> None:
    rooms = Rooms(max_rooms=1)
    speak(rooms, "r")
    rooms.watch("r", SOMEBODY)
    tick(rooms)
    speak(rooms, "other", at_ms=T0 + 5000)
    assert list(rooms._open) == ["other"]
    rooms.want_card("r")
    assert cards(tick(rooms))[room_hash("r")].users == 1
    speak(rooms, "other", "b", at_ms=T0 + 10_000)
    assert speak(rooms, "r", "b", at_ms=T0 + 15_000).frames["r"].header.viewers == SOMEBODY


def test_that_nobody_watches_opens_no_room() -> None:
    rooms = Rooms()
    rooms.watch("r", NOBODY)
    assert not rooms.has_news
    assert len(rooms) == 0


def test_a_next_owner_forgets_no_room_before_all_gateways_have_reported_who_watches_it() -> None:
    rooms = Rooms(max_rooms=3)
    opened(rooms, "a", "b", "c")
    again = loaded(snapshot(rooms), max_rooms=3)
    again.forget_silent(T0)
    opened(again, "new")
    again.forget_silent(T0 + AUDIENCE_KNOWN_MS - 1)
    assert lasting(again) == {"a", "b", "c"}
    for name in "abc":
        again.watch(name, SOMEBODY)
    again.forget_silent(T0 + AUDIENCE_KNOWN_MS)
    assert lasting(again) == {"a", "b", "c"}, "their sums are not published yet, and they have viewers"
    left(again, "b")
    again.forget_silent(T0 + AUDIENCE_KNOWN_MS + VACANT_MS)
    tick(again)
    assert lasting(again) == {"a", "c", "new"}


# ---- epochs
def test_a_card_never_names_an_epoch_before_a_batch_does() -> None:
    rooms = Rooms()
    rooms.want_card("r")
    got = tick(rooms)
    assert got.entries["r"].epoch == cards(got)[room_hash("r")].epoch
    again = by_batch(rooms, got.value)
    assert cards(opened(again, "r", at_ms=T0 - 60_000))[room_hash("r")].epoch == T0 // 1000


def test_a_next_owner_gives_a_room_that_was_forgotten_a_higher_epoch_though_the_clock_went_back() -> None:
    rooms = Rooms()
    known(rooms)
    epoch = opened(rooms, "r").entries["r"].epoch
    left(rooms, "r")
    rooms.forget_silent(T0 + SILENT_MS)
    again = by_snapshot(rooms, b"")
    assert speak(again, "r", at_ms=T0 - 60_000).entries["r"].epoch == epoch + 1


def test_rooms_that_come_and_go_fast_do_not_let_epochs_run_ahead_of_the_clock() -> None:
    rooms = Rooms(max_rooms=1)
    known(rooms)
    for number in range(200):
        now_ms = T0 + 100 * number
        rooms.forget_silent(now_ms)
        got = opened(rooms, f"x{number}", at_ms=now_ms)
        assert all(entry.epoch <= now_ms // 1000 for entry in got.entries.values())
        left(rooms, f"x{number}", at_ms=now_ms)
    assert rooms.limited[RoomLimit.SILENT_FORGOTTEN] > 10
