"""Counting the users of a room of 100,000 at 50 gateways: processor time and memory of its owner.

Baselines are what a plain program would do in the same run: sets of the users of each gateway. The
times are those of this thread, and each is the least of some rounds.
"""

import sys
import time
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Final

from liveroom.audience import Audience
from liveroom.records.control import Presence
from liveroom.turns import run_at_once
from liveroom.user_lists import pack, parting
from tests.bench.figure import Figure, rounds

USERS: Final = 100_000
GATEWAYS: Final = 50
DOUBLES: Final = 20  # one user in so many is at a second gateway
CHANGED: Final = 100  # users who come, and as many who leave, in one report
ROOM: Final = "r"


def _least_s(act: Callable[[], object], times: int) -> float:
    least = float("inf")
    for _ in range(times):
        began = time.thread_time()
        act()
        least = min(least, time.thread_time() - began)
    return least


class _Owner:
    """A room's owner that got the lists of all gateways."""

    def __init__(self, at: list[set[int]]) -> None:
        self.audience = Audience()
        self._at = at
        self._serials = [0] * len(at)
        for gateway in range(len(at)):
            self.list_again(gateway)

    def _take(self, gateway: int, **users: object) -> None:
        self._serials[gateway] += 1
        size, serial = len(self._at[gateway]), self._serials[gateway]
        record = Presence(1, ROOM, f"g{gateway}", 1, size, size, 0, serial=serial, **users)  # type: ignore[arg-type]
        self.audience.update(record, 0)

    def list_again(self, gateway: int) -> None:
        parts = run_at_once(parting(self._at[gateway]))
        for number, part in enumerate(parts):
            self._take(gateway, came=part, part=number, parts=len(parts))

    def change(self, gateway: int, came: list[int], left: list[int]) -> None:
        self._take(gateway, came=pack(came), left=pack(left))

    def count_all(self) -> int:
        """Count all buckets."""
        lists = self.audience._lists[ROOM]
        gateways = lists._counted
        lists.count_only(())
        lists.count_only(gateways)
        return self.audience.of(ROOM).users


async def measure() -> AsyncIterator[Figure]:
    """Measure the owner's side of counts."""
    chance, times = Random(1), rounds(9)
    users = [chance.getrandbits(64) for _ in range(USERS)]
    at = [set(users[gateway::GATEWAYS]) for gateway in range(GATEWAYS)]
    for number in range(0, USERS, DOUBLES):
        at[(number + 7) % GATEWAYS].add(users[number])
    owner = _Owner(at)
    entries = sum(map(len, at))
    assert owner.count_all() == USERS
    lists = owner.audience._lists[ROOM]
    size = sum(sys.getsizeof(bucket.entries) + sys.getsizeof(bucket) for bucket in lists._buckets)
    sets = sum(sys.getsizeof(users) + sum(map(sys.getsizeof, users)) for users in at)
    yield Figure(
        "counts_bytes_an_entry", size / entries, "bytes", f"{USERS} users, {entries} entries; sets: {sets / entries:.0f}"
    )
    union_s = _least_s(lambda: set[int]().union(*at), times)
    yield Figure("counts_all_vs_union", _least_s(owner.count_all, times) / union_s, "times", "the union of the gateways' sets")
    new = [chance.getrandbits(64) for _ in range(CHANGED)]
    here = set(at[0])

    def both_plain() -> None:
        for user in new:
            here.add(user)
        for user in new:
            here.discard(user)

    def both() -> None:
        owner.change(0, new, [])
        owner.change(0, [], new)

    ratio = _least_s(both, times) / _least_s(both_plain, times)
    yield Figure("counts_change_vs_set", ratio, "times", f"{CHANGED} users who come and leave, with their records")
    listed_s = _least_s(lambda: owner.list_again(1), times)
    yield Figure("counts_list_vs_union", listed_s / union_s, "times", f"the list of one gateway, {len(at[1])} users")
