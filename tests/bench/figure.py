"""One line of a benchmark's output, and how often a group measures."""

import os
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Figure(NamedTuple):
    """A measured value; `about` says what it was measured against."""

    name: str
    value: float
    unit: str
    about: str = ""

    def __str__(self) -> str:
        shown = f"{self.value:.3f}" if abs(self.value) < 1000 else f"{self.value:.0f}"
        return f"figure {self.name} {shown} {self.unit}" + (f"  # {self.about}" if self.about else "")


def rounds(usual: int) -> int:
    """Return how many rounds to measure: `usual`, or the environment's `ROUNDS` (at least 2).

    Fewer rounds measure the same with less certainty, and end sooner.
    """
    return max(2, int(os.environ.get("ROUNDS") or usual))


def median(name: str, values: Sequence[float], unit: str, about: str) -> Figure:
    """Return the median of rounds, with their quartiles beside it."""
    low, middle, high = statistics.quantiles(values, n=4)
    shown = [f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}" for value in (low, high)]
    return Figure(name, middle, unit, f"{about}; quartiles {shown[0]} to {shown[1]} of {len(values)} rounds")
