"""User ids: the reversible rule from an identity service's text to the id of its user. Pure.

An identity service names a user by a text of 1 to 128 bytes of UTF-8: a number, an e-mail address,
auth0|5f7c8ec7. A text of 1 to 128 of `A-Z a-z 0-9 _ . : @ -` is its own user id, unless it is `.`
or `..`, which clients remove from the paths of URLs. The user id of any other text is `~` and the
base64url form of its UTF-8 bytes, without padding. So two texts never have the same user id, and a
user id contains no space, slash or quotation mark: it needs no escape in keys, paths and JSON.
Texts are not normalised: two that look alike may be two users.

Only a token's `sub` is such a text (`liveroom.tokens`). Everything else speaks user ids, which have
at most 172 characters. Records and requests accept all that could be one, up to 192 characters
(`USER_ID`): a later version of the rule fits into them, and a host can mute whoever can send.
"""

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

MAX_TEXT_BYTES: Final = 128
MAX_USER_ID_CHARS: Final = 192
PATTERN: Final = r"^~?[A-Za-z0-9_.:@-]{1,191}\Z"
NO_DOTS: Final = r"(?!\.{1,2}(?: |\Z))"  # not in PATTERN: not every reader of the schemas knows lookaheads
USER_ID: Final = re.compile(NO_DOTS + PATTERN)
_ESCAPE: Final = "~"
_IS_PLAIN: Final = re.compile(NO_DOTS + r"[A-Za-z0-9_.:@-]{1,128}\Z").match


class UserIdError(ValueError):
    """A text that has no user id, or a user id that stands for no text; the message explains it."""


def user_id(text: str) -> str:
    """Return the user id of an identity service's text.

    Raises UserIdError if the text is empty, has more than `MAX_TEXT_BYTES` bytes, or contains a
    lone surrogate, which UTF-8 cannot express.
    """
    if _IS_PLAIN(text):
        return text
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise UserIdError("the text of a user contains a lone surrogate") from None
    if not data:
        raise UserIdError("the text of a user is empty")
    if len(data) > MAX_TEXT_BYTES:
        raise UserIdError(f"the text of a user has {len(data)} bytes of UTF-8, at most {MAX_TEXT_BYTES} are allowed")
    return _ESCAPE + urlsafe_b64encode(data).rstrip(b"=").decode()


def user_text(user: str) -> str:
    """Return the identity service's text of a user id.

    Raises UserIdError if `user` is not what `user_id` returns for some text.
    """
    if _IS_PLAIN(user):
        return user
    text = _unescaped(user)
    if text is None or user_id(text) != user:
        raise UserIdError(why_not(user))
    return text


def check_user_id(user: str, at: str = "") -> str:
    """Return `user` if records accept it as a user id: it matches `USER_ID`.

    It need not stand for a text: a later version of the rule may have made it. Raises UserIdError
    otherwise; where `user` is an identity service's text, the message names its user id. `at` is
    the JSON path of `user` within its document, which the message ends with.
    """
    if not USER_ID.match(user):
        raise UserIdError(f"{why_not(user)} - at `{at}`" if at else why_not(user))
    return user


def shown_user(user: str) -> str:
    """Return how people see a user without a name: its text, or the id where it stands for none."""
    try:
        return user_text(user)
    except UserIdError:
        return user


def why_not(user: str) -> str:
    """Return why `user` is not a user id: it is not in the form that `user_id` returns."""
    text = _unescaped(user)
    try:
        if text is not None and (right := user_id(text)) != user:
            return f"{user!r} is not a user id: the user id of the text in it is {right}"
        return f"{user!r} is not a user id; as a text of an identity service, its user id is {user_id(user)}"
    except UserIdError as error:
        return f"not a user id: {error}"


def _unescaped(user: str) -> str | None:
    """Return the text that follows `~` in base64url, or None if there is none."""
    if not user.startswith(_ESCAPE) or not USER_ID.match(user):
        return None
    body = user[1:]
    try:
        text = urlsafe_b64decode(body + "=" * (-len(body) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return text or None
