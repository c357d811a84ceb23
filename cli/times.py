"""Times as people write them in options: `90s`, `10m`, `2h`, `1h30m`, or a date. Pure."""

import re
from datetime import UTC, datetime
from typing import Final

from cli.endpoints import UsageError

_UNITS: Final = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_SPAN: Final = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?\Z")


def span_s(text: str) -> int:
    """Return a span of time in seconds; raise UsageError where it is none."""
    found = _SPAN.match(text)
    if not text or found is None:
        raise UsageError(f"{text!r} is no span of time: 90s, 10m, 2h or 1h30m")
    return sum(int(digits) * unit for digits, unit in zip(found.groups(), _UNITS.values(), strict=True) if digits)


def moment_s(text: str, now_s: float, *, ahead: bool = False) -> float:
    """Return the Unix time of a date, or of a span before `now_s` (`ahead`: after it).

    A date without a zone is of the machine's own zone. Raises UsageError where it is neither.
    """
    if text[:1].isdigit() and _SPAN.match(text):
        return now_s + (span_s(text) if ahead else -span_s(text))
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"{text!r} is no time: a span as 10m or 2h, or a date as 2026-11-24T20:00+08:00") from None


def shown_time(at_ms: int) -> str:
    """Return a time of a record (Unix milliseconds) for people, in UTC; `?` where it is none."""
    try:
        return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "?"
