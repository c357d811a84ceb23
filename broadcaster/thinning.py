"""Which best-effort interactions a room above its limit keeps, before they get numbers. Pure.

The room's token bucket (`liveroom.limits`) says how many that are. This module owns the order of
preference: the streamer and operators, then moderators, then higher levels. Among equals every
user's first comes before any user's second, and the rest is decided by lot. The uplink offset draws
the lot, and Kafka's time measures the limit, so a replay of the same records decides alike. Refuses
nothing. Called by `broadcaster.waiting_records`.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from liveroom.kinds import Role

_RANK: Final = {Role.STREAMER: 0, Role.OPERATOR: 0, Role.MODERATOR: 1}
_ORDINARY: Final = 2
_U64: Final = (1 << 64) - 1


class Candidate(NamedTuple):
    """One uplink record of best-effort items: its sender, its uplink offset, and how many numbers
    it would take.
    """

    offset: int
    role: Role
    level: int
    user: str
    cost: int


def choose(candidates: Sequence[Candidate], allowance: int) -> list[bool]:
    """Return for each candidate whether it stays: costs sum up to at most `allowance`.

    One that no longer fits makes way for smaller ones behind it.
    """
    nth: dict[str, int] = {}
    order: list[tuple[int, int, int, int, int]] = []
    for index, candidate in enumerate(candidates):
        turn = nth[candidate.user] = nth.get(candidate.user, -1) + 1
        order.append((_RANK.get(candidate.role, _ORDINARY), -candidate.level, turn, _lot(candidate.offset), index))
    order.sort()
    stays = [False] * len(candidates)
    for *_, index in order:
        cost = candidates[index].cost
        if cost <= allowance:
            stays[index] = True
            allowance -= cost
    return stays


def _lot(offset: int) -> int:
    """Return a number that looks random but is the offset's own (the finaliser of splitmix64)."""
    mixed = (offset + 1) * 0x9E3779B97F4A7C15 & _U64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _U64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _U64
    return mixed ^ mixed >> 31
