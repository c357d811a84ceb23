"""A user's token, as clients hold it."""

from collections.abc import Callable

# A token is fixed, or a function returns a valid one: a client that runs for long needs new ones.
Token = str | Callable[[], str]


def current(token: Token) -> str:
    """Return the token to send now."""
    return token if isinstance(token, str) else token()
