"""The rooms of a partition: numbers, duplicates, folding, thinning, what lasts, and how large a
BATCH may get.
"""

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import msgspec
import pytest

import broadcaster.items
import broadcaster.room
from broadcaster.dedupe import BEST_EFFORT_DEDUPE_MS, DEDUPE_MS
from broadcaster.items import BAN_KNOWN_MS, BadBodyError
from broadcaster.lines import RECENT_BYTES, RECENT_MESSAGES
from broadcaster.room import MAX_CARD_BYTES, MAX_TOMBSTONES, Room
from broadcaster.rooms import EXTRA_BYTES, IDLE_MS, MAX_ALLOWANCES, MAX_TAKEN_BYTES, OPEN_MS, Rooms
from liveroom.audience import Viewers
from liveroom.bad_records import without_content
from liveroom.kinds import CLASS_OF, Class, Kind, Role
from liveroom.records.balance import Balance, encode_balance
from liveroom.records.broadcast import MAX_ALLOWANCE, MAX_BROADCAST_BYTES, Batch, RoomFlags
from liveroom.records.codec import AnotherVersionError, BadRecord, BadRecordError
from liveroom.records.sections import MUST, OWNER, Section, SectionType
from liveroom.records.snapshot import (
    RoomChange,
    RoomSettings,
    StoredRoom,
    Tombstone,
    decode_room,
    decode_state,
    encode_room,
    encode_state,
)
from liveroom.records.uplink import MAX_PACKAGE_ITEMS, MAX_UPLINK_BYTES, Item, Uplink
from liveroom.topics import BROADCAST, room_hash
from liveroom.users import MAX_USER_ID_CHARS
from liveroom.wire import Card, Notice, decode_card
from tests.broadcaster.ticks import MINUTE_MS, SANCTIONS, T0, Tick, item, loaded, read, snapshot, states, tick, uplink

DANMAKU, GIFT, LIKE, CLEAR, BAN, MUTE = Kind.DANMAKU, Kind.GIFT, Kind.LIKE, Kind.CLEAR, Kind.BAN, Kind.MUTE
NUMBERED = [kind for kind in Kind if CLASS_OF[kind] in {Class.RELIABLE, Class.BEST_EFFORT}]


def take(rooms: Rooms, *records: Uplink, at_ms: int = T0) -> None:
    first = rooms.balance.taken + rooms._coming.taken
    for offset, record in enumerate(records, first):
        rooms.take(record, offset, at_ms)


def after(*ticks: Iterable[Uplink], **settings: Any) -> tuple[Rooms, Tick]:
    """Rooms that packed each of `ticks`, and the last of these."""
    rooms = Rooms(**settings)
    for records in ticks:
        take(rooms, *records)
        last = tick(rooms)
    return rooms, last


def written(*ticks: Iterable[Uplink]) -> tuple[Rooms, list[bytes]]:
    """Rooms that packed each of `ticks`, and the batches."""
    rooms, values = Rooms(), []
    for records in ticks:
        take(rooms, *records)
        values.append(tick(rooms).value)
    return rooms, values


def with_settings(**settings: Any) -> Rooms:
    """Rooms of which `r` has these settings; its next number is 2."""
    rooms, _ = after([uplink("settings", item(Kind.ROOM, **settings))])
    return rooms


def not_at_all(rooms: Rooms, value: bytes) -> Rooms:
    return rooms


def by_snapshot(rooms: Rooms, value: bytes = b"") -> Rooms:
    return loaded(snapshot(rooms))


def by_batches(rooms: Rooms, value: bytes) -> Rooms:
    """What a new owner knows of an owner that wrote this batch alone."""
    again = Rooms()
    again.apply(read(value))
    return again


def card(rooms: Rooms, room: str = "r") -> Card:
    rooms.want_card(room)
    for _ in range(10):
        for entry, text in tick(rooms).batch.cards():
            if entry.room == room_hash(room):
                return msgspec.json.decode(text, type=Card)
    raise AssertionError("no card came")


# ---- numbers
def test_numbers_of_a_room_begin_at_1_and_go_on_over_batches() -> None:
    rooms, first = after([uplink("a"), uplink("b", GIFT), uplink("c")])
    assert first.numbers() == [(1, 0), (2, 1), (3, 0)]
    take(rooms, uplink("d", GIFT), uplink("e", room="other"), uplink("f"))
    second = tick(rooms)
    assert second.numbers() == [(4, 2), (5, 0)]
    assert second.numbers("other") == [(1, 0)]
    take(rooms, uplink("g"))
    third = tick(rooms)
    assert third.numbers() == [(6, 0)]
    assert third.frames["r"].header.rseq == 2, "each batch repeats how far the reliable ones go"
    assert list(third.frames) == ["r"], "a room without news is in no batch"


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.value) for kind in NUMBERED])
def test_a_message_has_a_reliable_number_if_its_kind_must_arrive(kind: Kind) -> None:
    _, got = after([uplink("a", kind)])
    assert got.numbers() == [(1, 1 if CLASS_OF[kind] is Class.RELIABLE else 0)]
    assert got.entries["r"].rseq == got.messages()[0].rseq


def test_a_message_is_what_was_sent() -> None:
    sent = uplink(
        "a", item(GIFT, gift="rose", count=3), user="u@1", name="\u732b\n", role=Role.MODERATOR, level=9, at_ms=T0 - 5
    )
    _, got = after([sent])
    (message,) = got.messages()
    assert bytes(message.data) == bytes(sent.items[0].data)
    said = (message.id, message.user, message.name, message.role, message.level, message.at, message.kind, message.n)
    assert said == ("a", "u@1", "\u732b\n", Role.MODERATOR, 9, T0 - 5, GIFT, 1)
    assert got.packed.oldest_ms == T0 - 5


def test_a_room_has_the_epoch_of_its_first_second_and_keeps_it() -> None:
    rooms = Rooms(epoch_floor=5)
    take(rooms, uplink("a"), at_ms=7_999)
    take(rooms, uplink("b", room="early"), at_ms=4_000)
    first = tick(rooms)
    assert first.entries["r"].epoch == 7
    assert first.entries["early"].epoch == 5, "not below the floor"
    for rebuilt in (rooms, by_snapshot(rooms), by_batches(rooms, first.value)):
        take(rebuilt, uplink("c"), at_ms=60 * MINUTE_MS)
        assert tick(rebuilt).entries["r"].epoch == 7


# ---- duplicates
REBUILT = [
    pytest.param(not_at_all, id="the same owner"),
    pytest.param(by_snapshot, id="from a snapshot"),
    pytest.param(by_batches, id="from the batch"),
    pytest.param(lambda rooms, value: by_snapshot(by_batches(rooms, value), value), id="from the batch, then a snapshot"),
]


@pytest.mark.parametrize("rebuild", REBUILT)
@pytest.mark.parametrize(
    ("passed_ms", "is_delivered"),
    [(0, False), (1, False), (DEDUPE_MS - 1, False), (DEDUPE_MS, True), (2 * DEDUPE_MS, True)],
)
@pytest.mark.parametrize("items", [pytest.param((GIFT,), id="alone"), pytest.param((DANMAKU, GIFT, LIKE), id="a package")])
def test_a_reliable_interaction_sent_again_within_10_minutes_is_delivered_once(
    rebuild: Callable[[Rooms, bytes], Rooms], passed_ms: int, is_delivered: bool, items: tuple[Kind, ...]
) -> None:
    old, first = after([uplink("a", *items)])
    rooms = rebuild(old, first.value)
    take(rooms, uplink("a", *items), at_ms=T0 + passed_ms)
    got = tick(rooms)
    assert bool(got.messages()) is is_delivered
    assert rooms.balance.duplicate == (0 if is_delivered else len(items))
    assert rooms.balance.off == 0


@pytest.mark.parametrize("rebuild", REBUILT)
@pytest.mark.parametrize(
    "other",
    [
        pytest.param(uplink("b", GIFT), id="another id"),
        pytest.param(uplink("a", GIFT, user="v"), id="another user"),
        pytest.param(uplink("a", GIFT, room="s"), id="another room"),
        pytest.param(uplink("a"), id="best effort"),
    ],
)
def test_only_the_same_id_of_the_same_user_in_the_same_room_is_a_duplicate(
    rebuild: Callable[[Rooms, bytes], Rooms], other: Uplink
) -> None:
    old, first = after([uplink("a", GIFT)])
    rooms = rebuild(old, first.value)
    take(rooms, other)
    assert tick(rooms).ids(other.room) == [other.id]


ROSES = b'{"gift":"rose","count":3}'


def gift_of(id_: str, body: bytes, *others: Kind) -> Uplink:
    return uplink(id_, Item(GIFT, msgspec.Raw(body)), *others, name="Ann")


