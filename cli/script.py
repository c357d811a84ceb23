"""The script of a replay: the danmaku of a file, with gifts and likes mixed in by chance. Pure.

The same lines and the same seed give the same script, at any speed. `replay` and the demo play it.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Final, NamedTuple

from cli.danmaku import Line
from liveroom.bodies import Danmaku, Gift, Like
from liveroom.chance import Chance
from liveroom.kinds import Kind

GIFTS: Final = ("rose", "heart", "rocket", "castle")
GIFT_WEIGHTS: Final = (60, 30, 8, 2)
GIFTS_PER_DANMAKU: Final = 0.06
LIKES_PER_DANMAKU: Final = 0.35
PAUSE_S: Final = 2.0
SEEDS: Final = 1_000_000  # one of so many is drawn where none is given
_MAX_COMBO: Final = 6
_COMBO_STEP_S: Final = 0.7


class Cue(NamedTuple):
    """One interaction of a script. `at_s`: seconds from the start. `id` is unique in the script."""

    at_s: float
    id: str
    user: str
    kind: Kind
    body: Danmaku | Gift | Like


def write(lines: Sequence[Line], chance: Chance) -> list[Cue]:
    """Return the script of `lines`, in order of time.

    It has all lines, and gifts (single ones, or combos that grow) and likes by the lines' senders.
    `chance` draws them.
    """
    cues = [Cue(line.at_s, f"d{number}", line.user, Kind.DANMAKU, line.body) for number, line in enumerate(lines)]
    users = sorted({line.user for line in lines})
    if not users:
        return []
    length_s = lines[-1].at_s
    total = gifts = max(1, round(len(lines) * GIFTS_PER_DANMAKU))
    while gifts > 0:
        user, gift = chance.choice(users), chance.choices(GIFTS, GIFT_WEIGHTS)[0]
        start_s, combo = chance.uniform(0, length_s), min(gifts, chance.choice((1, 1, 1, 2, 3, _MAX_COMBO)))
        if gifts == total:
            start_s = lines[0].at_s  # so that the first seconds have a gift
        for step in range(combo):
            body = Gift(gift, count=chance.choice((1, 1, 1, 10)), combo=step + 1 if combo > 1 else 0)
            at_s = min(start_s + step * _COMBO_STEP_S, length_s)
            cues.append(Cue(at_s, f"g{gifts}", user, Kind.GIFT, body))
            gifts -= 1
    for number in range(max(1, round(len(lines) * LIKES_PER_DANMAKU))):
        at_s, like = chance.uniform(0, length_s), Like(chance.choice((1, 1, 2, 3, 5)))
        cues.append(Cue(at_s, f"l{number}", chance.choice(users), Kind.LIKE, like))
    cues.sort(key=lambda cue: cue.at_s)
    return cues


def loop(cues: Sequence[Cue], pause_s: float = PAUSE_S) -> Iterator[Cue]:
    """Yield the script over and over, each round later by its length and with ids of its own."""
    if not cues:
        return
    round_s = cues[-1].at_s + pause_s
    for number in count():
        for cue in cues:
            yield cue._replace(at_s=cue.at_s + number * round_s, id=f"{number}.{cue.id}")
