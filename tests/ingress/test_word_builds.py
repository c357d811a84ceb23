"""Libraries of rooms: built in short steps, and kept by their use."""

import asyncio
import random
from collections.abc import Mapping

import pytest

from ingress import words
from ingress.word_builds import WordBuilds
from ingress.words import WordLibraries, WordLibrary
from liveroom.moderation import EVERYWHERE
from liveroom.records.control import WordAction

LETTERS = "abcdefghijklmnop中文字"


def many(count: int, chars: int, seed: int = 1) -> dict[str, WordAction]:
    chance = random.Random(seed)
    return {"".join(chance.choice(LETTERS) for _ in range(chars)): WordAction.MASK for _ in range(count)}


class Rules(dict[str, dict[str, WordAction]]):
    """The words of many rooms, one each."""

    def __contains__(self, room: object) -> bool:
        return room != EVERYWHERE

    def __bool__(self) -> bool:
        return True

    def __missing__(self, room: str) -> dict[str, WordAction]:
        return {"darn": WordAction.MASK}


async def test_a_burst_of_rooms_with_words_of_their_own_leaves_the_library_of_a_room_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(words, "MAX_LIBRARIES", 20)
    libraries = WordLibraries(Rules())
    builds = WordBuilds(libraries)
    await builds.prepare("show")
    libraries.judge("show", "hello")
    kept = libraries._set["show"]
    for number in range(200):
        await builds.prepare(f"x{number}")
        libraries.judge(f"x{number}", "darn")
        libraries.judge("show", "hello")
    assert libraries._set["show"] is kept
    assert len(libraries) == 20


async def test_long_words_of_many_rooms_are_bounded_by_their_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_LETTERS", 20_000)
    rules = {f"x{number}": many(100, 64, number) for number in range(10)}
    libraries = WordLibraries(rules)
    for room in rules:
        await WordBuilds(libraries).prepare(room)
    assert len(libraries) == 3
    assert libraries._letters == sum(library.letters for library in libraries._set.values()) <= 20_000


def test_a_build_takes_short_steps_and_the_library_finds_what_it_finds_in_one() -> None:
    rules = many(2000, 20)
    steps, building = 0, WordLibrary.building(rules)
    while True:
        try:
            next(building)
            steps += 1
        except StopIteration as done:
            library: WordLibrary = done.value
            break
    assert steps >= 2 * 2000 * 20 // 600 + 40_000 // 8_000
    assert len(library._parts) == 5
    libraries = WordLibraries({})
    libraries.use_files(library)
    for word in list(rules)[::97]:
        verdict = libraries.judge("r", f"中{word}中")
        assert verdict is not None
        assert word in verdict.words


async def test_other_tasks_run_during_a_build_and_a_word_that_comes_meanwhile_holds_for_the_next_text() -> None:
    rules: dict[str, Mapping[str, WordAction]] = {"r": many(3000, 60)}
    libraries = WordLibraries(rules)
    builds = WordBuilds(libraries)
    first = asyncio.create_task(builds.prepare("r"))
    turns = 0
    while not first.done():
        await asyncio.sleep(0)
        turns += 1
        if turns == 3:
            rules["r"] = {**rules["r"], "darn": WordAction.REFUSE}
            libraries.changed("r")
            second = asyncio.create_task(builds.prepare("r"))
    assert turns > 3
    await second
    verdict = libraries.judge("r", "darn")
    assert verdict is not None
    assert verdict.action is WordAction.REFUSE
    assert libraries.due("r") == []
    assert libraries.due("other") == []


async def test_a_library_whose_words_are_all_removed_is_dropped() -> None:
    rules = {"r": {"darn": WordAction.MASK}}
    libraries = WordLibraries(rules)
    await WordBuilds(libraries).prepare("r")
    del rules["r"]
    libraries.changed("r")
    assert len(libraries) == 0
    assert libraries.judge("r", "darn") is None


async def test_a_word_that_is_set_during_a_build_lets_no_text_wait_or_block_for_another_build() -> None:
    rules: dict[str, Mapping[str, WordAction]] = {"r": many(3000, 60)}
    libraries = WordLibraries(rules)
    waiting = asyncio.create_task(WordBuilds(libraries).prepare("r"))
    while not waiting.done():
        await asyncio.sleep(0)
        rules["r"] = {**rules["r"], "darn": WordAction.REFUSE}
        libraries.changed("r")
    built = libraries._set["r"]
    assert libraries.judge("r", "darn") is None, "it holds for the next text"
    assert libraries._set["r"] is built, "the verdict builds nothing"
    assert libraries.due("r") == ["r"]


async def test_the_words_of_all_rooms_stay_beside_a_library_that_is_larger_than_all_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(words, "MAX_LETTERS", 1000)
    libraries = WordLibraries({"*": many(100, 20), "r": {**many(100, 20, 1), "darn": WordAction.REFUSE}})
    builds = WordBuilds(libraries)
    for room in ("other", "r"):
        await builds.prepare(room)
    assert libraries.judge("r", "darn") is not None
    assert libraries.missing("other") == []


def test_no_step_of_a_build_has_many_characters_to_normalise() -> None:
    """Each may come for the first time, which takes 1.5 us."""
    rules = many(100, 64)
    building = WordLibrary.building(rules)
    steps = sum(1 for _ in iter(lambda: next(building, building), building))
    assert steps >= 2 * 100 * 64 // 600
