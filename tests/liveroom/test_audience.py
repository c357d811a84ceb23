"""The audience: who watches which room, by the gateways' word, and how often its owner tells it."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from liveroom.audience import NOBODY, PUBLISH_INTERVAL_S, Audience, Viewers
from liveroom.records.control import Presence


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


def test_what_an_earlier_start_of_a_gateway_said_is_not_heard() -> None:
    audience = Audience()
    audience.update(presence("a", 1, generation=2), 0)
    assert not audience.update(presence("a", 9, room="other", generation=1), 5)
    for second in range(13):
        audience.gateway_reported("a", 1, 1000 * second, second)
        audience.gateway_reported("b", 1, 1000 * second, second)
        if second == 9:
            assert audience.rooms() == ["r"]
        audience.expire(second)
    assert audience.rooms() == [], "nor does it keep the gateway alive"


def test_a_silent_gateway_counts_for_nothing_and_the_others_stay() -> None:
    audience = Audience()
    audience.update(presence("a", 5), 0)
    audience.update(presence("b", 1), 0)
    audience.gateway_reported("a", 1, 0, 0)
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
