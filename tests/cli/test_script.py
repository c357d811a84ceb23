"""The script of a replay: a seed repeats it, with all danmaku, and gifts and likes among them."""

from collections import Counter
from itertools import islice
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cli.danmaku import Line, read_file
from cli.script import PAUSE_S, loop, write
from liveroom.bodies import Danmaku, Gift
from liveroom.chance import Chance
from liveroom.kinds import Kind
from liveroom.topics import INTERACTION_ID

REAL = Path(__file__).parents[1] / "data" / "danmaku-130614.xml"
LINES = [Line(i * 0.5, f"u{i % 3}", Danmaku(f"line {i}")) for i in range(40)]


def test_the_same_seed_gives_the_same_script_and_another_seed_another() -> None:
    assert write(LINES, Chance(7)) == write(LINES, Chance(7))
    assert write(LINES, Chance(7)) != write(LINES, Chance(8))


def test_all_danmaku_of_the_real_file_are_in_it_with_gifts_and_likes() -> None:
    lines = read_file(REAL).lines
    cues = write(lines, Chance(1))
    kinds = Counter(cue.kind for cue in cues)
    assert kinds == {Kind.DANMAKU: 1111, Kind.GIFT: 67, Kind.LIKE: 389}
    assert [cue.body for cue in cues if cue.kind is Kind.DANMAKU] == [line.body for line in lines]


@given(st.integers(), st.integers(min_value=1, max_value=60))
def test_a_script_is_in_order_with_ids_of_its_own_and_bodies_that_ingress_takes(seed: int, count: int) -> None:
    cues = write(LINES[:count], Chance(seed))
    assert [cue.at_s for cue in cues] == sorted(cue.at_s for cue in cues)
    assert len({cue.id for cue in cues}) == len(cues)
    assert all(0 <= cue.at_s <= LINES[-1].at_s for cue in cues)
    assert {Kind.DANMAKU, Kind.GIFT, Kind.LIKE} == {cue.kind for cue in cues}
    for cue in cues:
        assert msgspec.json.decode(msgspec.json.encode(cue.body), type=type(cue.body)) == cue.body


def test_a_combo_of_n_comes_after_one_of_n_less_one_by_the_same_user() -> None:
    seen: set[tuple[str, str, int]] = set()
    for cue in write(LINES, Chance(5)) + write(read_file(REAL).lines, Chance(5)):
        if isinstance(cue.body, Gift) and cue.body.combo:
            assert cue.body.combo == 1 or (cue.user, cue.body.gift, cue.body.combo - 1) in seen
            seen.add((cue.user, cue.body.gift, cue.body.combo))
    assert any(combo > 2 for _, _, combo in seen)


def test_no_lines_give_no_script() -> None:
    assert write([], Chance(1)) == []
    assert list(loop([])) == []


def test_a_loop_goes_on_with_new_ids_after_a_pause() -> None:
    cues = write(LINES, Chance(3))
    twice = list(islice(loop(cues), 2 * len(cues)))
    assert len({cue.id for cue in twice}) == len(twice)
    assert all(INTERACTION_ID.match(cue.id) for cue in twice)
    assert twice[len(cues)].at_s == cues[0].at_s + cues[-1].at_s + PAUSE_S
    assert [cue.at_s for cue in twice] == sorted(cue.at_s for cue in twice)