@pytest.mark.parametrize("rebuild", REBUILT)
@pytest.mark.parametrize(
    ("body", "is_same"),
    [
        pytest.param(b'{ "count": 3, "gift": "rose", "combo": 0 }', True, id="written otherwise"),
        pytest.param(b'{"gift":"rose","count":3,"later":1}', True, id="with a field of a later version"),
        pytest.param(b'{"gift":"rose","count":4}', False, id="another count"),
        pytest.param(b'{"gift":"boat","count":3}', False, id="another gift"),
    ],
)
def test_another_gift_under_an_old_id_is_told_from_a_repetition(
    rebuild: Callable[[Rooms, bytes], Rooms], body: bytes, is_same: bool
) -> None:
    old, first = after([gift_of("a", ROSES)])
    rooms = rebuild(old, first.value)
    if is_same:
        take(rooms, gift_of("a", body))
        assert rooms._coming.duplicate == 1
        return
    with pytest.raises(BadRecordError, match="'u' sent 'a' before") as refused:
        take(rooms, gift_of("a", body))
    assert refused.value.reason is BadRecord.ID_REUSED
    assert without_content(refused.value.reason, refused.value.detail) == "'...' sent '...' before, with another content"
    assert rooms._coming == rooms.balance, "nothing of it was taken"
    take(rooms, gift_of("a", ROSES), gift_of("b", body))
    assert tick(rooms).ids() == ["b"], "the first one stands"
    assert rooms.balance == Balance(taken=3, numbered=2, duplicate=1)


@pytest.mark.parametrize(
    "rebuild", [pytest.param(not_at_all, id="by the same owner"), pytest.param(by_snapshot, id="a snapshot")]
)
@pytest.mark.parametrize("other", [pytest.param((), id="less"), pytest.param((LIKE, DANMAKU), id="another order")])
def test_another_package_under_an_old_id_is_told_from_a_repetition(
    rebuild: Callable[[Rooms, bytes], Rooms], other: tuple[Kind, ...]
) -> None:
    old, first = after([gift_of("a", ROSES, DANMAKU, LIKE)])
    rooms = rebuild(old, first.value)
    with pytest.raises(BadRecordError, match="another content"):
        take(rooms, gift_of("a", ROSES, *other))
    take(rooms, gift_of("a", ROSES, DANMAKU, LIKE))
    assert rooms._coming.duplicate == 3


def test_a_package_is_the_same_where_its_opaque_parts_are_written_otherwise_and_a_text_is_masked() -> None:
    def sent(custom: bytes, text: str, *others: Kind) -> Uplink:
        items = Item(Kind.CUSTOM, msgspec.Raw(custom)), item(DANMAKU, text=text), *others
        return gift_of("a", ROSES, *items)  # type: ignore[arg-type]

    rooms, _ = after([sent(b'{"a":1,"b":2}', "a bad word")])
    take(rooms, sent(b'{"b": 2, "a": 1}', "a *** word"))
    assert rooms._coming.duplicate == 3
    with pytest.raises(BadRecordError, match="another content"):
        take(rooms, sent(b'{"a":1,"b":2}', "a bad word", DANMAKU))


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.value) for kind in (CLEAR, MUTE, BAN, Kind.ROOM)])
@pytest.mark.parametrize("rebuild", REBUILT)
def test_a_command_of_a_host_is_told_by_its_id_alone(kind: Kind, rebuild: Callable[[Rooms, bytes], Rooms]) -> None:
    """The ingress gives it other times when it is sent again."""
    once, again = ({"slow_s": 1}, {"slow_s": 2}) if kind is Kind.ROOM else ({"user": "troll"}, {"user": "troll2"})
    old, first = after([uplink("a", item(kind, **once))])
    rooms = rebuild(old, first.value)
    take(rooms, uplink("a", item(kind, **again)))
    assert rooms._coming.dead_lettered == 0


def test_an_id_of_a_version_that_remembered_no_content_is_told_by_itself() -> None:
    old, _ = after([gift_of("a", ROSES)])
    room = states(old)["r"]
    room.seen = [msgspec.structs.replace(seen, digest=0) for seen in room.seen]
    state = decode_state(snapshot(old))
    state.rooms = [encode_room(room)]
    rooms = Rooms(state)
    take(rooms, gift_of("a", b'{"gift":"boat"}'))
    assert rooms._coming.duplicate == 1


