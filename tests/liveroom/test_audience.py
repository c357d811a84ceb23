"""The audience: who watches which room, by the gateways' word, and how often its owner tells it."""

from collections.abc import Iterable
from random import Random
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveroom.audience import AT_ONCE, NOBODY, PUBLISH_INTERVAL_S, ROOM_COST, Audience, Viewers
from liveroom.records.control import Presence
from liveroom.user_lists import pack


def presence(
    gateway: str,
    users: int,
    connections: int | None = None,
    room: str = "r",
    generation: int = 1,
    devices: int | None = None,
) -> Presence:
    return Presence(1, room, gateway, generation, users, users if connections is None else connections, 0, devices=devices)


def told(audience: Audience, now_s: float) -> dict[str, Viewers]:
    return dict(audience.due(now_s))


def test_devices_are_summed_and_unknown_where_one_gateway_does_not_say() -> None:
    audience = Audience()
    assert audience.devices("r") == 0
    audience.update(presence("a", 3, 5, devices=4), 0)
    audience.update(presence("b", 1, 1, devices=1), 0)
    assert audience.devices("r") == 5
    audience.update(presence("old", 1, 1), 0)
    assert (audience.devices("r"), audience.devices("other")) == (None, 0)
    assert audience.of("r") == Viewers(5, 7)
    audience.update(presence("old", 0), 1)
    assert audience.devices("r") == 5


def test_other_devices_of_as_many_viewers_are_no_news() -> None:
    audience = Audience()
    audience.update(presence("a", 1, 2, devices=1), 0)
    told(audience, 0)
    audience.update(presence("a", 1, 2, devices=2), 5)
    assert not audience.has_unpublished
    assert audience.devices("r") == 2


def test_users_and_connections_are_summed_apart_over_gateways() -> None:
    audience = Audience()
    audience.update(presence("a", 3, 5), 0)
    audience.update(presence("b", 1, 1), 0)
    audience.update(presence("b", 7, 9, room="other"), 0)
    assert audience.of("r") == Viewers(4, 6)
    audience.update(presence("a", 2, 2), 1)
    assert audience.of("r") == Viewers(3, 3)
    assert audience.of("nowhere") == NOBODY
    assert audience.rooms() == ["r", "other"]


def test_a_gateway_needs_a_card_when_the_room_becomes_local_there_and_not_before_it_left() -> None:
    audience = Audience()
    heard = [audience.update(presence("a", users), 0) for users in (1, 2, 1, 0, 0, 1)]
    assert heard == [True, False, False, False, False, True]
    assert audience.update(presence("b", 1), 0)


def test_a_gateway_gets_a_card_anew_when_it_asks_while_it_has_viewers() -> None:
    audience = Audience()
    audience.update(presence("a", 1), 0)
    assert audience.update(msgspec.structs.replace(presence("a", 1), card=True), 0)
    assert audience.update(msgspec.structs.replace(presence("ingress", 0), card=True), 0), "who asks need not watch"
    assert audience.of("r") == (1, 1)


def test_a_room_that_nobody_watches_is_not_kept() -> None:
    audience = Audience()
    assert not audience.update(presence("a", 0), 0)
    assert audience.rooms() == []
    audience.update(presence("a", 1), 0)
    assert audience.rooms() == ["r"]
    audience.update(presence("a", 0), 0)
    assert audience.rooms() == []


def test_a_restarted_gateway_begins_with_no_viewers_and_needs_its_cards_again() -> None:
    audience = Audience()
    audience.update(presence("a", 5), 0)
    audience.update(presence("a", 5, room="other"), 0)
    audience.update(presence("b", 1), 0)
    assert audience.update(presence("a", 5, generation=2), 1)
    assert audience.of("r") == Viewers(6, 6)
    assert audience.of("other") == NOBODY


def test_the_load_report_of_a_restarted_gateway_voids_its_old_counts() -> None:
    audience = Audience()
    audience.update(presence("a", 5), 0)
    assert told(audience, 0) == {"r": Viewers(5, 5)}
    audience.gateway_reported("a", 2, 2000, 2)
    assert told(audience, 2) == {"r": NOBODY}


def test_an_earlier_start_of_a_gateway_counts_for_nothing_while_the_later_one_reports() -> None:
    audience = Audience()
    audience.update(presence("a", 1, generation=2), 0)
    assert not audience.update(presence("a", 9, room="other", generation=1), 5)
    for second in range(30):
        for generation in (1, 2):
            audience.gateway_reported("a", generation, 1000 * second, second)
        audience.expire(second)
        assert audience.rooms() == ["r"]
        assert audience.of("other") == NOBODY


