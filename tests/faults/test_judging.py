"""The judge of gifts is judged.

It finds what is late, at any viewer, in any fault, and excuses what could not arrive.
"""

import time
from typing import Any

import pytest

from liveroom.records.balance import Balance
from liveroom.topics import partition_of
from tests.faults.judge import Exact, Reign
from tests.faults.show import BUDGET_S, PARTITIONS, ROOMS, Fault, Gift, Show, Sight
from viewer.ledger import Ledger

ROOM = ROOMS[0]
MINE = partition_of(ROOM, PARTITIONS)
OTHERS = (MINE + 1) % PARTITIONS
ALL = frozenset({"one", "two"})


def log(*reigns: Reign, silent_ms: tuple[float, float] = (0, 0)) -> Exact:
    """Return a log with a batch of each partition every 100 ms of the last 200 s, but for the
    room's in `silent_ms`.
    """
    now = time.time() * 1000
    times = [int(now - 200_000 + 100 * number) for number in range(4000)]
    batches = [
        [at for at in times if partition != MINE or not silent_ms[0] <= at - now < silent_ms[1]]
        for partition in range(PARTITIONS)
    ]
    first = [Reign(partition, "b1" if partition == MINE else "b2", 0, 1) for partition in range(PARTITIONS)]
    return Exact(0, 0, Balance(), sorted([*first, *reigns]), batches)


def late(faults: list[Fault], at: float, **seen_after_s: float) -> list[str]:
    """Return who got a gift of the second `at` too late."""
    return late_in(log(), faults, at, **seen_after_s)


def late_in(exact: Exact, faults: list[Fault], at: float, **seen_after_s: float) -> list[str]:
    nothing: Any = None
    began = time.monotonic()
    show = Show(nothing, nothing, Ledger())
    show.faults = [fault._replace(began_at=began + fault.began_at, over_at=began + fault.over_at) for fault in faults]
    show.gifts = {"g": Gift(ROOM, began + at)}
    show.sights["g"] = [Sight(viewer, began + at + after, began - 100) for viewer, after in seen_after_s.items()]
    return [wait.sight.viewer for wait in show.waits(exact) if wait.waited_s > wait.at_most_s]


def test_the_last_viewer_counts_and_not_the_first() -> None:
    assert late([], 0, one=0.1, two=BUDGET_S - 0.1) == []
    assert late([], 0, one=0.1, two=BUDGET_S + 0.1) == ["two"]


@pytest.mark.parametrize(
    ("at", "after", "is_late"),
    [
        pytest.param(0, 15.9, False, id="under way in the pause"),
        pytest.param(0, 18.1, True, id="too long after the pause"),
        pytest.param(14.9, 9.9, False, id="at the end of the pause"),
        pytest.param(14.9, 10.1, True, id="at the end, and late"),
        pytest.param(15.1, 10.1, True, id="after the pause"),
        pytest.param(-20, 10.1, True, id="long before the pause"),
    ],
)
def test_a_pause_is_no_excuse_for_what_it_did_not_hold_up(at: float, after: float, is_late: bool) -> None:
    pause = Fault(0, 15, viewers=frozenset({"one"}), within_s=3)
    assert late([pause], at, one=after) == (["one"] if is_late else [])
    assert late([pause], at, two=after) == (["two"] if after > BUDGET_S else []), "who is elsewhere"


def test_who_was_away_is_owed_it_from_the_return_on() -> None:
    nothing: Any = None
    now = time.monotonic()
    show = Show(nothing, nothing, Ledger())
    show.gifts = {"g": Gift(ROOM, now)}
    show.sights["g"] = [Sight("one", now + 25, now + 20), Sight("two", now + 31, now + 20)]
    assert [wait.waited_s > wait.at_most_s for wait in show.waits(log())] == [False, True]


def test_a_kill_holds_up_what_the_victim_ruled_and_nothing_else() -> None:
    assert late([Fault(5, 5, victim="b1")], 0, one=14.9) == []
    assert late([Fault(5, 5, victim="b1")], 0, one=15.1) == ["one"]
    assert late([Fault(5, 5, victim="b2")], 0, one=10.1) == ["one"], "it ruled other partitions"
    assert late([Fault(5, 5, victim="b1"), Fault(12, 12, victim="b1")], 0, one=21.9) == []
    assert late([Fault(5, 5, victim="b1"), Fault(16, 16, victim="b1")], 0, one=20) == ["one"], "it was late already"


def test_a_kill_while_nobody_rules_holds_up_what_waits_for_a_ruler() -> None:
    faults = [Fault(-40, -40, victim="b1"), Fault(-36, -36, victim="b2")]
    assert late_in(log(silent_ms=(-40_000, -30_000)), faults, -41, one=14.9) == []
    assert late_in(log(silent_ms=(-40_000, -37_000)), faults, -41, one=14.9) == ["one"], "it had a ruler again"


def test_who_rules_is_told_by_the_newest_claim() -> None:
    now = time.time() * 1000
    exact = log(Reign(MINE, "b3", int(now - 10_000), int(now - 9_900)))
    assert exact.hits(MINE, "b3", now - 5_000)
    assert not exact.hits(MINE, "b1", now - 5_000)
    assert exact.hits(MINE, "b1", now - 15_000)
    assert exact.hits(OTHERS, "b2", now - 5_000)