def test_a_duplicate_does_not_prolong_the_time_that_its_id_is_kept() -> None:
    rooms, _ = after([uplink("a", GIFT)])
    take(rooms, uplink("a", GIFT), at_ms=T0 + DEDUPE_MS // 2)
    assert not tick(rooms).messages()
    take(rooms, uplink("a", GIFT), at_ms=T0 + DEDUPE_MS)
    assert tick(rooms).ids() == ["a"]


def test_a_duplicate_in_the_same_batch_is_delivered_once() -> None:
    rooms, got = after([uplink("a", GIFT), uplink("b"), uplink("a", GIFT), uplink("b")])
    assert got.ids() == ["a", "b"]
    assert rooms.balance == Balance(taken=4, numbered=2, duplicate=2)


@pytest.mark.parametrize(("passed_ms", "is_delivered"), [(0, False), (BEST_EFFORT_DEDUPE_MS - 1, False), (10_000, True)])
def test_a_best_effort_interaction_sent_again_within_10_seconds_is_delivered_once(passed_ms: int, is_delivered: bool) -> None:
    rooms, _ = after([uplink("a")])
    take(rooms, uplink("a"), at_ms=T0 + passed_ms)
    assert bool(tick(rooms).messages()) is is_delivered
    assert rooms.balance.duplicate == (not is_delivered)


def test_a_sanction_sent_again_is_told_once_and_a_snapshot_knows_of_it() -> None:
    old, first = after([uplink("a", MUTE)])
    assert len(first.notices) == 1
    for rooms in (old, by_snapshot(old)):
        take(rooms, uplink("a", MUTE))
        assert not tick(rooms).notices


@pytest.mark.parametrize(("passed_ms", "ids"), [(DEDUPE_MS - 1, ["a"]), (DEDUPE_MS, [])])
def test_a_snapshot_holds_ids_as_long_as_they_count(passed_ms: int, ids: list[str]) -> None:
    rooms, _ = after([uplink("a", GIFT)])
    take(rooms, uplink("b"), at_ms=T0 + passed_ms)
    tick(rooms)
    assert [seen.id for seen in states(rooms)["r"].seen] == ids


# ---- packages
def test_a_package_stays_whole_and_in_order_under_ids_of_its_own() -> None:
    package = uplink("p", GIFT, DANMAKU, Kind.COUPON, DANMAKU, package="set")
    _, got = after([uplink("before"), package, uplink("behind", GIFT)])
    assert got.ids() == ["before", "p#0", "p#1", "p#2", "p#3", "behind"]
    assert got.numbers() == [(1, 0), (2, 1), (3, 0), (4, 2), (5, 0), (6, 3)]
    assert [message.package for message in got.messages()] == ["", "set", "set", "set", "set", ""]


def test_a_package_of_best_effort_items_is_thinned_whole() -> None:
    rooms, got = after([uplink("p", *[DANMAKU] * 3), uplink("q", *[DANMAKU] * 2, level=1)], limit_per_s=4)
    assert got.ids() == ["q#0", "q#1"]
    assert rooms.balance == Balance(taken=5, numbered=2, skipped=3)


def test_a_package_with_anything_reliable_is_never_thinned() -> None:
    rooms, got = after([uplink("p", GIFT, *[DANMAKU] * 9)], limit_per_s=1)
    assert len(got.messages()) == 10
    assert rooms.balance.skipped == 0


# ---- folding
def test_likes_are_a_sum_in_the_header_without_a_number() -> None:
    rooms, first = after([uplink("a", LIKE), uplink("b", item(LIKE, count=40), user="v"), uplink("c", GIFT)])
    assert first.frames["r"].header.likes == 42
    assert first.ids() == ["c"]
    assert rooms.balance == Balance(taken=3, numbered=1, folded=2)
    take(rooms, uplink("d"))
    assert tick(rooms).frames["r"].header.likes is None, "told where it changed"
    take(rooms, uplink("e", LIKE))
    third = tick(rooms)
    assert third.frames["r"].header.likes == 44
    assert (third.entries["r"].first, third.entries["r"].last) == (3, 2), "no message in it"


def test_likes_in_a_package_are_folded_one_by_one() -> None:
    rooms, got = after([uplink("a", LIKE, GIFT, LIKE)])
    assert got.frames["r"].header.likes == 4
    assert got.ids() == ["a#1"]
    assert rooms.balance == Balance(taken=3, numbered=1, folded=2)


def same(id_: str, **more: Any) -> Uplink:
    return uplink(id_, item(DANMAKU, text="666"), **more)


def test_identical_danmaku_of_a_tick_are_one_message_with_a_count_where_the_room_asks_for_it() -> None:
    rooms = with_settings(fold_identical=True)
    take(rooms, same("a"), uplink("x"), same("b", user="v"), same("c", user="w", role=Role.GUEST), uplink("g", GIFT))
    got = tick(rooms)
    assert [(message.id, message.n) for message in got.messages()] == [("a", 3), ("x", 1), ("g", 1)]
    assert rooms.balance == Balance(taken=6, numbered=4, folded=2)
    take(rooms, same("d"))
    assert [(message.id, message.n) for message in tick(rooms).messages()] == [("d", 1)], "each tick by itself"


def test_identical_danmaku_stay_apart_where_the_room_does_not_ask() -> None:
    _, got = after([same("a"), same("b")])
    assert [(message.id, message.n) for message in got.messages()] == [("a", 1), ("b", 1)]


@pytest.mark.parametrize(
    "apart",
    [
        *(pytest.param({"role": role}, id=role.value) for role in Role if role not in {Role.VIEWER, Role.GUEST}),
        pytest.param({"package": "p"}, id="a package"),
    ],
)
def test_what_is_more_than_one_voice_of_many_is_not_folded(apart: dict[str, Any]) -> None:
    rooms = with_settings(fold_identical=True)
    take(rooms, same("a"), same("b", **apart), same("c", **apart), same("d"))
    assert [(message.id, message.n) for message in tick(rooms).messages()] == [("a", 2), ("b", 1), ("c", 1)]


def test_other_kinds_of_one_body_are_not_folded() -> None:
    rooms = with_settings(fold_identical=True)
    take(rooms, *(uplink(kind.value, item(kind, text="666", gift="rose")) for kind in (DANMAKU, Kind.ENTER, Kind.CUSTOM, GIFT)))
    assert tick(rooms).ids() == ["danmaku", "enter", "custom", "gift"]


def test_the_clear_of_a_ban_in_a_package_is_not_folded_into_it() -> None:
    rooms = with_settings(fold_identical=True)
    take(rooms, same("a"), same("b"), uplink("p", GIFT, BAN, item(BAN, user="second")))
    got = tick(rooms)
    assert [(message.id, message.kind, message.n) for message in got.messages()] == [
        ("a", DANMAKU, 2),
        ("p#0", GIFT, 1),
        ("p", CLEAR, 1),
        ("p", CLEAR, 1),
    ]
    assert rooms.balance == Balance(taken=6, numbered=3, folded=1, noticed=2)


# ---- thinning
def test_above_the_limit_danmaku_are_skipped_before_numbering_and_viewers_are_told() -> None:
    rooms, got = after([uplink(f"d{number}", user=f"u{number}") for number in range(30)], limit_per_s=10)
    assert [seq for seq, _ in got.numbers()] == list(range(1, 11))
    assert got.frames["r"].header.skipped == got.entries["r"].skipped == 20
    assert rooms.balance == Balance(taken=30, numbered=10, skipped=20)
    order = [int(id_[1:]) for id_ in got.ids()]
    assert order == sorted(order), "those that stay keep their order"


def test_reliable_ones_are_never_thinned_and_take_nothing_of_the_limit() -> None:
    gifts = [uplink(f"g{number}", GIFT) for number in range(50)]
    danmaku = [uplink(f"d{number}", user=f"u{number}") for number in range(8)]
    _, got = after([*gifts, *danmaku], limit_per_s=5)
    assert [id_ for id_ in got.ids() if id_.startswith("g")] == [record.id for record in gifts]
    assert sum(id_.startswith("d") for id_ in got.ids()) == 5


def test_the_streamer_is_heard_however_loud_the_crowd_is() -> None:
    crowd = [uplink(f"d{number}", user=f"u{number}", level=200) for number in range(100)]
    _, got = after([*crowd, uplink("s", user="star", role=Role.STREAMER)], limit_per_s=3)
    assert got.ids()[-1] == "s"


def test_the_limit_grows_with_the_time_of_the_log_and_a_room_may_have_its_own() -> None:
    rooms = with_settings(limit_per_s=10)
    numbers = count()

    def numbered(at_ms: int) -> int:
        take(
            rooms,
            *(uplink(f"d{number}", user=f"u{number}") for _, number in zip(range(30), numbers, strict=False)),
            at_ms=at_ms,
        )
        return len(tick(rooms).messages())

    assert [numbered(T0 + passed_ms) for passed_ms in (0, 0, 500, 1_500, 60_000)] == [10, 0, 5, 10, 10]


def test_what_stays_below_the_limit_is_taken_off_it_and_folded_ones_only_once() -> None:
    rooms = with_settings(limit_per_s=4, fold_identical=True)
    take(rooms, *(same(f"s{number}", user=f"u{number}") for number in range(4)))
    assert len(tick(rooms).messages()) == 1
    for number in range(3):
        take(
            rooms, uplink(f"a{number}", item(DANMAKU, text=f"{number}")), uplink(f"b{number}", item(DANMAKU, text=f"b{number}"))
        )
    assert len(tick(rooms).messages()) == 3


def test_thinning_decides_alike_in_a_replay() -> None:
    records = [uplink(f"d{number}", user=f"u{number % 7}", level=number % 3) for number in range(60)]
    assert after(records, limit_per_s=20)[1].value == after(records, limit_per_s=20)[1].value


def test_folded_danmaku_that_are_thinned_count_as_skipped() -> None:
    rooms = with_settings(fold_identical=True, limit_per_s=1)
    take(rooms, same("a"), same("b", user="v"), same("c", user="w"), uplink("high", level=9))
    got = tick(rooms)
    assert got.ids() == ["high"]
    assert got.frames["r"].header.skipped == 3
    assert rooms.balance == Balance(taken=5, numbered=2, skipped=3)


# ---- notices and clears
@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.value) for kind in SANCTIONS])
def test_a_sanction_is_a_notice_to_one_user_without_a_number(kind: Kind) -> None:
    rooms, got = after([uplink("n", item(kind, user="troll", until_ms=5, why="spam"), at_ms=T0 - 3)])
    ((entry, notice),) = got.notices
    assert (entry.room, entry.user) == (room_hash("r"), room_hash("troll"))
    assert notice == Notice("r", kind, "n", T0 - 3, 5, "spam")
    assert rooms.balance == Balance(taken=1, noticed=1)
    assert got.ids() == (["n"] if kind is BAN else [])
    assert got.packed.oldest_ms == T0 - 3


def test_a_ban_takes_all_of_the_user_away_and_a_mute_does_not() -> None:
    rooms, _ = after([uplink("a", user="troll"), uplink("b", GIFT, user="troll"), uplink("c")], [uplink("m", MUTE)])
    assert len(card(rooms).messages) == 2
    take(rooms, uplink("n", BAN, user="mod", role=Role.MODERATOR))
    got = tick(rooms)
    (message,) = got.messages()
    assert (message.id, message.kind, message.user, message.rseq) == ("n", CLEAR, "mod", 2)
    assert msgspec.json.decode(message.data) == {"user": "troll", "before_ms": T0 + BAN_KNOWN_MS}
    assert got.entries["r"].flags & RoomFlags.CLEAR
    state = states(rooms)["r"]
    assert state.tombstones == [Tombstone(4, 2, [], "troll", T0 + BAN_KNOWN_MS)]
    assert b"troll" not in b"".join(state.recent)
    assert [b'"clear"' in line for line in state.recent_reliable] == [True]


@pytest.mark.parametrize("is_taken_over", [False, True])
def test_what_a_user_sent_before_a_ban_or_clear_and_comes_after_it_is_passed_over(is_taken_over: bool) -> None:
    clear = item(CLEAR, user="troll", before_ms=T0)
    for first, last_ms in ((uplink("n", BAN, user="mod"), T0 + BAN_KNOWN_MS), (uplink("n", clear, user="mod"), T0)):
        rooms = Rooms()
        take(rooms, first)
        batch = tick(rooms).batch
        if is_taken_over:
            rooms = Rooms()
            rooms.apply(batch)
        for number, at_ms in enumerate((last_ms - 1, last_ms)):
            take(rooms, uplink(f"d{number}", user="troll", at_ms=at_ms))
            take(rooms, uplink(f"e{number}", at_ms=at_ms))
            take(rooms, uplink(f"g{number}", GIFT, user="troll", at_ms=at_ms))
        assert tick(rooms).ids() == ["e0", "g0", "d1", "e1", "g1"], "a gift is never lost"
        assert rooms.balance.skipped == 1
        assert rooms.balance.is_exact()


def test_a_clear_of_one_message_takes_it_away_wherever_it_is_kept() -> None:
    rooms, _ = after([uplink("a"), uplink("p", GIFT, DANMAKU), uplink("n", item(Kind.ANNOUNCEMENT, text="hi"))])
    for number, target in enumerate(("a", "p#0", "n")):
        take(rooms, uplink(f"c{number}", item(CLEAR, id=target)))
        got = tick(rooms)
        assert got.entries["r"].flags & RoomFlags.CLEAR
    shown = card(rooms)
    assert [msgspec.json.decode(line)["id"] for line in shown.messages] == ["p#1"]
    assert [msgspec.json.decode(line)["id"] for line in shown.reliable] == ["c0", "c1", "c2"]
    assert bytes(shown.announcement) == b"null"
    assert [msgspec.json.decode(stone, type=Tombstone) for stone in shown.tombstones] == [
        Tombstone(5, 3, ["a"]),
        Tombstone(6, 4, ["p#0"]),
        Tombstone(7, 5, ["n"]),
    ]


