"""The table of rules: what holds after any records, in any order of different rules."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveroom.moderation import EVERYWHERE, FOR_GOOD, NO_MODES, REMEMBERED_MS, Rules, key_of
from liveroom.records.codec import BadRecord, BadRecordError, JsonReader, encode_json
from liveroom.records.control import Moderation, RuleKind, WordAction
from liveroom.records.snapshot import RoomSettings

NOW_MS = 1_700_000_000_000


def rule(kind: RuleKind, name: str, room: str = "r", **more: Any) -> Moderation:
    made = Moderation(1, room, more.pop("at_ms", NOW_MS), kind, name, **{"by": "mod"} | more)
    return JsonReader(Moderation).read(encode_json(made))


def after(*told: Moderation) -> Rules:
    rules = Rules()
    for each in told:
        rules.apply(each)
    return rules


def test_modes_are_put_together_and_taken_back() -> None:
    slow, muted = rule(RuleKind.MODE, "slow_s", value=5), rule(RuleKind.MODE, "muted_all", value=True)
    assert after(slow, muted).settings("r") == RoomSettings(slow_s=5.0, muted_all=True)
    rules = after(slow, muted, rule(RuleKind.MODE, "slow_s", value=0), rule(RuleKind.MODE, "muted_all", value=False))
    assert rules.settings("r") is NO_MODES
    assert rules.modes == {}, "a room as usual takes no memory"


@pytest.mark.parametrize(
    ("name", "value"),
    [("slow_s", "x"), ("slow_s", -1), ("nonsense", 1), ("dissolved", 1), ("dissolved", None), ("allow", ["a b"])],
)
def test_a_mode_that_cannot_be_is_refused_and_changes_nothing(name: str, value: Any) -> None:
    rules = Rules()
    with pytest.raises(BadRecordError):
        rules.apply(rule(RuleKind.MODE, name, value=value))
    assert rules.modes == {}


@pytest.mark.parametrize("kind", [RuleKind.MUTE, RuleKind.BAN])
def test_a_mute_or_ban_holds_until_its_time_or_until_it_is_lifted(kind: RuleKind) -> None:
    def found(rules: Rules, user: str, now_ms: int) -> Moderation | None:
        return (rules.muted if kind is RuleKind.MUTE else rules.banned)("r", user, now_ms)

    told = [rule(kind, "a", until_ms=NOW_MS + 1000), rule(kind, "b", until_ms=FOR_GOOD), rule(kind, "c", until_ms=FOR_GOOD)]
    rules = after(*told, rule(kind, "c", until_ms=0))
    assert [each.name for each in rules.all_of(kind, "r", NOW_MS)] == ["a", "b"]
    assert found(rules, "a", NOW_MS + 999) == told[0]
    assert found(rules, "a", NOW_MS + 1000) is None
    assert found(rules, "b", NOW_MS + 10**12) == told[1]
    assert found(rules, "c", NOW_MS) is None
    assert rules.banned("other", "b", NOW_MS) is None
    rules.apply(rule(kind, "b", until_ms=0))
    assert rules._held[kind] == {}, "what is over takes no memory"


def test_rules_of_all_kinds_that_end_at_the_same_moment_leave_memory_then() -> None:
    kinds = (RuleKind.MUTE, RuleKind.BAN, RuleKind.HOST)
    rules = after(
        *(rule(kind, name, room, until_ms=NOW_MS + 5, value="moderator") for kind in kinds for room in "rs" for name in "ab"),
        rule(RuleKind.BAN, "c", until_ms=FOR_GOOD),
    )
    rules.expire(NOW_MS + 4)
    assert sum(rules.numbers.values()) == 13
    rules.expire(NOW_MS + 5)
    assert [name for kind in kinds for room in rules._held[kind].values() for name in room] == ["c"]
    assert rules._ends == []


def test_a_rule_that_is_set_again_and_again_leaves_no_trail_of_its_ends() -> None:
    rules = Rules()
    for number in range(10_000):
        rules.apply(rule(RuleKind.MUTE, "u", until_ms=NOW_MS + 10**9 + number))
    assert len(rules._ends) <= 1100


def test_ends_are_swept_a_few_at_a_time_and_none_of_a_rule_in_force_is_lost() -> None:
    """Each of 5,000 users is muted three times, for a shorter time, lifted, and muted again."""
    rules, most = Rules(), 0
    for until_ms in (9000, 5000, 0, 7000):
        for user in range(5000):
            before = len(rules._unswept)
            rules.apply(rule(RuleKind.MUTE, f"u{user}", until_ms=until_ms and NOW_MS + until_ms))
            assert before == 0 or len(rules._unswept) >= before - 4
            most = max(most, len(rules._ends) + len(rules._unswept))
    assert most <= 2 * 5000 + 1024
    rules.expire(NOW_MS + 6999)
    assert rules.numbers[RuleKind.MUTE] == 5000
    turns = 1
    while rules.expire(NOW_MS + 7000):
        assert 5000 - rules.numbers[RuleKind.MUTE] <= 200 * turns
        turns += 1
    assert turns >= 5000 / 200
    assert rules.numbers[RuleKind.MUTE] == 0


def test_rules_that_have_ended_leave_space_for_others_and_one_more_forgets_none_of_them() -> None:
    rules = after(*(rule(RuleKind.MUTE, f"u{number}", until_ms=NOW_MS + 5) for number in range(5000)))
    assert not rules.may_add(RuleKind.MUTE, "r", "x", 5000, NOW_MS + 4)
    assert rules.may_add(RuleKind.MUTE, "r", "u7", 5000, NOW_MS + 4)
    assert rules.may_add(RuleKind.MUTE, "r", "x", 1, NOW_MS + 5)
    assert rules.numbers[RuleKind.MUTE] == 5000, "`expire` does that, a few in each turn"


def test_words_of_a_room_and_of_all() -> None:
    rules = after(rule(RuleKind.WORD, "spam", value="mask"), rule(RuleKind.WORD, "spam", EVERYWHERE, value="refuse"))
    assert rules.words == {"r": {"spam": WordAction.MASK}, EVERYWHERE: {"spam": WordAction.REFUSE}}
    rules.apply(rule(RuleKind.WORD, "spam"))
    assert rules.words == {EVERYWHERE: {"spam": WordAction.REFUSE}}


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        pytest.param(RuleKind.MODE, "emotes_only", True, id="mode"),
        pytest.param(RuleKind.WORD, "spam", "hide", id="action"),
        pytest.param(RuleKind.WORD, "spam", ["mask"], id="action-list"),
    ],
)
def test_what_a_newer_service_set_is_unknown_and_the_rules_before_it_hold(kind: RuleKind, name: str, value: Any) -> None:
    rules = after(rule(RuleKind.WORD, "spam", value="mask"), rule(RuleKind.MODE, "slow_s", value=5))
    with pytest.raises(BadRecordError) as caught:
        rules.apply(rule(kind, name, value=value, id="i"))
    assert caught.value.reason is BadRecord.UNKNOWN
    assert rules.words == {"r": {"spam": WordAction.MASK}}
    assert rules.modes == {"r": RoomSettings(slow_s=5.0)}
    assert rules.done(rule(kind, name, value=value, id="i")) is None


def test_a_rule_with_fields_that_this_version_does_not_know_holds() -> None:
    newer = encode_json(rule(RuleKind.BAN, "u", until_ms=FOR_GOOD))[:-1] + b',"device":"d1","scope":{"cells":[1]}}'
    assert after(JsonReader(Moderation).read(newer)).banned("r", "u", NOW_MS) is not None


def test_a_request_is_done_once_for_10_minutes() -> None:
    first = rule(RuleKind.MUTE, "u", id="m1", until_ms=FOR_GOOD)
    rules = after(first)
    assert rules.done(rule(RuleKind.MUTE, "u", id="m1", until_ms=NOW_MS + 5)) == first
    for other in (
        rule(RuleKind.MUTE, "u", id="m2", until_ms=FOR_GOOD),
        rule(RuleKind.MUTE, "v", id="m1", until_ms=FOR_GOOD),
        rule(RuleKind.BAN, "u", id="m1", until_ms=FOR_GOOD),
        rule(RuleKind.MUTE, "u", id="m1", until_ms=0),
        rule(RuleKind.MUTE, "u", id="m1", until_ms=FOR_GOOD, by="another"),
        rule(RuleKind.MUTE, "u", "other", id="m1", until_ms=FOR_GOOD),
    ):
        assert rules.done(other) is None
    rules.apply(rule(RuleKind.MUTE, "u", id="m9", until_ms=0, at_ms=NOW_MS + REMEMBERED_MS + 1))
    assert rules.done(first) is None


@pytest.mark.parametrize("older", [0, 3])
def test_an_id_that_comes_again_after_10_minutes_is_a_new_request(older: int) -> None:
    """Nothing else may be remembered by then: what looks through the older ones finds an end."""
    rules = after(*(rule(RuleKind.MUTE, f"other {number}", id="m1", until_ms=FOR_GOOD) for number in range(older)))
    rules.apply(rule(RuleKind.MUTE, "u", id="m1", until_ms=FOR_GOOD))
    lifted = rule(RuleKind.MUTE, "u", id="m1", until_ms=0, at_ms=NOW_MS + REMEMBERED_MS + 1)
    assert rules.done(lifted) is None
    rules.apply(lifted)
    assert rules.muted("r", "u", NOW_MS) is None
    assert rules.done(lifted) == lifted


RULES = st.builds(
    lambda kind, name, room, on: rule(
        kind,
        "slow_s" if kind is RuleKind.MODE else name,
        room,
        until_ms=(FOR_GOOD if on else 0) if kind in {RuleKind.MUTE, RuleKind.BAN} else 0,
        value=(3 if on else 0) if kind is RuleKind.MODE else ("mask" if on else None) if kind is RuleKind.WORD else None,
    ),
    st.sampled_from(RuleKind),
    st.sampled_from("ab"),
    st.sampled_from(["r", "s"]),
    st.booleans(),
)


@given(st.lists(RULES, max_size=20), st.randoms())
def test_only_the_order_of_one_rule_matters(told: list[Moderation], rng: Any) -> None:
    """Partitions are read in any order: records of different keys must not see each other."""
    by_key: dict[bytes, list[Moderation]] = {}
    for each in told:
        by_key.setdefault(key_of(each), []).append(each)
    queues = list(by_key.values())
    shuffled = []
    while queues:
        queue = rng.choice(queues)
        shuffled.append(queue.pop(0))
        queues = [each for each in queues if each]
    one, other = after(*told), after(*shuffled)
    assert (one.modes, one.words, one._held) == (other.modes, other.words, other._held)
    compacted = after(*(rules[-1] for rules in _last(told).values()))
    assert (one.modes, one.words, one._held) == (compacted.modes, compacted.words, compacted._held)


def _last(told: list[Moderation]) -> dict[bytes, list[Moderation]]:
    return {key_of(each): [each] for each in told}
