"""The gate, cell by cell: every kind, role and state; rates; slow mode. On the real system it is in tests/e2e."""

from typing import Any

import pytest

from ingress.actions import FREE, INTERACTIONS, Interaction, State
from ingress.entrance import rates_of
from ingress.gate import Gate, Rate
from liveroom.errors import Code, ProblemError
from liveroom.kinds import UNTOUCHABLE, Kind, Role
from liveroom.moderation import FOR_GOOD, Rules
from liveroom.records import Moderation, RuleKind
from liveroom.tickets import User
from tests.ingress.harness import settings_of

NOW_MS = 1_700_000_000_000
CODES = {
    State.DISSOLVED: Code.ROOM_DISSOLVED,
    State.BANNED: Code.BANNED,
    State.MUTED: Code.MUTED,
    State.ROOM_MUTED: Code.ROOM_MUTED,
    State.FOLLOWERS: Code.FOLLOWERS_ONLY,
    State.SUBSCRIBERS: Code.SUBSCRIBERS_ONLY,
    State.SLOW: Code.SLOW_MODE,
    State.NO_MEDIA: Code.NO_MEDIA,
}
SPEECH = {Kind.DANMAKU, Kind.CUSTOM}
STOPS: dict[State, set[Kind]] = {  # written out, not taken from the table
    State.DISSOLVED: set(Kind),
    State.BANNED: set(Kind),
    State.MUTED: SPEECH,
    State.ROOM_MUTED: SPEECH,
    State.FOLLOWERS: SPEECH,
    State.SUBSCRIBERS: SPEECH,
    State.SLOW: SPEECH,
    State.NO_MEDIA: {Kind.CUSTOM},
}
SPARED: dict[State, set[Role]] = {
    State.DISSOLVED: set(),
    State.BANNED: {Role.STREAMER, Role.OPERATOR, Role.SERVICE},
    State.MUTED: {Role.STREAMER, Role.OPERATOR, Role.SERVICE},
} | {
    state: {Role.STREAMER, Role.MODERATOR, Role.OPERATOR, Role.SERVICE}
    for state in (State.ROOM_MUTED, State.FOLLOWERS, State.SUBSCRIBERS, State.SLOW, State.NO_MEDIA)
}


def gate(state: State | None = None, rates: dict[str, Rate] | None = None) -> Gate:
    rules = Rules()
    rules.are_read = True
    if state in {State.BANNED, State.MUTED}:
        kind = RuleKind.BAN if state is State.BANNED else RuleKind.MUTE
        rules.apply(Moderation(1, "r", NOW_MS, kind, "u", until_ms=FOR_GOOD))
    elif state is not None:
        value: Any = 30 if state is State.SLOW else True
        rules.apply(Moderation(1, "r", NOW_MS, RuleKind.MODE, state.value, value=value))
    return Gate(rules, rates or {})


def refusal(gate_: Gate, interaction: Interaction, user: User, room: str = "r", now_s: float = 0) -> Code | None:
    try:
        gate_.check_states(interaction, room, user, NOW_MS)
        gate_.check_rates(interaction.kind.value, room, user, now_s)
        gate_.take_turn([interaction], room, user, now_s)
    except ProblemError as problem:
        return problem.code
    return None


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
@pytest.mark.parametrize("state", list(State), ids=lambda state: state.value)
@pytest.mark.parametrize("interaction", INTERACTIONS, ids=lambda interaction: interaction.kind.value)
def test_a_state_forbids_what_is_written_here(interaction: Interaction, state: State, role: Role) -> None:
    gate_, user = gate(state), User("u", role)
    if state is State.SLOW:
        assert refusal(gate_, interaction, user) is None, "the first one"
    wanted = CODES[state] if interaction.kind in STOPS[state] and role not in SPARED[state] else None
    assert refusal(gate_, interaction, user) is wanted
    assert refusal(gate_, interaction, user, room="other") is None


def test_who_is_spared_is_one_table() -> None:
    assert set(UNTOUCHABLE) == SPARED[State.MUTED]
    assert set(FREE) == SPARED[State.SLOW]


DANMAKU = next(interaction for interaction in INTERACTIONS if interaction.kind is Kind.DANMAKU)


@pytest.mark.parametrize(
    ("state", "user", "code"),
    [
        pytest.param(State.FOLLOWERS, User("u", follower=True), None, id="a follower"),
        pytest.param(State.FOLLOWERS, User("u", subscriber=True), None, id="a subscriber is more than a follower"),
        pytest.param(State.SUBSCRIBERS, User("u", follower=True), Code.SUBSCRIBERS_ONLY, id="a follower is no subscriber"),
        pytest.param(State.SUBSCRIBERS, User("u", subscriber=True), None, id="a subscriber"),
    ],
)
def test_followers_and_subscribers(state: State, user: User, code: Code | None) -> None:
    assert refusal(gate(state), DANMAKU, user) is code


def test_those_on_the_list_speak_in_a_muted_room() -> None:
    gate_ = gate(State.ROOM_MUTED)
    gate_.rules.apply(Moderation(1, "r", NOW_MS, RuleKind.MODE, "allow", value=["u"]))
    assert refusal(gate_, DANMAKU, User("u")) is None
    assert refusal(gate_, DANMAKU, User("v")) is Code.ROOM_MUTED


def test_slow_mode_is_a_users_own_and_ends() -> None:
    gate_ = gate(State.SLOW)
    assert [refusal(gate_, DANMAKU, User("u"), now_s=now_s) for now_s in (0, 29.9, 30)] == [None, Code.SLOW_MODE, None]
    assert refusal(gate_, DANMAKU, User("v"), now_s=30) is None
    gate_.give_back_turn("r", User("v"))
    assert refusal(gate_, DANMAKU, User("v"), now_s=31) is None, "what was not written does not count"
    with pytest.raises(ProblemError):
        gate_.take_turn([DANMAKU, DANMAKU], "r", User("x"), 31)
    for number in range(5000):
        refusal(gate_, DANMAKU, User(f"w{number}"), now_s=100 + number)
    assert len(gate_._slow._again_s) < 3000


def test_rates_are_by_kind_user_and_room() -> None:
    gate_ = gate(rates={"danmaku": Rate(1, 2, 2), "gift": Rate(1, 1)})
    assert [refusal(gate_, DANMAKU, User("u")) for _ in range(3)] == [None, None, Code.RATE_USER]
    assert [refusal(gate_, DANMAKU, User(f"v{number}")) for number in range(3)] == [None, None, Code.RATE_ROOM]
    assert refusal(gate_, DANMAKU, User("v9"), room="other") is None
    assert refusal(gate_, DANMAKU, User("s", Role.SERVICE), room="other") is None
    gift = next(interaction for interaction in INTERACTIONS if interaction.kind is Kind.GIFT)
    assert [refusal(gate_, gift, User("u")) for _ in range(2)] == [None, Code.RATE_USER]


def test_nobody_is_let_in_before_the_rules_are_read() -> None:
    with pytest.raises(ProblemError) as caught:
        Gate(Rules(), {}).check_states(DANMAKU, "r", User("u", Role.OPERATOR), NOW_MS)
    assert caught.value.code is Code.NOT_READY


def test_every_kind_has_a_rate_unless_it_is_set_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIVEROOM_RATES")
    rates = rates_of(settings_of(rates={"gift": {"user_per_s": 7}}))
    assert set(rates) == {interaction.kind.value for interaction in INTERACTIONS} | {"package", "act"}
    assert rates["gift"].user_per_s == 7
    assert all(rate.user_per_s > 0 for rate in rates.values())
