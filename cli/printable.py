"""What others write, as a terminal may print it: texts, numbers, JSON. Pure."""

import json
import re
from typing import Any, Final

from liveroom.money import price_text
from liveroom.texts import is_visible, isolated, shown
from liveroom.users import shown_user
from liveroom.wire import MAX_EXACT

# `_ESCAPED`: what some readers take for the end of a line, and what moves a cursor or turns texts.
_ESCAPED: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return `text` without what would move the cursor (`liveroom.texts.shown`).

    Pass it the text of others alone: what isolates such a text within a line is replaced too.
    """
    return isolated(shown(text))


def printable_user(user: str, name: str = "") -> str:
    """Return how a terminal shows a user: by name, or without one by the text of the user id."""
    return printable(name) if is_visible(name) else isolated(shown(shown_user(user), joins=False))


def text_in(body: dict[str, Any], name: str) -> str:
    """Return a text of a body; empty where it is missing or something else."""
    value = body.get(name)
    return value if isinstance(value, str) else ""


def count_in(body: dict[str, Any], name: str) -> int:
    """Return a count of a body: a whole number from 1 on; 1 where it is missing or something else.

    Services that write the topic `uplink` themselves put anything there.
    """
    value = body.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return 1
    return int(value) if 1 <= value <= MAX_EXACT and value == int(value) else 1  # NaN is not in between


def price_in(body: dict[str, Any]) -> str:
    """Return the price in a body with its currency; empty where there is none."""
    price = body.get("price")
    if not isinstance(price, int | float) or isinstance(price, bool) or not 0 < price <= MAX_EXACT or price != int(price):
        return ""
    return price_text(int(price), printable(text_in(body, "currency")))


def plain(value: Any) -> str:
    """Return JSON as `repr` writes it, but with all characters as they are.

    `repr` escapes the joiners of words and emoji, and what is newer than this Python.
    """
    match value:
        case str():
            escaped = value.replace("\\", r"\\").replace("'", r"\'")
            return f"'{escaped}'"
        case dict():
            return "{" + ", ".join(f"{plain(name)}: {plain(held)}" for name, held in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(plain, value)) + "]"
        case _:
            return repr(value)


def json_line(text: str, encoding: str) -> str:
    """Return JSON as one line for every reader and terminal.

    What `encoding` lacks, ends of lines, controls and what turns the direction are escaped.
    """
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(one if one.isascii() else json.dumps(one)[1:-1] for one in text)
    return _ESCAPED.sub(lambda found: json.dumps(found[0])[1:-1], text)