def test_a_late_report_of_an_earlier_start_is_forgotten() -> None:
    audience = Audience()
    for second in range(20):
        audience.gateway_reported("a", 2, 1000 * second, second)
        if second == 3:
            audience.update(presence("a", 1, generation=2), second)
            audience.update(presence("a", 9, room="other", generation=1), second)
        audience.expire(second)
    assert audience.rooms() == ["r"]
    assert len(audience) == 1


def test_a_lower_generation_counts_once_the_higher_one_is_silent_and_lost_no_report_until_then() -> None:
    audience = Audience()
    audience.update(presence("a", 5, generation=2), 0)
    audience.update(presence("b", 1), 0)
    for name, generation in (("a", 2), ("b", 1)):
        audience.gateway_reported(name, generation, 0, 0)
    audience.update(presence("a", 3, generation=1), 0.5)
    assert audience.update(msgspec.structs.replace(presence("a", 3, generation=1), card=True), 0.5), "it gets its card"
    shown = list[int]()
    for second in range(1, 5):
        audience.gateway_reported("b", 1, 1000 * second, second)
        audience.gateway_reported("a", 1, 1000 * second, second)
        audience.expire(second)
        shown.append(audience.of("r").users)
    assert shown == [6, 6, 4, 4], "the viewers of both starts are never added"


def test_nobody_falls_silent_where_kafka_takes_all_reports_slowly_or_gateways_report_seldom() -> None:
    for gateways, period_s, taken_s in ((10, 2.1, 1.1), (10, 2.5, 1.5), (2, 2.5, 0.0), (3, 3.0, 0.0), (5, 4.5, 0.0)):
        audience, names = Audience(), [f"g{number}" for number in range(gateways)]
        due = {name: period_s * number / gateways for number, name in enumerate(names)}
        for name in names:
            audience.gateway_reported(name, 1, 0, 0)
            audience.update(presence(name, 1), 0)
        for step in range(600):
            now_s = step / 20
            for name in names:
                if now_s >= due[name]:
                    audience.gateway_reported(name, 1, int(1000 * now_s), now_s + taken_s)
                    due[name] += period_s
            audience.expire(now_s + taken_s)
            assert audience.of("r") == Viewers(gateways, gateways), (gateways, period_s, now_s)


@pytest.mark.parametrize("gateways", [2, 3, 10])
def test_nobody_falls_silent_where_kafka_takes_reports_slowly_and_unevenly(gateways: int) -> None:
    chance, audience, names = Random(gateways), Audience(), [f"g{number}" for number in range(gateways)]
    due = {name: chance.random() for name in names}
    for name in names:
        audience.update(presence(name, 1), 0)
    for step in range(2000):
        now_s = step / 20
        for name in names:
            if now_s >= due[name]:
                audience.gateway_reported(name, 1, int(1000 * now_s), now_s)
                due[name] = now_s + max(1.0, chance.uniform(0.8, 1.3))
        audience.expire(now_s)
        assert audience.of("r") == Viewers(gateways, gateways), now_s


@pytest.mark.parametrize("off_s", [0.1, 0.3, 1.5, 90.0])
@pytest.mark.parametrize("gateways", [2, 3, 50])
def test_clocks_of_gateways_that_differ_make_nobody_silent_and_hide_no_silence(gateways: int, off_s: float) -> None:
    chance, audience, names = Random(gateways), Audience(), [f"g{number}" for number in range(gateways)]
    due = {name: chance.random() for name in names}
    off = {name: chance.uniform(-off_s, off_s) for name in names}
    for name in names:
        audience.update(presence(name, 1), 0)
    died = max(names, key=off.__getitem__)
    for step in range(1000):
        now_s = step / 50
        for name in names:
            if now_s >= due[name] and (name != died or now_s < 15):
                audience.gateway_reported(name, 1, int(1000 * (1000 + now_s + off[name])), now_s)
                due[name] += 1
        audience.expire(now_s)
        if now_s <= 15 or now_s > 18:
            assert audience.of("r").users == gateways - (now_s > 18)


def test_a_silent_gateway_counts_for_nothing_and_the_others_stay() -> None:
    audience = Audience()
    audience.update(presence("a", 5), 0)
    audience.update(presence("b", 1), 0)
    audience.gateway_reported("a", 1, 0, 0)
    audience.gateway_reported("b", 1, 0, 0)
    assert told(audience, 0) == {"r": Viewers(6, 6)}
    for second in (1, 2):
        audience.gateway_reported("b", 1, 1000 * second, second)
        audience.expire(second)
    assert audience.of("r") == Viewers(6, 6)
    audience.expire(2.1)
    assert audience.of("r") == Viewers(1, 1)
    assert audience.rooms() == ["r"], "it may come back"
    assert told(audience, 2.1) == {"r": Viewers(1, 1)}
    audience.gateway_reported("a", 1, 2500, 2.5)
    assert audience.of("r") == Viewers(6, 6), "it was late"
    for second in range(3, 14):
        audience.gateway_reported("b", 1, 1000 * second, second)
        audience.expire(second)
    assert audience.update(presence("a", 5), 14), "it needs its card when it is back after long"