def test_a_clear_of_a_message_leaves_those_of_other_users_with_the_same_id() -> None:
    rooms, _ = after([uplink("x", user="troll"), uplink("x", user="star"), uplink("x", GIFT, user="anna")])
    take(rooms, uplink("c", item(CLEAR, id="x", sender="troll")))
    tick(rooms)
    shown = card(rooms)
    assert [msgspec.json.decode(line)["user"] for line in shown.messages] == ["star"]
    assert [msgspec.json.decode(line)["user"] for line in shown.reliable] == ["anna", "u"]
    stones = [msgspec.json.decode(stone, type=Tombstone) for stone in shown.tombstones]
    assert stones == [Tombstone(4, 2, ["x"], sender="troll")]


def test_a_clear_takes_away_what_came_before_it_in_its_tick_and_not_what_comes_after() -> None:
    rooms, got = after([uplink("a", user="troll"), uplink("c", CLEAR), uplink("b", user="troll")])
    assert got.ids() == ["a", "c", "b"], "in the batch itself nothing is missing"
    assert [msgspec.json.decode(line)["id"] for line in card(rooms).messages] == ["b"]
    take(rooms, uplink("d"))
    assert not tick(rooms).entries["r"].flags & RoomFlags.CLEAR


def test_a_moderator_who_is_cleared_keeps_the_clears_themselves() -> None:
    rooms, _ = after([uplink("c", item(CLEAR, user="x"), user="mod"), uplink("d", item(CLEAR, user="mod"))])
    assert len(states(rooms)["r"].recent_reliable) == 2


def test_only_the_newest_tombstones_are_kept() -> None:
    rooms, _ = after([uplink(f"c{number}", item(CLEAR, id=f"m{number}")) for number in range(MAX_TOMBSTONES + 5)])
    stones = states(rooms)["r"].tombstones
    assert [stone.ids for stone in stones] == [[f"m{number}"] for number in range(5, MAX_TOMBSTONES + 5)]


# ---- what lasts
def test_a_room_is_dissolved_and_opened_again() -> None:
    rooms, gone = after([uplink("a", item(Kind.ROOM, slow_s=3.0))], [uplink("b", Kind.DISSOLVE)])
    assert gone.entries["r"].flags & RoomFlags.DISSOLVED
    assert states(rooms)["r"].settings == RoomSettings(slow_s=3.0, dissolved=True)
    take(rooms, uplink("c", Kind.REOPEN))
    assert not tick(rooms).entries["r"].flags & RoomFlags.DISSOLVED
    assert states(rooms)["r"].settings == RoomSettings(slow_s=3.0)


def test_a_batch_without_messages_holds_all_sums() -> None:
    rooms, _ = after([uplink("l", LIKE)])
    rooms.watch("r", Viewers(5, 7))
    header = tick(rooms).frames["r"].header
    assert (header.likes, header.viewers) == (2, (5, 7))
    take(rooms, uplink("m", LIKE))
    header = tick(rooms).frames["r"].header
    assert (header.likes, header.viewers) == (4, (5, 7))
    take(rooms, uplink("d"))
    header = tick(rooms).frames["r"].header
    assert (header.likes, header.viewers) == (None, None)


def test_a_card_shows_the_room_as_it_is() -> None:
    rooms, _ = after(
        [
            uplink("s", item(Kind.ROOM, muted_all=True, allow=["u"])),
            uplink("n", item(Kind.ANNOUNCEMENT, text="hi")),
            uplink("l", LIKE),
            uplink("d"),
            uplink("g", GIFT),
        ]
    )
    rooms.watch("r", Viewers(5, 7))
    assert tick(rooms).frames["r"].header.viewers == (5, 7)
    shown = card(rooms)
    assert (shown.epoch, shown.seq, shown.rseq, shown.likes) == (T0 // 1000, 4, 3, 2)
    assert (shown.users, shown.connections) == (5, 7)
    assert msgspec.json.decode(shown.settings, type=RoomSettings) == RoomSettings(muted_all=True, allow=["u"])
    assert msgspec.json.decode(shown.announcement)["data"] == {"text": "hi"}
    assert [msgspec.json.decode(line)["id"] for line in shown.messages] == ["d"]
    assert [msgspec.json.decode(line)["id"] for line in shown.reliable] == ["s", "n", "g"]


def test_a_card_that_was_asked_for_often_comes_once() -> None:
    rooms, _ = after([uplink("a")])
    for _ in range(5):
        rooms.want_card("r")
    assert len(list(tick(rooms).batch.cards())) == 1
    assert not rooms.has_news
    assert not list(tick(rooms).batch.cards())


LONG_USER = "~" + "u" * (MAX_USER_ID_CHARS - 1)


def crowded(*more: Uplink, cleared: str = "i" * 80) -> Rooms:
    """A room with all that its card can hold, of the longest user ids."""
    longest: dict[str, Any] = {"user": LONG_USER, "name": "\N{PARTY POPPER}" * 64, "role": Role.MODERATOR, "level": 255}
    link = "https://" + "x" * 492
    rooms, _ = after(
        [
            *(uplink(f"c{number}", item(CLEAR, user=LONG_USER, id=cleared)) for number in range(MAX_TOMBSTONES)),
            uplink("s", item(Kind.ROOM, allow=[LONG_USER] * 200)),
            uplink("n", item(Kind.ANNOUNCEMENT, text="\N{PARTY POPPER}" * 500, link=link), **longest),
            *(uplink(f"{number}" * 30, item(DANMAKU, text="x" * 100), **longest) for number in range(30)),
            *(uplink(f"{number}" * 30, item(GIFT, gift="x" * 64, to="x" * 36), **longest) for number in range(30)),
            *more,
        ]
    )
    return rooms


def test_a_card_of_the_longest_user_ids_and_of_bodies_as_documented_is_whole() -> None:
    shown = card(crowded())
    assert len(shown.settings) > 200 * MAX_USER_ID_CHARS
    assert len(shown.announcement) > 2_500
    assert sum(map(len, shown.messages)) > RECENT_BYTES - 2_000
    assert sum(map(len, shown.reliable)) > RECENT_BYTES - 2_000
    assert sum(map(len, shown.tombstones)) > MAX_TOMBSTONES * (MAX_USER_ID_CHARS + 80)
    assert len(msgspec.json.encode(shown)) < MAX_CARD_BYTES


def test_a_card_that_would_be_too_large_comes_without_its_messages() -> None:
    shown = card(crowded(uplink("m", item(Kind.ANNOUNCEMENT, text="x", later="x" * 64_000)), cleared="\x01" * 80))
    assert (shown.messages, shown.reliable, shown.tombstones) == ([], [], [])
    assert len(shown.announcement) > 64_000
    assert len(shown.settings) > 200 * MAX_USER_ID_CHARS
    assert shown.seq == MAX_TOMBSTONES + 63


def test_the_card_of_an_unknown_room_says_that_nothing_was_sent_and_who_watches_is_not_known() -> None:
    shown = card(Rooms())
    assert (shown.seq, shown.rseq, shown.likes, shown.users) == (0, 0, 0, None)


def test_the_last_messages_of_a_room_are_kept_by_number_and_by_size() -> None:
    rooms, _ = after([uplink(f"d{number}") for number in range(30)] + [uplink(f"g{number}", GIFT) for number in range(30)])
    state = states(rooms)["r"]
    assert len(state.recent) == len(state.recent_reliable) == RECENT_MESSAGES
    assert b'"d29"' in state.recent[-1]
    assert b'"g10"' in state.recent_reliable[0]
    take(rooms, *(uplink(f"e{number}", item(DANMAKU, text="x", later="x" * 5_000)) for number in range(5)))
    take(rooms, uplink("huge", item(DANMAKU, text="x", later="x" * RECENT_BYTES)))
    tick(rooms)
    kept = states(rooms)["r"].recent
    assert [msgspec.json.decode(line)["id"] for line in kept] == ["e2", "e3", "e4"]


def test_viewer_sums_are_told_once_and_take_no_number() -> None:
    rooms, _ = after([uplink("a")])
    rooms.watch("r", Viewers(1, 2))
    rooms.watch("new", Viewers(3, 4))
    assert rooms.has_news
    got = tick(rooms)
    assert got.frames["r"].header.viewers == (1, 2)
    assert got.frames["new"].header.viewers == (3, 4)
    assert (got.entries["new"].first, got.entries["new"].last) == (1, 0)
    assert not tick(rooms).frames


# ---- bodies that are not of their kind
BAD = [
    pytest.param(Kind.DANMAKU, b"{}", id="a danmaku without a text"),
    pytest.param(Kind.DANMAKU, b'{"text":""}', id="an empty danmaku"),
    pytest.param(Kind.DANMAKU, b'{"text":"%b"}' % (b"x" * 201), id="a long danmaku"),
    pytest.param(Kind.DANMAKU, b'{"text":"x","color":-1}', id="a colour below 0"),
    pytest.param(Kind.DANMAKU, b'{"text":"x","mention":["a b"]}', id="a mention of nobody"),
    pytest.param(Kind.GIFT, b"{}", id="a gift of nothing"),
    pytest.param(Kind.GIFT, b'{"gift":""}', id="a gift without a name"),
    pytest.param(Kind.GIFT, b'{"gift":5}', id="a gift that is a number"),
    pytest.param(Kind.GIFT, b'{"gift":"rose","count":0}', id="no gifts"),
    pytest.param(Kind.GIFT, b'{"gift":"rose","count":"3"}', id="a count as text"),
    pytest.param(Kind.RED_PACKET, b"{}", id="a red packet without an id"),
    pytest.param(Kind.COUPON, b'{"coupon":"c","ends_ms":-1}', id="a coupon that ended before 1970"),
    pytest.param(Kind.GOODS, b'{"goods":"g"}', id="goods without a title"),
    pytest.param(Kind.GOODS, b'{"goods":"g","title":"t","link":"javascript:x"}', id="goods with a link that is none"),
    pytest.param(Kind.ANNOUNCEMENT, b"{}", id="an announcement without a text"),
    pytest.param(Kind.ENTER, b'{"badge":"%b"}' % (b"x" * 65), id="a long badge"),
    pytest.param(Kind.LEAVE, b'{"text":null}', id="a text that is null"),
    pytest.param(Kind.LIKE, b'{"count":0}', id="no likes"),
    pytest.param(Kind.LIKE, b'{"count":1001}', id="too many likes"),
    pytest.param(Kind.CLEAR, b'{"id":5}', id="a clear of a number"),
    pytest.param(Kind.CLEAR, b'{"user":"%b"}' % (b"x" * 193), id="a clear of a long user"),
    pytest.param(Kind.CLEAR, b'{"user":"auth0|1"}', id="a clear of a text that is no user id"),
    pytest.param(Kind.ROOM, b'{"slow_s":"x"}', id="settings of another type"),
    pytest.param(Kind.ROOM, b'{"slow_s":1e999}', id="settings beyond a float"),
    pytest.param(Kind.ROOM, b'{"limit_per_s":1000000000000000000000}', id="a limit beyond 64 bits"),
    pytest.param(Kind.ROOM, b'{"slow_s":-1}', id="a time below 0"),
    pytest.param(Kind.ROOM, b'{"allow":["a b"]}', id="a user that is none"),
    pytest.param(Kind.CLEAR, b'{"user":"u","before_ms":-1}', id="a clear before 1970"),
    *(pytest.param(kind, b"{}", id=f"{kind.value} of nobody") for kind in SANCTIONS),
    *(pytest.param(kind, b'{"user":""}', id=f"{kind.value} of an empty user") for kind in SANCTIONS),
    *(pytest.param(kind, b'{"user":"auth0|1"}', id=f"{kind.value} of a text that is no user id") for kind in SANCTIONS),
    pytest.param(Kind.BAN, b'{"user":"u","why":"%b"}' % (b"x" * 201), id="a long reason"),
]


@pytest.mark.parametrize(
    ("others", "place"),
    [pytest.param((), 0, id="alone"), *(pytest.param((GIFT, LIKE), place, id=f"{place} of a package") for place in range(3))],
)
@pytest.mark.parametrize(("kind", "body"), BAD)
def test_a_bad_body_is_refused_before_anything_changed(kind: Kind, body: bytes, others: tuple[Kind, ...], place: int) -> None:
    rooms, _ = after([uplink("a", GIFT)])
    before = snapshot(rooms)
    items = [*map(item, others)]
    items.insert(place, Item(kind, msgspec.Raw(body)))
    for room in ("r", "new"):
        with pytest.raises(BadBodyError, match=kind.value):
            rooms.take(uplink("bad", *items, room=room), 9, T0 + MINUTE_MS)
    assert not rooms.has_news
    assert not rooms.has_changed
    assert rooms._coming == rooms.balance
    assert snapshot(rooms) == before
    rooms.dead_letter()
    take(rooms, uplink("bad", GIFT))
    assert tick(rooms).ids() == ["bad"], "its id was not met"
    assert rooms.balance == Balance(taken=3, numbered=2, dead_lettered=1)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        pytest.param(Kind.CUSTOM, b'{"type":5}', id="custom"),
        pytest.param(Kind.DISSOLVE, b'{"why":5}', id="dissolve"),
        pytest.param(Kind.DANMAKU, b'{"text":"x","mode":"a mode of later"}', id="a mode of a later version"),
    ],
)
def test_what_is_not_read_passes_as_it_is(kind: Kind, body: bytes) -> None:
    _, got = after([uplink("a", Item(kind, msgspec.Raw(body)))])
    assert [bytes(message.data) for message in got.messages()] == [body]


