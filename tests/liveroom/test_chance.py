import collections

import pytest

from liveroom.chance import BLOCK_BYTES, Chance, SystemChance


def drawn(chance: Chance) -> list[object]:
    items = list(range(10))
    chance.shuffle(items)
    return [chance.random(), chance.uniform(2, 3), chance.choice("abc"), items, chance.token_hex(8), chance.token_urlsafe(9)]


def test_a_seed_draws_the_same_again() -> None:
    assert drawn(Chance(7)) == drawn(Chance(7))
    assert drawn(Chance(7)) != drawn(Chance(8))


def test_the_systems_source_never_repeats() -> None:
    chance = SystemChance()
    chance.seed(7)
    first = drawn(chance)
    chance.seed(7)
    assert first != drawn(chance)
    with pytest.raises(NotImplementedError):
        chance.getstate()
    with pytest.raises(NotImplementedError):
        chance.setstate(())


@pytest.mark.parametrize("chance", [Chance(1), SystemChance()], ids=["seeded", "system"])
def test_tokens_have_their_size_and_never_come_twice(chance: Chance) -> None:
    tokens = {chance.token_hex(9) for _ in range(10_000)}
    assert len(tokens) == 10_000
    assert {len(token) for token in tokens} == {18}
    assert len(chance.token_bytes(BLOCK_BYTES * 3 + 1)) == BLOCK_BYTES * 3 + 1
    assert len(chance.token_urlsafe(12)) == 16
    assert chance.token_bytes(0) == b""


def test_the_systems_numbers_lie_where_they_should() -> None:
    chance = SystemChance()
    numbers = [chance.random() for _ in range(20_000)]
    assert 0 <= min(numbers) < 0.01
    assert 0.99 < max(numbers) < 1
    assert {chance.getrandbits(3) for _ in range(1000)} == set(range(8))
    assert chance.getrandbits(0) == 0
    counts = collections.Counter(chance.randrange(5) for _ in range(10_000))
    assert sorted(counts) == [0, 1, 2, 3, 4]
    assert min(counts.values()) > 1700
