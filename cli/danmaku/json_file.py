"""Danmaku in JSON, as programs export them: an array, an object with arrays, or one a line. Pure.

Owns three layouts of one danmaku: that of Bilibili's segments (`progress`, `content`), and two with
the text in `m` and the rest in a list, `p` (seconds, mode, colour, sender) or `c` (seconds, colour,
mode, size, sender). It looks for the objects that hold no others and decodes each by itself, so
that a broken one costs itself only, and a file that is cut off is read up to its end.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from cli.danmaku.lines import USUAL_SIZE, DanmakuFile, DanmakuFileError, Flaw, Lines
from liveroom.nesting import UNDECODABLE

# A token is a string or a brace. A string that never ends is a token up to the end of its line.
_TOKEN: Final = re.compile(r'"(?:[^"\\\n]++|\\[^\n]?)*+"?|[{}]')
_MARKS: Final = ('"content"', '"m"')


def read_json(text: str) -> DanmakuFile:
    """Read a file's text; raise DanmakuFileError where no danmaku is found in it."""
    lines = Lines()
    for part in _innermost(text):
        try:
            found = msgspec.json.decode(part)
        except UNDECODABLE:
            if any(mark in part for mark in _MARKS):
                lines.skip(Flaw.BROKEN)
        else:
            _add(lines, found)
    if not lines.seen:
        raise DanmakuFileError(
            "it is JSON in no layout of danmaku that can be read: objects with progress and content, or with p (or c) and m"
        )
    return lines.file(is_cut_off=text.rstrip()[-1:] not in {"}", "]"})


def _innermost(text: str) -> Iterator[str]:
    """Yield the objects that hold no other object."""
    begin: int | None = None
    for token in _TOKEN.finditer(text):
        if token[0] == "{":
            begin = token.start()
        elif token[0] == "}" and begin is not None:
            yield text[begin : token.end()]
            begin = None


def _add(lines: Lines, found: dict[str, Any]) -> None:
    """Add one danmaku; an object of any other kind is passed over."""
    size, color, sender = USUAL_SIZE, 0xFFFFFF, ""
    try:
        match found:
            case {"content": str(text), "progress": progress}:
                at_s, mode, color = float(progress) / 1000, int(found.get("mode", 1)), int(found.get("color", color))
                size, sender = int(found.get("fontsize", size)), str(found.get("midHash", sender))
            case {"m": str(text), "p": str(places)}:
                at, of_mode, of_color, sender = places.split(",")[:4]
                at_s, mode, color = float(at), int(of_mode), int(of_color)
            case {"m": str(text), "c": str(places)}:
                at, of_color, of_mode, of_size, sender = places.split(",")[:5]
                at_s, mode, color, size = float(at), int(of_mode), int(of_color), int(of_size)
            case _:
                return
    except (ValueError, TypeError, OverflowError):
        lines.skip(Flaw.ATTRIBUTES)
    else:
        lines.add(at_s, mode, text, size=size, color=color, sender=sender)
