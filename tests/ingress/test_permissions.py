"""Who may send what, and who may give which command in which room."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext

import pytest

from ingress.permissions import INTERACTIONS, ON_USERS, Command, Interaction, check_host, check_room, check_sender, check_target
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.tickets import User

LIKE = next(interaction for interaction in INTERACTIONS if interaction.path == "likes")
MAY_SEND = {
    "danmaku": {Role.VIEWER, Role.STREAMER, Role.MODERATOR, Role.OPERATOR, Role.SERVICE},
    "gifts": {Role.OPERATOR, Role.SERVICE},
    "likes": {Role.VIEWER, Role.STREAMER, Role.MODERATOR, Role.OPERATOR, Role.SERVICE},
    "custom": {Role.VIEWER, Role.STREAMER, Role.MODERATOR, Role.OPERATOR, Role.SERVICE},
    "announcements": {Role.STREAMER, Role.MODERATOR, Role.OPERATOR},
    "red-packets": {Role.OPERATOR, Role.SERVICE},
    "coupons": {Role.OPERATOR, Role.SERVICE},
    "goods": {Role.STREAMER, Role.OPERATOR, Role.SERVICE},
    "enters": {Role.OPERATOR, Role.SERVICE},
    "leaves": {Role.OPERATOR, Role.SERVICE},
}


MAY_CLAIM = {  # and these where viewers may claim that they have paid
    "gifts": {Role.VIEWER, Role.STREAMER, Role.MODERATOR},
    "red-packets": {Role.STREAMER},
    "coupons": {Role.STREAMER},
}


def code_of(check: Callable[[], None]) -> Code | None:
    try:
        check()
    except ProblemError as problem:
        return problem.code
    return None


def refusal(
    user: User, room: str = "r1", interactions: Iterable[Interaction] = (LIKE,), *, may_claim: bool = False
) -> Code | None:
    return code_of(lambda: check_sender(user, room, interactions, may_claim=may_claim))


@pytest.mark.parametrize("may_claim", [False, True], ids=["", "claiming payment"])
@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
@pytest.mark.parametrize("interaction", INTERACTIONS, ids=lambda interaction: interaction.path)
def test_each_role_may_send_only_its_kinds(interaction: Interaction, role: Role, may_claim: bool) -> None:
    allowed = MAY_SEND[interaction.path] | (MAY_CLAIM.get(interaction.path, set()) if may_claim else set())
    refused = refusal(User("u", role, rooms=("r1",)), interactions=[interaction], may_claim=may_claim)
    assert refused is (None if role in allowed else Code.FORBIDDEN)


def test_of_many_interactions_each_must_be_allowed() -> None:
    assert refusal(User("u", Role.STREAMER, rooms=("r1",)), interactions=INTERACTIONS) is Code.FORBIDDEN
    assert refusal(User("u", Role.OPERATOR), interactions=INTERACTIONS) is None


@pytest.mark.parametrize("room", ["", "a b", "a" * 65, "ä", "a/b", "a.b", "r\n", "\ud800"])
def test_a_room_that_is_no_room_is_refused(room: str) -> None:
    assert refusal(User("u"), room) is Code.ROOM_INVALID
    assert refusal(User("g", Role.GUEST), room) is Code.ROOM_INVALID, "the room is looked at before the role"


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
def test_a_token_without_rooms_is_for_every_room_unless_a_host_has_it(role: Role) -> None:
    needs_rooms = role in {Role.STREAMER, Role.MODERATOR}
    with pytest.raises(ProblemError) if needs_rooms else nullcontext() as refused:
        check_room("r1", User("u", role))
    assert refused is None or (refused.value.code is Code.FORBIDDEN and "must name its rooms" in refused.value.detail)


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
def test_a_token_with_an_empty_list_of_rooms_is_for_no_room(role: Role) -> None:
    assert code_of(lambda: check_room("r1", User("u", role, rooms=()))) is Code.FORBIDDEN


ON_A_USER = {Command.MUTE, Command.UNMUTE, Command.BAN, Command.UNBAN, Command.KICK, Command.CLEAR}
MAY_ACT_ON: dict[Role, set[Role | None]] = {  # the role on record of the target; None: no host
    Role.MODERATOR: {None},
    Role.STREAMER: {None, Role.MODERATOR},
    Role.OPERATOR: {None, Role.MODERATOR, Role.STREAMER},
}


def test_the_commands_on_a_user_are_written_here() -> None:
    assert ON_USERS == ON_A_USER


@pytest.mark.parametrize("target", [None, *MAY_ACT_ON], ids=lambda role: role.value if role else "no host")
@pytest.mark.parametrize("role", MAY_ACT_ON, ids=lambda role: role.value)
@pytest.mark.parametrize("command", ON_A_USER, ids=lambda command: command.value)
def test_nobody_acts_on_an_equal_or_a_better(command: Command, role: Role, target: Role | None) -> None:
    user = User("u", role)
    allowed = None if target in MAY_ACT_ON[role] else Code.FORBIDDEN
    assert code_of(lambda: check_target(user, command, "other", target)) is allowed
    own = None if command is Command.CLEAR else Code.FORBIDDEN
    assert code_of(lambda: check_target(user, command, "u", role)) is own, "hosts clear their own messages"


def test_a_token_for_rooms_is_good_for_these_alone() -> None:
    user = User("u", Role.OPERATOR, rooms=("r1", "r2"))
    assert refusal(user, "r2") is None
    assert refusal(user, "r3") is Code.FORBIDDEN


@pytest.mark.parametrize(
    ("user", "room", "command", "code"),
    [
        pytest.param(User("m", Role.MODERATOR, rooms=("r1",)), "r1", Command.BAN, None, id="a moderator"),
        pytest.param(User("m", Role.MODERATOR), "r1", Command.BAN, Code.FORBIDDEN, id="a moderator of no named room"),
        pytest.param(User("o", Role.OPERATOR, rooms=()), "r1", Command.BAN, Code.FORBIDDEN, id="an operator of no room"),
        pytest.param(User("m", Role.MODERATOR, rooms=("r1",)), "r2", Command.BAN, Code.FORBIDDEN, id="of another room"),
        pytest.param(User("v"), "r1", Command.BAN, Code.FORBIDDEN, id="a viewer"),
        pytest.param(
            User("m", Role.MODERATOR, rooms=("r1",)), "r1", Command.DISSOLVE, Code.FORBIDDEN, id="what only owners may"
        ),
        pytest.param(User("m", Role.MODERATOR), "a b", Command.BAN, Code.ROOM_INVALID, id="no room"),
        pytest.param(User("o", Role.OPERATOR), None, Command.ANNOUNCE, None, id="an operator, in no room"),
        pytest.param(User("s", Role.STREAMER), None, Command.ANNOUNCE, Code.FORBIDDEN, id="a streamer, in no room"),
    ],
)
def test_a_command_is_for_its_roles_and_the_rooms_of_the_token(
    user: User, room: str | None, command: Command, code: Code | None
) -> None:
    assert code_of(lambda: check_host(user, room, command)) is code
