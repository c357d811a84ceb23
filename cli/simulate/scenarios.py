"""The scenarios of `liveroom simulate`: what happens to the pool, second by second. Pure.

Owns the evenings that are tried. `cli.simulate.model` plays them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from autoscaler.policy import Event, Policy

BEGIN_S: Final = datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()
FLASH_S: Final = 300


@dataclass
class Scenario:
    """What happens in a simulation. Times are seconds from its start.

    `joins_per_s` gives the joins at a second, and a viewer stays `stay_s` on average. `gateways`
    and `viewers` are there at the start, evenly spread. `add` and `fail` have (when, how many
    gateways), and in each `silence` (from, to) no gateway reports. `scales`, `sheds`: whether the
    pool does so. `round_robin` places viewers by turns instead of by load. `replicas` is the number
    of schedulers.
    """

    name: str
    about: str
    lasts_s: int
    joins_per_s: Callable[[float], float]
    stay_s: float = 1800.0
    gateways: int = 4
    viewers: int = 0
    policy: Policy = field(default_factory=Policy)
    scales: bool = True
    sheds: bool = True
    add: tuple[tuple[float, int], ...] = ()
    fail: tuple[tuple[float, int], ...] = ()
    silence: tuple[tuple[float, float], ...] = ()
    round_robin: bool = False
    seed: int = 1
    replicas: int = 1


def _constant(rate: float) -> Callable[[float], float]:
    return lambda _: rate


def even_out(rate: float, *, sheds: bool, round_robin: bool = False, replicas: int = 1) -> Scenario:
    """100,000 viewers on 50 gateways, and 10 more gateways; `rate` viewers a second come and go."""
    return Scenario(
        f"even-{rate:.0f}",
        f"100,000 viewers on 50 gateways, 10 added after 10 s; {rate:.0f}/s come and go",
        80,
        _constant(rate),
        stay_s=100_000 / rate,
        gateways=50,
        viewers=100_000,
        scales=False,
        sheds=sheds,
        add=((10, 10),),
        round_robin=round_robin,
        replicas=replicas,
    )


def flash(*, is_announced: bool, replicas: int = 1) -> Scenario:
    """A star's room: 100,000 viewers come within 60 s."""
    at = datetime.fromtimestamp(BEGIN_S + FLASH_S, UTC)
    events = (Event("star", at, 100_000, lead_s=120.0),) if is_announced else ()
    return Scenario(
        "flash-announced" if is_announced else "flash",
        f"0 to 100,000 viewers within 60 s, {'announced 2 minutes before' if is_announced else 'unannounced'}",
        FLASH_S + 240,
        lambda now_s: 100_000 / 60 if FLASH_S < now_s <= FLASH_S + 60 else 0.0,
        stay_s=7200,
        policy=Policy(min=4, events=events),
        replicas=replicas,
    )


def evening() -> Scenario:
    """A slow evening of four hours, up to some 60,000 viewers."""

    def joins(now_s: float) -> float:
        return 3.0 + 32.0 * math.sin(math.pi * now_s / 14_400) ** 2

    return Scenario(
        "evening", "four hours, up to some 60,000 viewers", 14_400, joins, stay_s=1800, policy=Policy(min=4), viewers=5400
    )


def failures() -> Scenario:
    """Gateways fail, one after the other, at 70% use."""
    return Scenario(
        "failures",
        "70,000 viewers on 12 gateways, of which 1, then 2 fail",
        300,
        _constant(70_000 / 1800),
        gateways=12,
        viewers=70_000,
        policy=Policy(min=4),
        fail=((60, 1), (150, 2)),
    )


def silence() -> Scenario:
    """All reports stop for a minute while the crowd shrinks."""
    return Scenario(
        "silence",
        "all reports stop for a minute while the crowd shrinks",
        1500,
        _constant(2.0),
        stay_s=600,
        gateways=12,
        viewers=60_000,
        policy=Policy(min=4, down_after_up_s=0),
        silence=((600, 660),),
    )


SCENARIOS: Final[dict[str, Callable[[], Scenario]]] = {
    "even-200": lambda: even_out(200, sheds=True),
    "even-2000": lambda: even_out(2000, sheds=True),
    "flash-announced": lambda: flash(is_announced=True),
    "flash": lambda: flash(is_announced=False),
    "evening": evening,
    "failures": failures,
    "silence": silence,
}
