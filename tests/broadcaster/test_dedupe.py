"""The two memories of ids agree on what came before."""

from hypothesis import given
from hypothesis import strategies as st

from broadcaster.dedupe import RecentIds, SeenIds

WINDOW_MS = 10

meetings = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("uv"), st.sampled_from("12"), st.integers(-6, 9)))


@given(meetings)
def test_ids_kept_as_hashes_are_met_again_exactly_when_ids_kept_as_texts_are(steps: list[tuple[str, str, str, int]]) -> None:
    recent, seen = RecentIds(WINDOW_MS), SeenIds(WINDOW_MS, {})
    now_ms = 100
    for room, user, id_, passed_ms in steps:  # Kafka's time may go back
        now_ms += passed_ms
        assert recent.meet(room, user, id_, now_ms) == (seen.meet(f"{room} {user} {id_}", now_ms, 1) is not None)


def test_ids_are_forgotten_with_the_window() -> None:
    recent = RecentIds(WINDOW_MS)
    for now_ms in range(1000):
        assert not recent.meet("r", "u", str(now_ms), now_ms)
    assert len(recent._at) == len(recent._order) == WINDOW_MS


def test_ids_of_a_snapshot_are_met_again_and_forgotten_in_their_turn() -> None:
    seen = SeenIds(WINDOW_MS, {"u 1": (5, 7), "u 2": (8, 0)})
    assert seen.meet("u 1", 10, 9) == 7
    assert seen.meet("u 2", 10, 9) == 0
    assert seen.meet("u 1", 15, 9) is None
    assert seen.since(6) == [("u 2", (8, 0)), ("u 1", (15, 9))]
