"""Danmaku in JSON, as programs export them: an array, an object with arrays, or one a line. Pure.

Owns three layouts of one danmaku: that of Bilibili's segments (`progress`, `content`), and two with
the text in `m` and the rest in a list, `p` (seconds, mode, colour, sender) or `c` (seconds, colour,
mode, size, sender). An object of any kind begins with a brace and a key, which no string can hold,
so each is decoded by itself: a broken one costs itself only, and a file that is cut off is read up
to its end.
"""

import json
import re
from array import array
from collections.abc import Iterator
from typing import Any, Final

from cli.danmaku.lines import USUAL_SIZE, DanmakuFile, DanmakuFileError, Flaw, Lines

_BEGIN: Final = re.compile(r'\{\s*+"\w[\w.-]{0,63}"\s*+:')  # within a string a quotation mark has a backslash before it
_OF_DPLAYER: Final = re.compile(r'\[\s{0,8}\d+(?:\.\d+)?\s{0,8},\s{0,8}\d\s{0,8},\s{0,8}\d+\s{0,8},\s{0,8}"')
_LOOKED_AT_CHARS: Final = 4096
_MARKS: Final = ('"content"', '"m"')
_OF_A_SEGMENT: Final = {"progress", "mode", "fontsize", "color", "midHash"}
_MOST_WITHIN: Final = 16  # objects within one danmaku, itself too; a bound on the time that a broken file takes


def read_json(text: str) -> DanmakuFile:
    """Read a file's text; raise DanmakuFileError where no danmaku is found in it."""
    lines = Lines()
    for value in _objects(text, lines):
        _add_all(lines, value)
    if not lines.seen:
        is_dplayer = _OF_DPLAYER.search(text, 0, _LOOKED_AT_CHARS) is not None
        what = "an export of DPlayer, which cannot be read" if is_dplayer else "JSON in no layout of danmaku that can be read"
        raise DanmakuFileError(f"it is {what}; readable are objects with progress and content, or with p (or c) and m")
    return lines.file(is_cut_off=text.rstrip()[-1:] not in {"}", "]"})


def _objects(text: str, lines: Lines) -> Iterator[Any]:
    """Yield each object that can be decoded, with those that it holds; count broken danmaku."""
    decode = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
    begins = array("Q", (found.start() for found in _BEGIN.finditer(text)))
    size, end = len(begins), 0
    for place, begin in enumerate(begins):
        if begin < end:
            continue  # it stands in an object that was decoded
        last = place + _MOST_WITHIN
        try:
            value, length = decode(text[begin : begins[last] if last < size else len(text)])
        except (ValueError, RecursionError):
            end = begin
        else:
            end = begin + length
            yield value
        after = place + 1
        while after < size and begins[after] < end:
            after += 1
        rest = text[end : begins[after] if after < size else len(text)]
        if any(mark in rest for mark in _MARKS):
            lines.skip(Flaw.BROKEN)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _add_all(lines: Lines, value: Any) -> None:
    """Add every danmaku in an object; it may hold them in arrays and further objects."""
    held = [value]
    while held:
        match held.pop():
            case list(each):
                held += reversed(each)
            case dict(found) if _is_danmaku(found):
                _add(lines, found)
            case dict(found):
                held += reversed(found.values())


def _is_danmaku(found: dict[str, Any]) -> bool:
    if "m" in found:
        return "p" in found or "c" in found
    if "content" not in found:
        return False
    return bool(_OF_A_SEGMENT & found.keys()) or not any(isinstance(each, dict | list) for each in found.values())


def _add(lines: Lines, found: dict[str, Any]) -> None:
    """Add one danmaku. Protobuf's exports leave out what is 0."""
    size, color, sender = USUAL_SIZE, 0xFFFFFF, ""
    try:
        match found:
            case {"m": str(text), "p": str(places)}:
                at, of_mode, of_color, sender = places.split(",")[:4]
                at_s, mode, color = float(at), int(of_mode), int(of_color)
            case {"m": str(text), "c": str(places)}:
                at, of_color, of_mode, of_size, sender = places.split(",")[:5]
                at_s, mode, color, size = float(at), int(of_mode), int(of_color), int(of_size)
            case {"content": str(text)}:
                at_s, mode, color = (
                    float(found.get("progress", 0)) / 1000,
                    int(found.get("mode", 1)),
                    int(found.get("color", color)),
                )
                size, sender = int(found.get("fontsize", size)), str(found.get("midHash", sender))
            case _:
                lines.skip(Flaw.ATTRIBUTES)
                return
    except (ValueError, TypeError, OverflowError):
        lines.skip(Flaw.ATTRIBUTES)
    else:
        lines.add(at_s, mode, text, size=size, color=color, sender=sender)
