"""Finds the load at which a gateway misses an objective, from the steps of a load test. Pure.

Owns the arithmetic: which objective breaks first, at which load each one does, how far runs differ.
A load generator that was itself too busy proves nothing: then there is no knee, and the result says
why.
"""

import statistics
from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple

from cli.choices import RampKind

CLIENT_BUSY: Final = 0.85
APPLIED: Final = 0.9


class Trust(NamedTuple):
    """What the load itself must meet, or a step proves nothing.

    `client` at most, `applied` at least (see `Measures`).
    """

    client: float = CLIENT_BUSY
    applied: float = APPLIED


class Resource(Enum):
    """The resource of an objective, by the name of its measure."""

    CPU = "cpu"
    LOOP_LAG = "loop_lag_ms"
    DELAY = "delay_ms"
    SKIPPED = "skipped"
    MISSING = "missing"


class Objectives(NamedTuple):
    """What a gateway must meet. A step with a measure above its objective is broken.

    `cpu`: busy share of the gateway's core. `loop_lag_ms`: mean lag of its event loop. `delay_ms`:
    99th percentile of the delay from acceptance to a viewer. `skipped`: share of pushes that slow
    viewers miss, with the viewers closed for being slow. `missing`: share of viewers that should be
    in a room, or should have joined within the step, and did not.
    """

    cpu: float = 0.9
    loop_lag_ms: float = 50.0
    delay_ms: float = 1000.0
    skipped: float = 0.001
    missing: float = 0.01


class Measures(NamedTuple):
    """What one step measured.

    `client`: how busy the load was, its cores together or its busiest process. `applied`: the share
    of messages that were accepted. None: not known, which breaks no objective.
    """

    level: float
    cpu: float
    loop_lag_ms: float
    delay_ms: float | None
    skipped: float
    missing: float
    client: float
    connections: float
    joins_per_s: float
    packets_per_s: float
    bytes_per_s: float
    rss_bytes: float
    applied: float = 1.0

    def broken(self, objectives: Objectives) -> list[Resource]:
        """Return the resources that are over their objectives."""
        return [
            resource
            for resource in Resource
            if (value := getattr(self, resource.value)) is not None and value > getattr(objectives, resource.value)
        ]

    def doubt(self, trust: Trust) -> str:
        """Return why the step proves nothing, in words; empty where it does prove something."""
        if self.client > trust.client:
            return f"the load generator's own core was {self.client:.0%} busy at {self.level:,.0f}"
        if self.applied < trust.applied:
            return f"only {self.applied:.0%} of the messages were accepted at {self.level:,.0f}"
        return ""


class Crossing(NamedTuple):
    """Where a resource meets its objective; `level` None: not within this run."""

    resource: Resource
    level: float | None


class Knee(NamedTuple):
    """The result of a run.

    `level`: the highest load that meets all objectives. `resource`: what breaks first. `there`: the
    measures at that load.
    """

    level: float
    resource: Resource
    there: Measures
    crossings: tuple[Crossing, ...]


class Inconclusive(NamedTuple):
    """Why a run found no knee.

    `held`: the highest load that met all objectives with a load generator that was not too busy.
    """

    why: str
    held: float | None


class Found(NamedTuple):
    """The knees of several runs. `spread`: the largest less the smallest, over the median."""

    median: Knee
    spread: float
    levels: tuple[float, ...]


class Ramp(NamedTuple):
    """One ramp: the steps of all its runs, and the result."""

    kind: RampKind
    runs: tuple[tuple[Measures, ...], ...]
    result: Found | Inconclusive


def find_knee(steps: Sequence[Measures], objectives: Objectives, trust: Trust) -> Knee | Inconclusive:
    """Return the knee of a run with rising levels.

    It lies between the last step that met all objectives and the first that did not.
    """
    held: Measures | None = None
    for step in steps:
        broken = step.broken(objectives)
        if doubt := step.doubt(trust):
            return Inconclusive(doubt, held.level if held else None)
        if not broken:
            held = step
            continue
        if held is None:
            return Inconclusive(f"{_names(broken)} broke at the first step: start lower", None)
        crossings = [Crossing(resource, _crossing(resource, held, step, objectives)) for resource in Resource]
        level, first = min((crossing.level, crossing.resource.value) for crossing in crossings if crossing.level is not None)
        return Knee(level, Resource(first), _between(held, step, level), tuple(crossings))
    if held is None:
        return Inconclusive("no step was made: start lower", None)
    return Inconclusive("nothing broke: go higher", held.level)


def settle(runs: Sequence[Knee | Inconclusive]) -> Found | Inconclusive:
    """Return the median of runs, or the first one without a knee."""
    knees: list[Knee] = []
    for run in runs:
        if isinstance(run, Inconclusive):
            return run
        knees.append(run)
    knees.sort(key=lambda knee: knee.level)
    levels = tuple(knee.level for knee in knees)
    median = knees[(len(knees) - 1) // 2]
    return Found(median, (levels[-1] - levels[0]) / statistics.median(levels), levels)


def _crossing(resource: Resource, held: Measures, broken: Measures, objectives: Objectives) -> float | None:
    """Return where a straight line from the one step to the other meets the objective."""
    name = resource.value
    after, limit = getattr(broken, name), getattr(objectives, name)
    if after is None or after <= limit:
        return None
    before = getattr(held, name)
    if before is None:
        return held.level
    share = (limit - before) / (after - before)
    return float(held.level + share * (broken.level - held.level))


def _between(held: Measures, broken: Measures, level: float) -> Measures:
    share = (level - held.level) / (broken.level - held.level)

    def at(before: float | None, after: float | None) -> float | None:
        return before if before is None or after is None else before + share * (after - before)

    return Measures(*(at(before, after) for before, after in zip(held, broken, strict=True)))  # type: ignore[arg-type]


def _names(broken: Sequence[Resource]) -> str:
    return ", ".join(resource.value for resource in broken)
