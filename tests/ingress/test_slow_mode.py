"""Slow mode: who waits, for how long, and that nothing is kept for ever."""

from ingress.permissions import BY_KIND
from ingress.slow_mode import SlowMode
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Kind, Role
from liveroom.moderation import Rules
from liveroom.records.control import Moderation, RuleKind
from liveroom.tickets import User

DANMAKU = BY_KIND[Kind.DANMAKU]


def mode_of(slow_s: float) -> SlowMode:
    rules = Rules()
    rules.apply(Moderation(1, "r", 1, RuleKind.MODE, "slow_s", value=slow_s))
    return SlowMode(rules)


def turn(slow_mode: SlowMode, user: str, now_s: float, count: int = 1) -> Code | None:
    """Speak in the room; return the refusal."""
    try:
        assert slow_mode.take_turn([DANMAKU] * count, "r", User(user), now_s)
    except ProblemError as problem:
        return problem.code
    return None


def test_slow_mode_is_a_users_own_and_ends() -> None:
    slow_mode = mode_of(30)
    assert [turn(slow_mode, "u", now_s) for now_s in (0, 29.9, 30)] == [None, Code.SLOW_MODE, None]
    assert turn(slow_mode, "v", 30) is None
    slow_mode.give_back_turn("r", User("v"))
    assert turn(slow_mode, "v", 31) is None, "what was not written does not count"
    assert turn(slow_mode, "x", 31, count=2) is Code.SLOW_MODE
    for number in range(5000):
        assert turn(slow_mode, f"w{number}", 100 + number) is None
    assert len(slow_mode._again_s) < 3000


def test_no_turn_is_taken_where_no_slow_mode_holds() -> None:
    assert not mode_of(0).take_turn([DANMAKU], "r", User("u"), 0)
    assert not mode_of(30).take_turn([DANMAKU], "other", User("u"), 0)
    assert not mode_of(30).take_turn([BY_KIND[Kind.GIFT]], "r", User("u"), 0)
    assert not mode_of(30).take_turn([DANMAKU], "r", User("m", Role.MODERATOR), 0)
