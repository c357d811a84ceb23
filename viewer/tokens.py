"""A user's token, as clients hold it."""

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final

from liveroom.errors import Code, in_words
from liveroom.tasks import CancelledWorkError, is_cancelled, refuse_coroutine
from viewer.problem import NO_TOKEN, ServiceError

# A token is fixed, or a function returns a valid one: a client that runs for long needs new ones.
Token = str | Callable[[], str]
_SENDABLE: Final = re.compile(r"[\x20-\x7e]+")


class TokenError(ServiceError):
    """There is no token to send: no request is made that could only be refused.

    `code`: `no_token` where the token function raised, whose error is the cause; `token_missing`
    where it gave nothing; `token_invalid` where it gave what no header can hold.
    """


def current(token: Token) -> str:
    """Return the token to send now.

    Raises TokenError where there is none. The CancelledError of a future of the function's own,
    which would end the caller's task unseen, is such a failure too, and so is an `async def`.
    """
    given, source = (_call(token), "the token function gave") if callable(token) else (token, "the token is")
    if given is None or given == "":
        raise TokenError(Code.TOKEN_MISSING.value, f"{source} {'None' if given is None else 'an empty text'}")
    if not isinstance(given, str):
        raise TokenError(Code.TOKEN_INVALID.value, f"{source} no text: {type(given).__name__}")
    if not _SENDABLE.fullmatch(given.strip()):
        raise TokenError(Code.TOKEN_INVALID.value, f"{source} a text that no header can hold")
    return given.strip()


def _call(token: Callable[[], str]) -> Any:
    try:
        given = token()
        refuse_coroutine(given)
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        cancelled = CancelledWorkError("what the token function waited for was cancelled")
        cancelled.__cause__ = error
        raise TokenError(NO_TOKEN, in_words(cancelled)) from cancelled
    except Exception as error:
        raise TokenError(NO_TOKEN, in_words(error)) from error
    return given