NEWER = {"later": {"x": [1, None]}, "a_mode_of_later": True, "dissolved": True}  # nor is a room dissolved by its modes


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.value) for kind in Kind])
def test_a_body_of_a_newer_ingress_is_taken_and_viewers_get_all_of_it(kind: Kind) -> None:
    """Fields that this version does not know cost no accepted interaction and no rule."""
    known = {"slow_s": 5, "no_media": True} if kind is Kind.ROOM else msgspec.json.decode(item(kind).data)
    sent, plain = (
        Item(kind, msgspec.Raw(msgspec.json.encode(known | NEWER))),
        Item(kind, msgspec.Raw(msgspec.json.encode(known))),
    )
    rooms, got = after([uplink("a", sent)])
    same, expected = after([uplink("a", plain)])
    assert rooms.balance == same.balance
    assert rooms.balance.dead_lettered == 0
    assert got.numbers() == expected.numbers()
    assert [notice for _, notice in got.notices] == [notice for _, notice in expected.notices]
    now, then = states(rooms)["r"], states(same)["r"]
    assert (now.settings, now.likes, now.tombstones) == (then.settings, then.likes, then.tombstones)
    if CLASS_OF[kind] in {Class.RELIABLE, Class.BEST_EFFORT}:
        [message] = got.messages()
        assert msgspec.json.decode(message.data) == known | NEWER
    assert states(by_snapshot(rooms))["r"].settings == now.settings


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.value) for kind in Kind])
@pytest.mark.parametrize("body", [b"{}", b'{"limit_per_s":9007199254740992,"slow_s":86400}'])
def test_whatever_is_taken_can_be_snapshotted_and_shown(kind: Kind, body: bytes) -> None:
    rooms = Rooms()
    try:
        rooms.take(uplink("a", Item(kind, msgspec.Raw(body))), 0, T0)
    except BadBodyError:
        rooms.take(uplink("a", kind), 0, T0)
    tick(rooms)
    assert states(by_snapshot(rooms)) == states(rooms)
    assert card(rooms).epoch == T0 // 1000


# ---- snapshots, closing, forgetting
def test_a_room_that_was_left_alone_is_closed_and_comes_back_from_what_was_stored() -> None:
    rooms, _ = after([uplink("a", GIFT), uplink("l", LIKE), uplink("w", GIFT, room="watched")])
    rooms.watch("watched", Viewers(1, 1))
    take(rooms, uplink("b", room="busy"), at_ms=T0 + OPEN_MS + 1)
    tick(rooms)
    snapshot(rooms)
    assert set(rooms._open) == {"busy", "watched"}
    assert len(rooms) == 3
    take(rooms, uplink("a", GIFT), uplink("c", GIFT), at_ms=T0 + OPEN_MS + 2)
    got = tick(rooms)
    assert got.numbers() == [(2, 2)]
    assert got.ids() == ["c"], "it remembers what it saw"
    assert got.entries["r"].epoch == T0 // 1000
    assert states(rooms)["r"].likes == 2


def test_a_room_is_forgotten_only_once_no_message_of_it_can_be_in_the_log() -> None:
    rooms, _ = after([uplink("w", room="watched")])
    rooms.watch("watched", Viewers(1, 1))
    take(rooms, uplink("old"), at_ms=T0 - MINUTE_MS)
    tick(rooms)
    take(rooms, uplink("a"))
    tick(rooms)
    kept = BROADCAST.retention_ms + IDLE_MS
    take(rooms, uplink("b", room="busy"), at_ms=T0 + kept)
    tick(rooms)
    assert {room.room for room in decode_state(snapshot(rooms)).rooms} == {"r", "watched", "busy"}
    take(rooms, uplink("c", room="busy"), at_ms=T0 + kept + 1)
    tick(rooms)
    assert {room.room for room in decode_state(snapshot(rooms)).rooms} == {"watched", "busy"}
    assert len(rooms) == 2
    take(rooms, uplink("d"), at_ms=T0 + kept + 2)
    got = tick(rooms)
    assert got.entries["r"].epoch == (T0 + kept + 2) // 1000
    assert got.numbers() == [(1, 0)]


def test_a_snapshot_packs_in_steps_and_only_what_changed() -> None:
    rooms, _ = after([uplink("a", room=name) for name in ("a", "b", "c")])
    assert not rooms.store(2)
    assert rooms.store(2)
    assert not rooms.has_changed
    assert {room.room for room in rooms.snapshot().rooms} == {"a", "b", "c"}
    again = loaded(encode_state(rooms.snapshot()))
    assert not again.has_changed
    assert again.balance == rooms.balance
    assert again.clock_ms == rooms.clock_ms == T0
    take(again, uplink("b", room="b"))
    tick(again)
    assert again.store(1)


# ---- other versions
def newer(type_: int, of_room: bool = False) -> Rooms:
    """Rooms of a snapshot to which a later version added a section, of its own or of a room."""
    rooms, _ = after([uplink("a", GIFT)])
    state = decode_state(snapshot(rooms))
    section = (Section(type_, b"new"),)
    if of_room:
        state.rooms = [encode_room(msgspec.structs.replace(decode_room(each), others=section)) for each in state.rooms]
    else:
        state.others = section
    return Rooms(state)


