"""How commands show numbers. Pure."""

from collections.abc import Sequence


def shown(value: float | None, form: str = "{:,}") -> str:
    """Return a number in a form of `str.format`; "-" where it is not known."""
    return "-" if value is None else form.format(value)


def in_ms(value: float | None) -> str:
    """Return whole milliseconds with their unit; "-" where they are not known."""
    return shown(value, "{:,.0f} ms")


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Return the value at `share` (0 to 1) of a sorted sequence; None of an empty one."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None
