"""A user's token, as clients hold it."""

import asyncio
from collections.abc import Callable

from liveroom.tasks import CancelledWorkError, is_cancelled, refuse_coroutine

# A token is fixed, or a function returns a valid one: a client that runs for long needs new ones.
Token = str | Callable[[], str]


def current(token: Token) -> str:
    """Return the token to send now.

    Raises whatever the function raises: CancelledWorkError in place of the CancelledError of a
    future of its own, which would end the caller's task unseen; TypeError for an `async def`.
    """
    if isinstance(token, str):
        return token
    try:
        given = token()
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise CancelledWorkError("what the token function waited for was cancelled") from error
    refuse_coroutine(given)
    return given