def listed(gateway: str, users: set[int], serial: int, room: str = "r") -> Presence:
    record = presence(gateway, len(users), room=room)
    return msgspec.structs.replace(record, serial=serial, came=pack(sorted(users)), parts=1)


def emptied(gateway: str, users: set[int], serial: int, room: str = "r") -> Presence:
    return msgspec.structs.replace(presence(gateway, 0, room=room), serial=serial, left=pack(sorted(users)))


@pytest.mark.parametrize("late_s", [0.0, 1.0, 4.0, 9.0])
def test_a_report_that_comes_after_the_one_that_emptied_its_room_changes_nothing(late_s: float) -> None:
    audience = Audience()
    late = listed("a", {1 << 20, 2 << 20}, 4)
    for record in (late, emptied("a", {1 << 20, 2 << 20}, 5)):
        audience.update(record, 0)
    audience.expire(late_s)
    assert not audience.update(late, late_s)
    assert audience.rooms() == []
    audience.update(listed("a", {3 << 20}, 6), late_s)
    assert audience.of("r") == Viewers(1, 1), "somebody came again"


def test_a_user_who_comes_and_leaves_at_many_gateways_makes_nobody_sweep_a_big_room() -> None:
    audience, me = Audience(), 5 << 20
    audience.update(listed("big", {number << 30 for number in range(2000)}, 1), 0)
    for serial in range(1, 20, 2):
        for number in range(50):
            audience.update(listed(f"g{number}", {me}, serial), serial)
            audience.update(emptied(f"g{number}", {me}, serial + 1), serial)
    assert not audience._sweeps


def test_gateways_that_end_at_once_are_swept_from_a_room_together() -> None:
    audience = Audience()
    audience.update(listed("big", {number << 30 for number in range(5000)}, 1), 0)
    for number in range(50):
        audience.update(listed(f"g{number}", {number << 20}, 1), 0)
    for number in range(50):
        audience.gateway_reported(f"g{number}", 2, 0, 0)
    while audience._sweeps:
        assert len(audience._sweeps) <= 101, "what each drops, one sweep, and their numbers"
        audience.expire(0)
    assert audience.of("r") == Viewers(5000, 5000)
    assert len(audience._lists["r"]) == 5000


def test_a_gateway_of_20_000_rooms_is_dropped_in_pieces() -> None:
    audience, rooms = Audience(), [f"r{number}" for number in range(20_000)]
    for room in rooms:
        audience.update(presence("a", 1, room=room), 0)
        audience.update(presence("b", 1, room=room), 0)
    steps, shown = 0, set[str]()
    audience.gateway_reported("a", 2, 0, 0)
    while len(shown) < len(rooms):
        found = told(audience, 10)
        assert len(found) <= AT_ONCE / ROOM_COST
        assert set(found.values()) <= {Viewers(1, 1)}, "what is not dropped yet does not count"
        shown |= set(found)
    while audience._sweeps:
        before = sum(map(len, audience._rooms.values()))
        audience.expire(10)
        steps += 1
        assert before - sum(map(len, audience._rooms.values())) <= AT_ONCE / ROOM_COST
    assert steps >= len(rooms) * ROOM_COST / AT_ONCE
    assert sum(map(len, audience._rooms.values())) == len(rooms)


def test_a_sum_is_told_once_and_the_next_one_not_within_the_second() -> None:
    audience = Audience()
    audience.update(presence("a", 1), 0)
    assert told(audience, 0) == {"r": Viewers(1, 1)}
    audience.update(presence("a", 1), 0.1)
    assert not audience.has_unpublished
    audience.update(presence("a", 2), 0.2)
    assert told(audience, 0.9) == {}, "it waits"
    audience.update(presence("a", 3), 0.95)
    assert told(audience, 1.0) == {"r": Viewers(3, 3)}
    assert told(audience, 9.0) == {}


def test_a_sum_that_went_and_came_back_is_not_told() -> None:
    audience = Audience()
    audience.update(presence("a", 1), 0)
    told(audience, 0)
    audience.update(presence("a", 2), 0.2)
    audience.update(presence("a", 1), 0.4)
    assert told(audience, 5) == {}
    assert not audience.has_unpublished


def test_that_nobody_is_left_is_told_once() -> None:
    audience = Audience()
    audience.update(presence("a", 1), 0)
    told(audience, 0)
    audience.update(presence("a", 0), 2)
    assert told(audience, 2) == {"r": NOBODY}
    audience.update(presence("a", 0), 4)
    assert told(audience, 4) == {}
    audience.expire(60)
    assert told(audience, 60) == {}


