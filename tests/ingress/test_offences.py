"""Offences: when the limit is reached, and that nothing is kept for ever."""

from ingress.offences import Offences


def test_the_offence_that_reaches_the_limit_within_the_window_is_reported() -> None:
    offences = Offences(3, 10)
    assert [offences.add(("r", "u"), now_s) for now_s in (0, 1, 11.5, 12, 12.5)] == [False, False, False, False, True]
    assert [offences.add(("r", "u"), now_s) for now_s in (13, 14, 15)] == [False, False, True], "then the count starts from 0"
    assert not any(offences.add(("r", "v"), now_s) for now_s in (16, 17))
    assert not any(Offences(0, 10).add(("r", "u"), now_s) for now_s in range(100))


def test_offences_of_long_ago_are_forgotten() -> None:
    offences = Offences(3, 10)
    for number in range(1000):
        offences.add((f"u{number}",), number)
    assert len(offences._at) < 30