@pytest.mark.parametrize("of_room", [True, False])
def test_sections_of_a_later_version_outlive_owners_that_do_not_know_them(*, of_room: bool) -> None:
    rooms = newer(OWNER | 0x100, of_room)
    for number in range(3):
        take(rooms, uplink(f"b{number}"))
        tick(rooms)
        stored = snapshot(rooms)
        rooms = loaded(stored)
    state = decode_state(stored)
    kept = decode_room(state.rooms[0]).others if of_room else state.others
    assert kept == (Section(OWNER | 0x100, b"new"),)


@pytest.mark.parametrize("body", [{"slow_s": 100_000}, {"allow": [f"u{n}" for n in range(250)]}, {"slow_s": "auto"}])
def test_a_mode_with_a_value_that_a_later_version_allows_costs_no_room_its_history(
    body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later:
        """A decoder of modes that allows any value, and whose owner does nothing with it."""

        def decode(self, _: bytes) -> RoomChange:
            return RoomChange()

    with monkeypatch.context() as patch:
        patch.setattr(broadcaster.room, "_change_decoder", Later())
        patch.setitem(broadcaster.items._DECODERS, Kind.ROOM, Later())
        _, got = after([uplink("a", GIFT), uplink("m", item(Kind.ROOM, **body))])
    again = Rooms()
    again.apply(got.batch)
    take(again, uplink("b", GIFT))
    assert not again.lost
    assert tick(again).numbers() == [(3, 3)]
    assert states(again)["r"].settings == RoomSettings()


def test_a_room_without_any_limit_worth_the_name_keeps_the_partition_going() -> None:
    rooms = Rooms(limit_per_s=10)
    crowd = [uplink(f"a{number}", user=f"u{number}") for number in range(30)]
    take(rooms, *crowd, uplink("m", item(Kind.ROOM, limit_per_s=2**53)))
    tick(rooms)
    take(rooms, uplink("b"), at_ms=T0 + 100)
    assert tick(rooms).batch.allowances == {room_hash("r"): MAX_ALLOWANCE}


def test_a_batch_names_so_many_rooms_at_their_limit_as_fit() -> None:
    rooms = Rooms(limit_per_s=1)
    for number in range(MAX_ALLOWANCES + 5):
        take(rooms, *(uplink(f"{index}", room=f"r{number}", user=f"u{index}") for index in range(3)))
    assert len(tick(rooms).batch.allowances) == MAX_ALLOWANCES


def test_a_room_that_begins_again_may_number_no_more_than_before() -> None:
    rooms = Rooms(limit_per_s=10)
    take(rooms, *(uplink(f"a{number}", user=f"u{number}") for number in range(30)))
    tick(rooms)
    rooms._open["r"].recent_reliable.append(b"not a message")
    take(rooms, uplink("c", item(Kind.CLEAR, id="a")), *(uplink(f"b{number}", user=f"u{number}") for number in range(30)))
    assert tick(rooms).ids() == ["c"]


def test_a_room_that_begins_again_keeps_the_sections_that_it_does_not_know() -> None:
    rooms = newer(0x100, of_room=True)
    rooms.want_card("r")
    tick(rooms)
    rooms._open["r"].recent_reliable.append(b"not a message")
    take(rooms, uplink("c", item(Kind.CLEAR, id="a")))
    assert tick(rooms).entries["r"].flags & RoomFlags.AGAIN
    assert states(rooms)["r"].others == (Section(0x100, b"new"),)


def test_a_room_with_a_section_that_must_be_understood_is_neither_opened_nor_given_up() -> None:
    rooms = newer(MUST | 0x100, of_room=True)
    with pytest.raises(AnotherVersionError, match="must be understood"):
        take(rooms, uplink("b", GIFT))
    assert not rooms.lost
    assert rooms._coming == rooms.balance, "the record is no dead letter"


def with_balance(batch: Batch, data: bytes) -> Batch:
    known = {**batch.sections.known, int(SectionType.BALANCE): memoryview(data)}
    return batch._replace(sections=batch.sections._replace(known=known))


def test_counts_of_outcomes_that_a_later_version_made_stay_in_the_balance() -> None:
    _, first = after([uplink("a")])
    again = Rooms()
    again.apply(with_balance(first.batch, encode_balance(Balance(3, 1, others={77: 2}))))
    take(again, uplink("b"))
    tick(again)
    assert again.balance == Balance(4, 2, others={77: 2})
    assert again.balance.is_exact()
    assert loaded(snapshot(again)).balance == again.balance


def test_counts_of_a_batch_that_cannot_be_read_cost_no_room_its_history() -> None:
    _, first = after([uplink("a", GIFT)])
    rooms = Rooms()
    rooms.apply(with_balance(first.batch, b"junk"))
    assert [lost.name for lost in rooms.lost] == [""]
    take(rooms, uplink("b", GIFT))
    assert tick(rooms).numbers() == [(2, 2)]


# ---- a new owner
@pytest.mark.parametrize("by_snapshot", [True, False])
def test_a_new_owner_knows_what_a_room_at_its_limit_may_still_number(*, by_snapshot: bool) -> None:
    crowd = [uplink(f"a{number}", user=f"u{number}") for number in range(12)]
    rooms, crowded = after(crowd, limit_per_s=10)
    assert crowded.batch.allowances == {room_hash("r"): 0}
    again = Rooms(limit_per_s=10)
    if by_snapshot:
        again = loaded(snapshot(rooms), limit_per_s=10)
        again.apply(tick(rooms).batch)
    else:
        again.apply(crowded.batch)
    for each in (rooms, again):
        take(each, *(uplink(f"b{number}", user=f"u{number}") for number in range(9)), at_ms=T0 + 500)
    theirs, ours = tick(rooms), tick(again)
    assert ours.ids() == theirs.ids()
    assert len(ours.ids()) == 5, "half a second after it was empty"
    for each in (rooms, again):
        take(each, uplink("late"), at_ms=T0 + 10_000)
    assert tick(again).batch.allowances == tick(rooms).batch.allowances == {}


def test_a_hole_in_the_numbers_of_valid_batches_is_not_passed_over_and_costs_its_room_alone_its_history() -> None:
    rooms, values = written([uplink("a"), uplink("a", room="s")], [uplink("b")], [uplink("b", room="s")])
    again = Rooms()
    for value in (values[0], values[2]):
        again.apply(read(value))
    take(rooms, uplink("c"), uplink("c", room="s"))
    again.apply(read(tick(rooms).value))
    assert [(lost.name, "HistoryError" in lost.why) for lost in again.lost] == [("r", True)]
    take(again, uplink("d"), uplink("d", room="s"))
    got = tick(again)
    assert (got.numbers(), got.numbers("s")) == ([(1, 0)], [(4, 0)])
    assert got.entries["r"].epoch > T0 // 1000 == got.entries["s"].epoch
    assert again.balance.is_exact()


def spoilt(value: bytes, room: str) -> Batch:
    """A batch in which one room's payload is not what its writer wrote."""
    batch = read(value)
    body = bytearray(batch.body)
    start = 0
    for entry, _ in batch.rooms():
        if entry.hash == room_hash(room):
            body[start : start + entry.size] = b"?" * entry.size
        start += entry.size
    return batch._replace(body=memoryview(bytes(body)))


@pytest.mark.parametrize("known", [True, False])
def test_a_batch_of_which_one_rooms_part_cannot_be_read_costs_that_room_alone_its_history(*, known: bool) -> None:
    before = [uplink("x", room="s"), *([uplink("x")] if known else [])]
    _, values = written(before, [uplink("a", GIFT), uplink("a", GIFT, room="s")], [uplink("b"), uplink("b", room="s")])
    again = Rooms()
    again.apply(read(values[0]))
    again.apply(spoilt(values[1], "r"))
    again.apply(read(values[2]))
    assert [lost.name for lost in again.lost] == ["r" if known else ""]
    take(again, uplink("a", GIFT, room="s"), uplink("c"), uplink("c", room="s"))
    got = tick(again)
    assert (got.numbers(), got.numbers("s")) == ([(1, 0)], [(4, 0)]), "a gift of the other room is known by its id"
    assert got.entries["r"].epoch > T0 // 1000 == got.entries["s"].epoch
    assert again.balance.is_exact()


def test_a_room_that_cannot_be_packed_begins_again_with_what_waits_and_no_other_notices() -> None:
    rooms, _ = after([uplink("a", GIFT), uplink("a", GIFT, room="s")])
    rooms._open["r"].recent_reliable.append(b"not a message")
    take(rooms, uplink("c", item(Kind.CLEAR, id="a")), uplink("b", GIFT), uplink("a", GIFT), uplink("b", GIFT, room="s"))
    got = tick(rooms)
    assert (got.ids(), got.ids("s")) == (["c", "b"], ["b"]), "nothing that waited is lost; ids are still known"
    assert got.entries["r"].epoch > T0 // 1000 == got.entries["s"].epoch
    assert (got.numbers(), [lost.name for lost in rooms.lost]) == ([(1, 1), (2, 2)], ["r"])
    assert rooms.balance.is_exact()
    again = Rooms()
    again.apply(got.batch)
    take(again, uplink("d", GIFT))
    assert tick(again).numbers() == [(3, 3)]


def test_a_new_owner_keeps_of_a_room_that_began_again_what_its_old_owner_kept() -> None:
    rooms, first = after([uplink("a", GIFT), uplink("l", LIKE), uplink("modes", item(Kind.ROOM, slow_s=5.0))])
    rooms._open["r"].recent_reliable.append(b"not a message")
    take(rooms, uplink("c", item(Kind.CLEAR, user="troll", before_ms=T0)), uplink("b", GIFT))
    again = by_batches(rooms, first.value)
    again.apply(tick(rooms).batch)
    old, new = states(rooms)["r"], states(again)["r"]
    assert (new.likes, new.settings, new.seen) == (old.likes, old.settings, old.seen)
    for each in (rooms, again):
        late = uplink("late", user="troll", at_ms=T0 - 1)
        take(each, uplink("a", GIFT), late, uplink("d"))
        got = tick(each)
        assert (got.ids(), got.numbers()) == (["d"], [(3, 0)]), "a gift sent again came before the loss"
        assert got.entries["r"].epoch == old.epoch > T0 // 1000
        assert not got.entries["r"].flags & RoomFlags.AGAIN, "it is said once"


def test_what_cannot_be_packed_even_by_a_room_without_history_is_put_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = Room.pack

    def fails(room: Room, *arguments: Any) -> Any:
        if any(waiting.record.id == "poison" for waiting in room.waiting):
            raise ZeroDivisionError
        return pack(room, *arguments)

    monkeypatch.setattr(Room, "pack", fails)
    rooms = Rooms()
    take(rooms, uplink("poison", GIFT, GIFT), uplink("l", LIKE), uplink("a", GIFT, room="s"))
    got = tick(rooms)
    assert [(unfit.record.id, unfit.why) for unfit in got.packed.unfit] == [("poison", "ZeroDivisionError()")]
    assert (got.ids(), got.ids("s")) == ([], ["a"])
    assert (rooms.balance.dead_lettered, rooms.balance.is_exact()) == (2, True)
    take(rooms, uplink("b", GIFT))
    assert tick(rooms).numbers() == [(1, 1)]


@pytest.mark.parametrize("by", [not_at_all, by_snapshot])
@pytest.mark.parametrize("kinds", [(GIFT,), (DANMAKU,), (BAN,), (GIFT, LIKE, MUTE)])
def test_what_was_put_aside_may_be_sent_again_as_it_was_or_corrected(
    by: Callable[[Rooms, bytes], Rooms], kinds: tuple[Kind, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = Rooms()
    take(rooms, uplink("before", GIFT), uplink("before2"))
    tick(rooms)
    with monkeypatch.context() as broken:
        broken.setattr(Room, "pack", lambda *_: 1 / 0)
        take(rooms, uplink("a", *kinds), uplink("b", *kinds))
        packed = tick(rooms)
    assert [unfit.record.id for unfit in packed.packed.unfit] == ["a", "b"]
    rooms = by(rooms, packed.value)
    take(rooms, uplink("a", *kinds), uplink("b", GIFT, GIFT), uplink("before", GIFT))
    assert [id_.partition("#")[0] for id_ in tick(rooms).ids()][:1] == ["a"]
    assert rooms.balance.duplicate == 1, "what was delivered before is still known"
    take(rooms, uplink("a", *kinds), uplink("b", GIFT, GIFT))
    assert not tick(rooms).ids()


def test_a_room_that_cannot_be_stored_or_shown_begins_again_and_the_snapshot_holds_the_others() -> None:
    rooms, _ = after([uplink("a", GIFT), uplink("a", GIFT, room="s")])
    rooms.want_card("r")
    rooms._open["r"].recent.append(None)  # type: ignore[arg-type]
    assert not tick(rooms).batch.card_entries
    rooms.want_card("r")
    told = tick(rooms)
    ((_, text),) = told.batch.cards()
    assert told.entries["r"].epoch == decode_card(text).epoch, "a batch tells the epoch before a card does"
    rooms._open["r"].recent.append(None)  # type: ignore[arg-type]
    assert states(rooms)["s"].seq == 1
    held = states(rooms)
    assert (held["r"].seq, held["r"].epoch > held["s"].epoch) == (0, True)
    assert [lost.name for lost in rooms.lost] == ["r", "r"]


def spoil(rooms: Rooms) -> None:
    """Let the next card, or the next snapshot, of `r` fail."""
    rooms._open["r"].recent.append(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("sent", [pytest.param((DANMAKU, GIFT), id="messages"), pytest.param((LIKE,), id="likes")])
def test_what_a_room_gets_after_a_snapshot_that_followed_its_failed_card_is_in_the_next_snapshot(
    sent: tuple[Kind, ...],
) -> None:
    rooms, _ = after([uplink("a")])
    spoil(rooms)
    rooms.want_card("r")
    tick(rooms)
    assert rooms.has_news, "the new epoch is not told yet"
    snapshot(rooms)
    take(rooms, *(uplink(f"{number}", kind) for number, kind in enumerate(sent)))
    tick(rooms)
    live = rooms._open["r"].state
    next_owner = by_snapshot(rooms)
    held = states(next_owner)["r"]
    assert (held.epoch, held.seq, held.rseq, held.likes) == (live.epoch, live.seq, live.rseq, live.likes)
    take(next_owner, uplink("next", GIFT))
    assert tick(next_owner).numbers() == [(live.seq + 1, live.rseq + 1)], "no number is given twice"


def test_a_sanction_alone_is_known_to_the_next_owner_though_the_card_before_it_failed() -> None:
    rooms, _ = after([uplink("a")])
    spoil(rooms)
    rooms.want_card("r")
    tick(rooms)
    snapshot(rooms)
    take(rooms, uplink("m", MUTE))
    assert tick(rooms).notices
    next_owner = by_snapshot(rooms)
    take(next_owner, uplink("m", MUTE))
    assert not tick(next_owner).notices


def test_a_room_whose_card_and_then_snapshot_fail_is_in_the_next_batch_once_under_the_epoch_of_the_snapshot() -> None:
    rooms, _ = after([uplink("a")])
    spoil(rooms)
    rooms.want_card("r")
    tick(rooms)
    spoil(rooms)
    held = states(rooms)["r"]
    take(rooms, uplink("b"))
    got = tick(rooms)
    assert (got.numbers(), got.entries["r"].epoch) == ([(1, 0)], held.epoch)
    assert not rooms.has_news


def test_a_room_that_cannot_be_shown_even_without_its_history_gets_no_card_and_others_get_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rooms, _ = after([uplink("a"), uplink("a", room="s")])
    card = Room.card

    def fails(room: Room) -> bytes:
        if room.state.room == "r":
            raise ZeroDivisionError
        return card(room)

    monkeypatch.setattr(Room, "card", fails)
    rooms.want_card("r")
    rooms.want_card("s")
    assert [entry.room for entry, _ in tick(rooms).batch.cards()] == [room_hash("s")]
    assert tick(rooms).numbers() == []
    assert not rooms.has_news, "it is not tried for ever"
    take(rooms, uplink("b"))
    assert tick(rooms).numbers() == [(1, 0)]


def test_a_record_of_a_room_that_lives_in_another_partition_is_refused_and_changes_nothing() -> None:
    rooms = Rooms(belongs=lambda room: room != "foreign")
    take(rooms, uplink("a"))
    with pytest.raises(BadRecordError) as refused:
        rooms.take(uplink("a", GIFT, room="foreign"), 1, T0)
    assert refused.value.reason is BadRecord.WRONG_PARTITION
    assert list(tick(rooms).frames) == ["r"]
    other, values = written([uplink("a", GIFT, room="foreign"), uplink("b")])
    rooms = Rooms(belongs=lambda room: room != "foreign")
    rooms.apply(read(values[0]))
    assert list(states(rooms)) == ["r"], "what an earlier version took for it is not brought back"
    assert rooms.balance == other.balance


def test_a_room_whose_history_was_lost_begins_again_under_the_epoch_of_its_batches() -> None:
    old, first = after([uplink("a", GIFT), uplink("b", GIFT)])
    newer = Rooms(epoch_floor=T0 // 1000 + 60)
    take(newer, uplink("a", GIFT))
    second = tick(newer)
    again = by_batches(old, first.value)
    again.apply(read(second.value))
    take(again, uplink("c"), uplink("b", GIFT))
    got = tick(again)
    assert got.numbers() == [(2, 0), (3, 2)]
    assert got.entries["r"].epoch == T0 // 1000 + 60


@pytest.mark.parametrize("rebuild", REBUILT)
def test_a_room_that_was_only_watched_keeps_its_epoch(rebuild: Callable[[Rooms, bytes], Rooms]) -> None:
    old = Rooms()
    old.watch("r", Viewers(1, 1))
    first = tick(old)
    rooms = rebuild(old, first.value)
    take(rooms, uplink("b", room="busy"), at_ms=T0 + 2 * OPEN_MS)
    tick(rooms)
    snapshot(rooms)
    take(rooms, uplink("a"), at_ms=T0 + 3 * OPEN_MS)
    assert tick(rooms).entries["r"].epoch == first.entries["r"].epoch == T0 // 1000


def broken(rooms: Rooms, name: str) -> Rooms:
    """Rooms from a snapshot in which one room's bytes cannot be read."""
    state = decode_state(snapshot(rooms))
    spoilt = [StoredRoom(room.room, room.last_ms, b"?" if room.room == name else room.data) for room in state.rooms]
    return Rooms(msgspec.structs.replace(state, rooms=spoilt))


def test_a_room_that_cannot_be_read_begins_again_with_a_new_epoch_and_the_others_go_on() -> None:
    old, _ = after([uplink("a"), uplink("a", room="s")])
    rooms = broken(old, "r")
    take(rooms, uplink("b"), uplink("b", room="s"), at_ms=T0 + 1_000)
    got = tick(rooms)
    assert [lost.name for lost in rooms.lost] == ["r"]
    assert got.numbers() == [(1, 0)]
    assert got.numbers("s") == [(2, 0)]
    assert got.entries["r"].epoch > T0 // 1000 == got.entries["s"].epoch


@pytest.mark.parametrize("passed_ms", [0, 5_000])
def test_a_room_that_cannot_be_read_stops_no_take_over_when_batches_follow_its_snapshot(passed_ms: int) -> None:
    old, _ = after([uplink("a"), uplink("a", room="s")])
    first, second = broken(old, "r"), broken(old, "r")
    for number in range(2):
        take(old, uplink(f"b{number}", GIFT), uplink(f"b{number}", room="s"), at_ms=T0 + passed_ms)
        value = tick(old).value
        first.apply(read(value))
        second.apply(read(value))
    assert len(first.lost) == 1
    take(first, uplink("c"), uplink("c", room="s"), at_ms=T0 + passed_ms)
    got = tick(first)
    assert got.numbers() == [(1, 0)]
    assert got.numbers("s") == [(4, 0)]
    assert got.entries["r"].epoch > T0 // 1000, "viewers must see that its numbers are others"
    second.apply(read(got.value))
    take(second, uplink("d"))
    again = tick(second)
    assert again.numbers() == [(2, 0)]
    assert again.entries["r"].epoch == got.entries["r"].epoch


# ---- how large a BATCH may get
ESCAPES = "\x01" * 64
LONG_ROOM = "R" * 57
LONG_ID = "i" * 57


def widest(number: int, *items: Item, room: str = LONG_ROOM + "0000000") -> Uplink:
    """A record whose names take as many bytes as they can."""
    names: dict[str, Any] = {"user": LONG_USER, "name": ESCAPES, "package": "p" * 64}
    return uplink(f"{LONG_ID}{number:07}", *items, room=room, role=Role.MODERATOR, level=255, at_ms=2**53, **names)


def many_rooms(number: int) -> Uplink:
    return widest(number, item(GIFT), room=f"{LONG_ROOM}{number:07}")


def empty_items(number: int) -> Uplink:
    return widest(number, *[Item(Kind.REOPEN)] * MAX_PACKAGE_ITEMS)


def one_body(number: int) -> Uplink:
    return widest(number, item(GIFT, gift="x", later="x" * (MAX_UPLINK_BYTES - 1_112)))


def bodies(number: int) -> Uplink:
    return widest(number, *[item(DANMAKU, text="x", later="x" * 938)] * MAX_PACKAGE_ITEMS)


def bans(number: int) -> Uplink:
    return widest(number, *[item(BAN, user=LONG_USER, why="\N{PARTY POPPER}" * 185)] * MAX_PACKAGE_ITEMS)


def short_bans(number: int) -> Uplink:
    return widest(number, *[item(BAN, user="k")] * MAX_PACKAGE_ITEMS)


def kicks(number: int) -> Uplink:
    return widest(number, item(Kind.KICK, user="k"), room=f"{LONG_ROOM}{number:07}")


@pytest.fixture
def nothing_deflates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies may be such that deflating saves nothing."""
    monkeypatch.setattr("liveroom.wire.DEFLATE_FROM", 2**40)


def short_names(number: int) -> Uplink:
    return uplink(f"{number}", *[Item(Kind.REOPEN)] * MAX_PACKAGE_ITEMS, role=Role.MODERATOR, level=255, at_ms=2**53)


def short_kicks(number: int) -> Uplink:
    return uplink(f"{number}", item(Kind.KICK, user="k", why='"' * 190), room=f"{LONG_ROOM}{number:07}", at_ms=2**53)


FILLS = [many_rooms, empty_items, one_body, bodies, bans, short_bans, kicks, short_names, short_kicks]
LASTS = [empty_items, bodies, bans]
WATCHED = 1_500


@pytest.mark.usefixtures("nothing_deflates")
@pytest.mark.parametrize("extra_bytes", [pytest.param(0, id="alone"), pytest.param(EXTRA_BYTES, id="beside counts and cards")])
@pytest.mark.parametrize("last", [pytest.param(make, id=make.__name__) for make in LASTS])
@pytest.mark.parametrize("fill", [pytest.param(make, id=make.__name__) for make in FILLS])
def test_no_batch_is_larger_than_what_was_reckoned_and_than_a_record_may_be(
    fill: Callable[[int], Uplink], last: Callable[[int], Uplink], extra_bytes: int
) -> None:
    rooms, numbers = Rooms(limit_per_s=10**9), count(1)
    carded = [f"c{name}" for name in range(5)] if extra_bytes else []
    watched = ["W" * 57 + f"{name:07}" for name in range(WATCHED)] if extra_bytes else []
    for name in carded:
        take(rooms, widest(next(numbers), item(Kind.ANNOUNCEMENT, text="x", later="x" * 60_000), room=name))
    for name in carded[-1:]:
        take(rooms, widest(next(numbers), item(Kind.ROOM, allow=[LONG_USER] * 200), room=name))
    tick(rooms)
    for name in watched:
        rooms.watch(name, Viewers(2**53, 2**53))
    for name in carded:
        rooms.want_card(name)
    for make in (fill, many_rooms):
        record = make(next(numbers))
        while rooms._taken_bytes + _reckoned(record) < MAX_TAKEN_BYTES:
            take(rooms, record)
            record = make(next(numbers))
    take(rooms, last(next(numbers)))
    cards = told = 0
    while rooms.has_news:
        reckoned = rooms._taken_bytes
        got = tick(rooms, 2**53)
        assert len(got.value) <= reckoned + extra_bytes + 256
        assert len(got.value) <= MAX_BROADCAST_BYTES
        cards += len(list(got.batch.cards()))
        told += sum(frame.header.viewers is not None for frame in got.frames.values())
    assert cards == len(carded)
    assert told == len(watched)


def _reckoned(record: Uplink) -> int:
    rooms = Rooms()
    rooms.take(record, 0, 0)
    return rooms._taken_bytes


@pytest.mark.parametrize(
    ("off_ms", "shown_ms"),
    [
        pytest.param(0, T0, id="right"),
        pytest.param(1900, T0 + 1900, id="a little ahead"),
        pytest.param(-9000, T0 - 9000, id="it waited for the brokers"),
        pytest.param(90_000, T0, id="90 s ahead"),
        pytest.param(-90_000, T0, id="90 s behind"),
        pytest.param(-T0, T0, id="in 1970"),
        pytest.param(2**52, T0, id="in the far future"),
    ],
)
def test_the_time_of_a_message_is_bounded_by_kafkas_of_its_record(off_ms: int, shown_ms: int) -> None:
    rooms, last = after([uplink("a", at_ms=T0 + off_ms)])
    assert [message.at for message in last.messages()] == [shown_ms]
    assert last.packed.oldest_ms == shown_ms
    assert rooms.far_times == (shown_ms != T0 + off_ms)


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.value) for kind in (CLEAR, BAN)])
def test_a_clear_by_an_ingress_that_is_ahead_hides_nothing_of_the_future(kind: Kind) -> None:
    """An hour ahead, it would hide what its user sends for an hour; so at the next owner."""
    ahead_ms = T0 + 3_600_000
    body = {"user": "u", "before_ms": ahead_ms} if kind is CLEAR else {"user": "u"}
    rooms, last = after([uplink("c", item(kind, **body), user="host", at_ms=ahead_ms, role=Role.MODERATOR)])
    assert all(msgspec.json.decode(each.data)["before_ms"] <= T0 + 4000 for each in last.messages() if each.kind == CLEAR)
    for owner in (rooms, Rooms(decode_state(snapshot(rooms)))):
        take(owner, uplink("later", at_ms=T0 + 10_000), at_ms=T0 + 10_000)
        assert tick(owner).ids() == ["later"], "of ten seconds later"


def test_a_like_of_the_future_makes_no_delay() -> None:
    rooms, last = after([uplink("a", LIKE, at_ms=T0 + 90_000), uplink("b", LIKE, at_ms=T0 - 5)])
    assert (last.packed.oldest_ms, rooms.far_times) == (T0 - 5, 1)
