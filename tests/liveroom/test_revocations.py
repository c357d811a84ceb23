"""Which tokens are revoked, and for how long."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveroom import consumers
from liveroom.consumers import REVOCATIONS_READ, Change, follow_revocations
from liveroom.errors import Code, ProblemError
from liveroom.kafka_port import AioKafka
from liveroom.records.codec import JsonReader, encode_json
from liveroom.records.revocations import Revocation
from liveroom.revocations import Revocations
from liveroom.service import Runtime
from liveroom.settings import KafkaSettings
from liveroom.tickets import User

NOW_MS = 1_700_000_000_000


def revocation(id_: str, user: str = "", device: str = "", before_s: int = 1000, until_ms: int = NOW_MS) -> Revocation:
    made = Revocation(1, id_, 0, before_s, until_ms, user, device)
    return JsonReader(Revocation).read(encode_json(made))


def after(*told: Revocation) -> Revocations:
    table = Revocations()
    table.are_read = True
    for one in told:
        table.apply(one)
    return table


@pytest.mark.parametrize(
    ("revoked", "user", "device", "issued_s", "is_revoked"),
    [
        pytest.param(revocation("a", "u"), "u", "", 999, True, id="a user's token of before"),
        pytest.param(revocation("a", "u"), "u", "", 1000, False, id="a user's token of then"),
        pytest.param(revocation("a", "u"), "u", "", None, True, id="a token of an unknown time"),
        pytest.param(revocation("a", "u"), "u", "phone", 999, True, id="a user's token for a device"),
        pytest.param(revocation("a", "u"), "v", "", 999, False, id="another user's token"),
        pytest.param(revocation("a", "u", "phone"), "u", "phone", 999, True, id="a device's token of before"),
        pytest.param(revocation("a", "u", "phone"), "u", "phone", 1000, False, id="a device's token of then"),
        pytest.param(revocation("a", "u", "phone"), "u", "tv", 999, False, id="another device's token"),
        pytest.param(revocation("a", "u", "phone"), "u", "", 999, False, id="a token for no device"),
        pytest.param(revocation("a", "u", "phone"), "v", "phone", 999, False, id="another user's device of this name"),
        pytest.param(revocation("a"), "anybody", "", 999, True, id="everybody's token of before"),
        pytest.param(revocation("a"), "anybody", "tv", 1000, False, id="everybody's token of then"),
    ],
)
def test_a_revocation_is_about_the_tokens_of_a_target_that_were_issued_before(
    revoked: Revocation, user: str, device: str, issued_s: int | None, is_revoked: bool
) -> None:
    assert after(revoked).revokes(user, device, issued_s) == is_revoked


def test_nobody_passes_until_the_revocations_are_read() -> None:
    table = Revocations()
    with pytest.raises(ProblemError) as caught:
        table.check(User("u"))
    assert caught.value.code is Code.NOT_READY
    table.are_read = True
    table.check(User("u"))
    table.apply(revocation("a", "u"))
    with pytest.raises(ProblemError) as caught:
        table.check(User("u", issued_s=999))
    assert (caught.value.code, caught.value.status) == (Code.REVOKED, 401)
    table.check(User("u", issued_s=1000))


def test_the_revocations_of_the_same_tokens_are_counted_together() -> None:
    table = after(revocation("a", "u"), revocation("b", "u", before_s=1001), revocation("c", "u", "phone"))
    assert [table.count_of(*target) for target in (("u", ""), ("u", "phone"), ("v", ""))] == [2, 1, 0]
    table.withdraw("a")
    assert table.count_of("u", "") == 1


TARGETS = st.tuples(st.sampled_from(["", "u", "v"]), st.sampled_from(["", "phone"]), st.integers(0, 5))


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | TARGETS)), st.integers(-1, 5))
def test_whatever_comes_and_goes_what_holds_is_what_is_left(told: list[tuple[str, Any]], issued_s: int) -> None:
    table, left = after(), dict[str, tuple[str, str, int]]()
    for id_, target in told:
        if target is None:
            table.withdraw(id_)
            left.pop(id_, None)
        else:
            table.apply(revocation(id_, *target))
            left[id_] = target
    assert len(table) == len(left)
    assert sorted(each.id for each in table) == sorted(left)
    for user in ("u", "v", "w"):
        for device in ("", "phone", "tv"):
            expected = any(
                of in {"", user} and on in {"", device} and issued_s < before_s for of, on, before_s in left.values()
            )
            assert table.revokes(user, device, issued_s) == expected


def test_an_empty_table_keeps_nothing() -> None:
    table = after(*(revocation(f"r{number}", f"u{number % 7}", "d", number) for number in range(100)))
    for one in table:
        table.withdraw(one.id)
    assert (len(table), table._of, table._before_s) == (0, {}, {})


async def test_a_follower_applies_withdraws_and_reports_what_is_new_together(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = revocation("a", "u"), revocation("b", "v")
    rounds: list[list[Change[Revocation]]] = [[Change(0, "a", 0, one), Change(1, "b", 0, two)], [Change(2, "a", 0, None)], []]

    async def changes(*_: Any, **__: Any) -> AsyncIterator[list[Change[Revocation]]]:
        for found in rounds:
            yield found

    class Reader:
        caught_up = True

        def __init__(self, *_: Any, **__: Any) -> None: ...

    async def on_revoked(revoked: Any) -> None:
        told.append(list(revoked))

    monkeypatch.setattr(consumers, "changes", changes)
    monkeypatch.setattr(consumers, "TopicReader", Reader)
    table, runtime, told = Revocations(), Runtime("edge", REVOCATIONS_READ), list[list[Revocation]]()
    await follow_revocations(AioKafka(KafkaSettings()), table, runtime, on_revoked)
    assert told == [[one, two]]
    assert [each.id for each in table] == ["b"]
    assert table.are_read
    assert runtime.is_ready
    assert runtime.metrics.registry.get_sample_value("liveroom_names", {"table": "revocations"}) == 1
