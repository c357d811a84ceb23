"""How late a message comes, by the clock of this machine.

Called by what shows delays to people. Refuses a delay that only clocks explain: one that is
negative, or longer than any message takes to a viewer that is connected.
"""

from typing import Final

from liveroom import clock
from liveroom.far_times import AHEAD_MS

LONGEST_MS: Final = 600_000.0  # a broadcaster that is gone for minutes delays messages in earnest


def delay_ms(at_ms: int) -> float | None:
    """Return the milliseconds since a message was accepted at Unix time `at_ms`.

    None: the clock of this machine, or of the one that accepted it, is off.
    """
    passed_ms = clock.unix_s() * 1000 - at_ms
    return max(0.0, passed_ms) if -AHEAD_MS <= passed_ms <= LONGEST_MS else None
