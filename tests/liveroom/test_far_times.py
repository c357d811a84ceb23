"""Times in others' records beside Kafka's time of the record."""

from typing import Any

import msgspec
import pytest

from liveroom.far_times import is_far, near_batch, near_revocation, near_rule
from liveroom.kinds import Role
from liveroom.moderation import FOR_GOOD, Rules
from liveroom.records.broadcast import Anchor, Batch, BatchParts, decode_broadcast, encode_batch
from liveroom.records.control import Moderation, RuleKind
from liveroom.records.revocations import Revocation

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("at_ms", "far"),
    [
        pytest.param(NOW_MS, False, id="the same"),
        pytest.param(NOW_MS - 10_000, False, id="it waited 10 s for the brokers"),
        pytest.param(NOW_MS + 1900, False, id="1.9 s ahead"),
        pytest.param(NOW_MS + 2001, True, id="more than 2 s ahead"),
        pytest.param(NOW_MS - 90_000, True, id="90 s behind"),
        pytest.param(0, True, id="1970"),
        pytest.param(2**53, True, id="the far future"),
    ],
)
def test_a_time_is_near_kafkas_or_far(at_ms: int, far: bool) -> None:
    assert is_far(at_ms, NOW_MS) is far


def batch(at_ms: int, oldest_ms: int) -> Batch:
    made = decode_broadcast(encode_batch(BatchParts(1, b"a" * 16, 1, Anchor(1, 1, None), 1, at_ms, oldest_ms, [])))
    assert isinstance(made, Batch)
    return made


@pytest.mark.parametrize(
    ("at_ms", "oldest_ms", "near"),
    [
        pytest.param(NOW_MS - 5, NOW_MS - 9, (NOW_MS - 5, NOW_MS - 9), id="right"),
        pytest.param(NOW_MS + HOUR_MS, NOW_MS - 9, (NOW_MS, NOW_MS - 9), id="an owner that is ahead"),
        pytest.param(NOW_MS - HOUR_MS, NOW_MS - 9, (NOW_MS, NOW_MS - 9), id="an owner that is behind"),
        pytest.param(NOW_MS, NOW_MS + HOUR_MS, (NOW_MS, NOW_MS), id="an ingress that is ahead"),
        pytest.param(NOW_MS, 1, (NOW_MS, NOW_MS), id="an ingress of 1970"),
        pytest.param(NOW_MS, NOW_MS - HOUR_MS, (NOW_MS, NOW_MS - HOUR_MS), id="it waited an hour for a broadcaster"),
        pytest.param(NOW_MS, 0, (NOW_MS, 0), id="no interaction in it"),
    ],
)
def test_the_times_of_a_batch_make_no_delay_that_is_negative_or_of_years(
    at_ms: int, oldest_ms: int, near: tuple[int, int]
) -> None:
    made = batch(at_ms, oldest_ms)
    got = near_batch(made, NOW_MS)
    assert (got.at_ms, got.oldest_ms) == near
    assert (got is made) is (near == (at_ms, oldest_ms))


def rule(at_ms: int, until_ms: int, kind: RuleKind = RuleKind.MUTE, **more: Any) -> Moderation:
    return Moderation(1, "r", at_ms, kind, "u", until_ms=until_ms, **more)


@pytest.mark.parametrize(
    ("at_ms", "until_ms", "near"),
    [
        pytest.param(NOW_MS, NOW_MS + 600_000, (NOW_MS, NOW_MS + 600_000), id="right"),
        pytest.param(NOW_MS + HOUR_MS, NOW_MS + HOUR_MS + 600_000, (NOW_MS, NOW_MS + 600_000), id="ten minutes stay ten"),
        pytest.param(NOW_MS + HOUR_MS, FOR_GOOD, (NOW_MS, FOR_GOOD), id="for good"),
        pytest.param(NOW_MS + HOUR_MS, 0, (NOW_MS, 0), id="lifted"),
        pytest.param(NOW_MS - HOUR_MS, NOW_MS + 1, (NOW_MS - HOUR_MS, NOW_MS + 1), id="an old rule that is written again"),
    ],
)
def test_a_mute_lasts_as_long_as_its_host_meant(at_ms: int, until_ms: int, near: tuple[int, int]) -> None:
    got = near_rule(rule(at_ms, until_ms), NOW_MS)
    assert (got.at_ms, got.until_ms) == near


def test_the_mute_of_an_ingress_that_is_ahead_ends_in_time() -> None:
    rules = Rules()
    rules.apply(near_rule(rule(NOW_MS + HOUR_MS, NOW_MS + HOUR_MS + 60_000), NOW_MS))
    assert rules.muted("r", "u", NOW_MS + 59_000) is not None
    assert rules.muted("r", "u", NOW_MS + 61_000) is None


def test_a_mode_of_the_future_keeps_its_value() -> None:
    got = near_rule(Moderation(1, "r", NOW_MS + HOUR_MS, RuleKind.MODE, "slow_s", value=5, by_role=Role.STREAMER), NOW_MS)
    assert (got.at_ms, got.value) == (NOW_MS, 5)


@pytest.mark.parametrize(
    ("at_ms", "before_s", "near_s"),
    [
        pytest.param(NOW_MS, NOW_MS // 1000 + 1, NOW_MS // 1000 + 1, id="right"),
        pytest.param(NOW_MS + HOUR_MS, NOW_MS // 1000 + 3601, NOW_MS // 1000 + 1, id="new tokens hold"),
        pytest.param(NOW_MS + HOUR_MS, NOW_MS // 1000 - 9000, NOW_MS // 1000 - 9000, id="a time that an operator named"),
        pytest.param(NOW_MS - HOUR_MS, NOW_MS // 1000 - 3600, NOW_MS // 1000 - 3600, id="behind"),
    ],
)
def test_a_revocation_revokes_no_token_of_the_future(at_ms: int, before_s: int, near_s: int) -> None:
    revocation = Revocation(1, "i", at_ms, before_s, NOW_MS + 9 * HOUR_MS, "u")
    got = near_revocation(revocation, NOW_MS)
    assert got == msgspec.structs.replace(revocation, issued_before_s=near_s, at_ms=min(at_ms, NOW_MS))
