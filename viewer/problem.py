"""Refusals over HTTP, as clients read them. Pure.

A newer service may answer with codes and members that this version does not know, and a proxy with
any text at all. So nothing here raises.
"""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import orjson

MAX_RETRY_AFTER_S: Final = 3600.0  # whatever a service or a proxy says
_CODE: Final = re.compile("[a-z][a-z0-9_]*")
_PASSING: Final = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}


class Problem(NamedTuple):
    """A refusal. `code`: the problem's, or the HTTP status where it has none.

    `retry_after_s`: the delay that it asks for, at most `MAX_RETRY_AFTER_S`; None where it asks for
    none.
    """

    code: str
    retry_after_s: float | None

    @property
    def is_ours(self) -> bool:
        """Whether one of our services refuses: the page or the JSON of a proxy has no such code."""
        return _CODE.fullmatch(self.code) is not None


def is_final(status: int) -> bool:
    """Return whether a request that fails with this HTTP status cannot succeed later."""
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _PASSING


def read_problem(status: int, headers: Mapping[str, str], body: bytes) -> Problem:
    """Return what a refusal with this HTTP status says.

    The delay is the body's, or else that of the header `Retry-After`: a proxy's refusal has no
    other, and a body may ask for none. `headers` finds names in any case, as aiohttp's do.
    """
    members = _members(body)
    code, wait_s = members.get("code"), members.get("retry_after_s")
    body_s = _bounded(wait_s) if isinstance(wait_s, int | float) and not isinstance(wait_s, bool) else None
    header_s = read_retry_after(headers)
    return Problem(
        code if isinstance(code, str) and code else str(status),
        body_s if body_s or header_s is None else header_s,
    )


def read_room(body: bytes) -> str:
    """Return the room that a refusal names, or an empty text."""
    room = _members(body).get("room")
    return room if isinstance(room, str) else ""


def _members(body: bytes) -> dict[str, Any]:
    try:
        members = orjson.loads(body)
    except ValueError:
        return {}
    return members if isinstance(members, dict) else {}


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of the header `Retry-After`, at most `MAX_RETRY_AFTER_S`, or None.

    A date counts from that of the header `Date`, and without one as no header.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return _bounded(float(text))
    until_s, now_s = _unix_s(text), _unix_s(headers.get("Date", ""))
    return None if until_s is None or now_s is None else _bounded(until_s - now_s)


def _unix_s(date: str) -> float | None:
    """Return the Unix time of an HTTP date, None where it is none."""
    try:
        return parsedate_to_datetime(date).replace(tzinfo=UTC).timestamp()  # HTTP has no other zone
    except (ValueError, TypeError, OverflowError):
        return None


def _bounded(seconds: float) -> float:
    return float(min(max(seconds, 0), MAX_RETRY_AFTER_S))
