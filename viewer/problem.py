"""Refusals over HTTP, as clients read them. Pure.

A newer service may answer with codes and members that this version does not know, and a proxy with
any text at all. So nothing here raises.
"""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

import orjson

from liveroom.wire import MAX_EXACT, Error

MAX_RETRY_AFTER_S: Final = 3600.0  # whatever a service or a proxy says
NO_CODE: Final = "the answer has no code: a proxy, or another service"
NO_ANSWER: Final = "no_answer"
NO_TOKEN: Final = "no_token"  # noqa: S105 - a code, no secret
_CODE: Final = re.compile("[a-z][a-z0-9_]*")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:=-]{1,128}")
_PASSING: Final = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}


class ServiceError(Exception):
    """A service refuses, or does not answer: the one error of clients.

    `code`: that of docs/errors.md; the HTTP status where the answer has none, as a proxy's; or
    `no_answer` or `no_token`. `status`: the HTTP status; 0: no answer came, or the refusal came on
    an open connection. `detail`: more about it, for people. `retry_after_s`: how many seconds it
    asks to wait, at most an hour; None where it asks for nothing. `until_ms`: when a mute or ban
    ends, in milliseconds of Unix time; -1: never; 0: it is neither. `room`: the room that it names,
    or empty. `request_id`: its name in the service's log (`liveroom why`); empty: unknown.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        status: int = 0,
        retry_after_s: float | None = None,
        until_ms: int = 0,
        room: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail
        self.status = status
        self.retry_after_s = retry_after_s
        self.until_ms = until_ms
        self.room = room
        self.request_id = request_id

    @property
    def is_ours(self) -> bool:
        """Whether one of our services refuses: the page or the JSON of a proxy has no such code."""
        return self.status > 0 and _CODE.fullmatch(self.code) is not None

    @property
    def is_final(self) -> bool:
        """Whether the same request cannot succeed later.

        A proxy's refusal says nothing of that: it may have no service yet, or be a login page.
        """
        return self.is_ours and is_final(self.status) and self.retry_after_s is None


def as_frame(error: ServiceError) -> Error:
    """Return a scheduler's refusal as a gateway would tell it."""
    return Error(error.code, error.detail, error.room, error.retry_after_s, error.until_ms, error.request_id)


def of_frame(said: Error) -> ServiceError:
    """Return what a gateway told as an error."""
    return ServiceError(
        said.code,
        said.detail,
        retry_after_s=said.retry_after_s,
        until_ms=said.until_ms,
        room=said.room,
        request_id=said.request_id,
    )


def is_final(status: int) -> bool:
    """Return whether a request that fails with this HTTP status cannot succeed later."""
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _PASSING


def read_problem(status: int, headers: Mapping[str, str], body: bytes) -> ServiceError:
    """Return what a refusal with this HTTP status says.

    The delay is the body's, or else that of the header `Retry-After`: a proxy's refusal has no
    other, and a body may ask for none. `headers` finds names in any case, as aiohttp's do.
    """
    members = _members(body)
    wait_s, until_ms = _number(members.get("retry_after_s")), _number(members.get("until_ms"))
    body_s = None if wait_s is None else _bounded(wait_s)
    header_s = read_retry_after(headers)
    code = _text(members.get("code"))
    return ServiceError(
        code or str(status),
        _text(members.get("detail")) or _text(members.get("title")) or ("" if code else NO_CODE),
        status=status,
        retry_after_s=body_s if body_s or header_s is None else header_s,
        until_ms=int(min(max(until_ms or 0, -1), MAX_EXACT)),
        room=_text(members.get("room")),
        request_id=_request_id(members, headers),
    )


def _request_id(members: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    """Return the id of a request, by the refusal's body or else by its header."""
    given = (members.get("request_id"), headers.get("X-Request-Id"))
    return next((each for each in given if isinstance(each, str) and _REQUEST_ID.fullmatch(each)), "")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


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
