"""A room's policy, cell by cell: every kind, role and state.

On the real system it is in tests/e2e.
"""

from contextlib import nullcontext
from typing import Any

import pytest

from ingress.permissions import FREE, INTERACTIONS, Interaction, Restriction
from ingress.room_policy import RoomPolicy
from ingress.slow_mode import SlowMode
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Kind, Role
from liveroom.moderation import FOR_GOOD, Rules
from liveroom.records.control import Moderation, RuleKind
from liveroom.tickets import User

NOW_MS = 1_700_000_000_000
CODES = {
    Restriction.DISSOLVED: Code.ROOM_DISSOLVED,
    Restriction.BANNED: Code.BANNED,
    Restriction.MUTED: Code.MUTED,
    Restriction.ROOM_MUTED: Code.ROOM_MUTED,
    Restriction.FOLLOWERS: Code.FOLLOWERS_ONLY,
    Restriction.SUBSCRIBERS: Code.SUBSCRIBERS_ONLY,
    Restriction.SLOW: Code.SLOW_MODE,
    Restriction.NO_MEDIA: Code.NO_MEDIA,
}
SPEECH = {Kind.DANMAKU, Kind.CUSTOM}
STOPS: dict[Restriction, set[Kind]] = {  # written out, not taken from the table
    Restriction.DISSOLVED: set(Kind),
    Restriction.BANNED: set(Kind),
    Restriction.MUTED: SPEECH | {Kind.ANNOUNCEMENT},
    Restriction.ROOM_MUTED: SPEECH,
    Restriction.FOLLOWERS: SPEECH,
    Restriction.SUBSCRIBERS: SPEECH,
    Restriction.SLOW: SPEECH,
    Restriction.NO_MEDIA: {Kind.CUSTOM},
}
SPARED: dict[Restriction, set[Role]] = {
    Restriction.DISSOLVED: set(),
    Restriction.BANNED: {Role.STREAMER, Role.OPERATOR, Role.SERVICE},
    Restriction.MUTED: {Role.STREAMER, Role.OPERATOR, Role.SERVICE},
} | {
    state: {Role.STREAMER, Role.MODERATOR, Role.OPERATOR, Role.SERVICE}
    for state in (
        Restriction.ROOM_MUTED,
        Restriction.FOLLOWERS,
        Restriction.SUBSCRIBERS,
        Restriction.SLOW,
        Restriction.NO_MEDIA,
    )
}


class Room:
    """A room with one rule, and the slow mode of those who speak in it."""

    def __init__(self, state: Restriction | None = None) -> None:
        self.rules = Rules()
        self.rules.are_read = True
        self.policy = RoomPolicy(self.rules)
        self.slow_mode = SlowMode(self.rules)
        if state in {Restriction.BANNED, Restriction.MUTED}:
            kind = RuleKind.BAN if state is Restriction.BANNED else RuleKind.MUTE
            self.rules.apply(Moderation(1, "r", NOW_MS, kind, "u", until_ms=FOR_GOOD))
        elif state is not None:
            value: Any = 30 if state is Restriction.SLOW else True
            self.rules.apply(Moderation(1, "r", NOW_MS, RuleKind.MODE, state.value, value=value))

    def refusal(self, interaction: Interaction, user: User, room: str = "r") -> Code | None:
        try:
            self.policy.check(interaction, room, user, NOW_MS)
            self.slow_mode.take_turn([interaction], room, user, 0)
        except ProblemError as problem:
            return problem.code
        return None


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
@pytest.mark.parametrize("state", list(Restriction), ids=lambda state: state.value)
@pytest.mark.parametrize("interaction", INTERACTIONS, ids=lambda interaction: interaction.kind.value)
def test_a_state_forbids_what_is_written_here(interaction: Interaction, state: Restriction, role: Role) -> None:
    room, user = Room(state), User("u", role)
    if state is Restriction.SLOW:
        assert room.refusal(interaction, user) is None, "the first one"
    wanted = CODES[state] if interaction.kind in STOPS[state] and role not in SPARED[state] else None
    assert room.refusal(interaction, user) is wanted
    assert room.refusal(interaction, user, room="other") is None


def test_who_is_spared_is_one_table() -> None:
    assert set(FREE) == SPARED[Restriction.SLOW]


BOUND_BY: dict[Role | None, set[Role]] = {  # by the role of who set the mute or ban: whom it holds for
    None: {Role.GUEST, Role.VIEWER, Role.MODERATOR},  # of an earlier version, which did not write the role
    Role.MODERATOR: {Role.GUEST, Role.VIEWER},
    Role.STREAMER: {Role.GUEST, Role.VIEWER, Role.MODERATOR},
    Role.OPERATOR: {Role.GUEST, Role.VIEWER, Role.MODERATOR, Role.STREAMER},
}


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
@pytest.mark.parametrize("by", BOUND_BY, ids=lambda by: by.value if by else "unknown")
@pytest.mark.parametrize(("kind", "code"), [(RuleKind.BAN, Code.BANNED), (RuleKind.MUTE, Code.MUTED)])
def test_a_mute_or_ban_holds_for_those_below_the_host_who_set_it(
    kind: RuleKind, code: Code, by: Role | None, role: Role
) -> None:
    room, user = Room(), User("u", role)
    room.rules.apply(Moderation(1, "r", NOW_MS, kind, "u", "host", until_ms=FOR_GOOD, by_role=by))
    assert room.refusal(DANMAKU, user) is (code if role in BOUND_BY[by] else None)
    if role in {Role.MODERATOR, Role.STREAMER, Role.OPERATOR}:
        with pytest.raises(ProblemError) if role in BOUND_BY[by] else nullcontext() as caught:
            room.policy.check_host("r", user, NOW_MS)
        assert caught is None or caught.value.code is code


DANMAKU = next(interaction for interaction in INTERACTIONS if interaction.kind is Kind.DANMAKU)


@pytest.mark.parametrize(
    ("state", "user", "code"),
    [
        pytest.param(Restriction.FOLLOWERS, User("u", follower=True), None, id="a follower"),
        pytest.param(Restriction.FOLLOWERS, User("u", subscriber=True), None, id="a subscriber is more than a follower"),
        pytest.param(
            Restriction.SUBSCRIBERS, User("u", follower=True), Code.SUBSCRIBERS_ONLY, id="a follower is no subscriber"
        ),
        pytest.param(Restriction.SUBSCRIBERS, User("u", subscriber=True), None, id="a subscriber"),
    ],
)
def test_followers_and_subscribers(state: Restriction, user: User, code: Code | None) -> None:
    assert Room(state).refusal(DANMAKU, user) is code


def test_those_on_the_list_speak_in_a_muted_room() -> None:
    room = Room(Restriction.ROOM_MUTED)
    room.rules.apply(Moderation(1, "r", NOW_MS, RuleKind.MODE, "allow", value=["u"]))
    assert room.refusal(DANMAKU, User("u")) is None
    assert room.refusal(DANMAKU, User("v")) is Code.ROOM_MUTED


def test_nobody_is_let_in_before_the_rules_are_read() -> None:
    with pytest.raises(ProblemError) as caught:
        RoomPolicy(Rules()).check(DANMAKU, "r", User("u", Role.OPERATOR), NOW_MS)
    assert caught.value.code is Code.NOT_READY