def test_a_room_that_was_never_told_is_not_told_to_be_empty() -> None:
    audience = Audience()
    audience.update(presence("a", 1), 0)
    audience.update(presence("a", 0), 0)
    assert told(audience, 5) == {}


def test_a_room_that_empties_and_fills_within_a_second_is_told_once_in_it() -> None:
    audience = Audience()
    audience.update(presence("a", 1), 0)
    told(audience, 0)
    audience.update(presence("a", 0), 2)
    assert told(audience, 2) == {"r": NOBODY}
    audience.update(presence("a", 1), 2.1)
    assert told(audience, 2.2) == {}
    assert told(audience, 3) == {"r": Viewers(1, 1)}


def test_a_room_that_filled_again_keeps_its_second_after_its_empty_one_is_over() -> None:
    audience = Audience()
    audience.update(presence("a", 1), 0)
    told(audience, 0)
    audience.update(presence("a", 0), 2)
    told(audience, 2)
    audience.update(presence("a", 1), 2.5)
    assert told(audience, 3) == {"r": Viewers(1, 1)}
    audience.expire(3.1)
    audience.update(presence("a", 2), 3.2)
    assert told(audience, 3.3) == {}
    assert told(audience, 4) == {"r": Viewers(2, 2)}


def test_nothing_is_kept_of_rooms_that_were_left_long_ago() -> None:
    audience = Audience()
    for number in range(50):
        audience.update(presence("a", 1, room=f"r{number}"), number)
        told(audience, number)
        audience.update(presence("a", 0, room=f"r{number}"), number + 1)
        told(audience, number + 1)
    audience.expire(100)
    told(audience, 100)
    kept = {name: value for name, value in vars(audience).items() if isinstance(value, dict) and name != "_gateways"}
    assert kept
    assert not any(kept.values())


class Heard(NamedTuple):
    passed_s: float
    gateway: str
    room: str
    generation: int
    connections: int
    only_lives: bool


HEARD = st.lists(
    st.builds(
        Heard,
        st.sampled_from([0.0, 0.1, 0.4, 0.5, 1.0, 4.0, 11.0]),
        st.sampled_from("ab"),
        st.sampled_from(["r", "s"]),
        st.integers(1, 3),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=40,
)


class Told:
    """What was told of each room, held against the rules of telling."""

    def __init__(self) -> None:
        self.last: dict[str, tuple[float, Viewers]] = {}

    def hold(self, now_s: float, said: Iterable[tuple[str, Viewers]]) -> None:
        for room, viewers in said:
            at_s, before = self.last.get(room, (float("-inf"), NOBODY))
            assert viewers != before, "told again without a change"
            assert now_s - at_s >= PUBLISH_INTERVAL_S - 1e-6, "told twice in a second"
            self.last[room] = now_s, viewers


@given(HEARD)
def test_sums_are_those_of_the_newest_starts_of_gateways_and_are_told_in_the_end(steps: list[Heard]) -> None:
    audience, saying, now = Audience(), Told(), 0.0
    generations: dict[str, int] = {}
    counts: dict[tuple[str, str], int] = {}
    for step in steps:
        now += step.passed_s
        audience.expire(now)
        if step.only_lives:
            audience.gateway_reported(step.gateway, step.generation, 0, now)  # Kafka's time stands still: nobody is silent
        else:
            users = min(step.connections, 2)
            audience.update(presence(step.gateway, users, step.connections, step.room, step.generation), now)
        known = generations.get(step.gateway, 0)
        if step.generation > known and (step.only_lives or step.connections or known):
            counts = {key: count for key, count in counts.items() if key[0] != step.gateway}
            generations[step.gateway] = step.generation
        if step.generation >= known and not step.only_lives:
            counts[step.gateway, step.room] = step.connections
        for room in ("r", "s"):
            here = [count for (_, where), count in counts.items() if where == room]
            assert audience.of(room) == Viewers(sum(min(count, 2) for count in here), sum(here))
            assert (room in audience.rooms()) == any(here)
        saying.hold(now, audience.due(now))
    saying.hold(now + 1.5, audience.due(now + 1.5))
    assert not audience.has_unpublished
    for room in ("r", "s"):
        assert saying.last.get(room, (0, NOBODY))[1] == audience.of(room)


def test_after_a_take_over_all_sums_are_told_again_at_once() -> None:
    audience = Audience()
    audience.update(presence("a", 3), 0)
    audience.update(presence("a", 1, room="other"), 0)
    assert set(told(audience, 0)) == {"r", "other"}
    audience.publish_all_again()
    assert told(audience, 0.1) == {"r": Viewers(3, 3), "other": Viewers(1, 1)}
    assert not audience.has_unpublished
