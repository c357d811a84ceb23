"""Refusals over HTTP, as clients read them. Pure.

A newer service may answer with codes and members that this version does not know, and a proxy with
any text at all. So nothing here raises.
"""

from typing import NamedTuple

import orjson


class Problem(NamedTuple):
    """A refusal. `code`: the problem's, or the HTTP status where it has none.

    `retry_after_s`: the delay that it asks for, None where it asks for none.
    """

    code: str
    retry_after_s: float | None


def read_problem(status: int, body: bytes) -> Problem:
    """Return what the body of a refusal with this HTTP status says."""
    try:
        members = orjson.loads(body)
    except ValueError:
        members = None
    if not isinstance(members, dict):
        return Problem(str(status), None)
    code, wait_s = members.get("code"), members.get("retry_after_s")
    return Problem(
        code if isinstance(code, str) and code else str(status),
        float(wait_s) if isinstance(wait_s, int | float) and not isinstance(wait_s, bool) else None,
    )
