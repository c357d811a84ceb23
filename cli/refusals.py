"""Refusals of services, in plain words for a terminal. Pure."""

from datetime import UTC, datetime

from cli.printable import printable
from liveroom.errors import TABLE, Code
from viewer.problem import NO_ANSWER, ServiceError


def words_of(error: ServiceError) -> str:
    """Return what a service said: the code, its meaning, the detail, how long it holds, and the id
    of the request.
    """
    if error.code == NO_ANSWER:
        return f"no answer: {printable(error.detail)}"
    title = _title(error.code)
    parts = [title, error.detail if error.detail != title else ""]
    said = "; ".join(printable(part) for part in parts if part)
    until = f", until {_time(error.until_ms)}" if error.until_ms > 0 else ", without an end" if error.until_ms else ""
    again = f", again in {error.retry_after_s:,.0f} s" if error.retry_after_s and not until else ""
    request = f", request {printable(error.request_id)}" if error.request_id else ""
    return f"{printable(error.code)}{f' ({said})' if said else ''}{until}{again}{request}"


def _time(at_ms: int) -> str:
    try:
        return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):  # a year that this machine does not know
        return "far from now"


def _title(code: str) -> str:
    try:
        return TABLE[Code(code)].title
    except ValueError:
        return ""
