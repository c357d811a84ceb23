"""One line of a benchmark's output."""

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
