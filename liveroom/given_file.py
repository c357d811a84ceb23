"""A file that somebody wrote for a program: a policy, a list of words or zones, a set of keys.

Owns the error of one that cannot be used: one line with the file, the line where that is known, and
the reason. It shows nothing of the content, which may be secret. Services and commands read through
it whatever an operator gives them.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from liveroom.texts import decode_lines

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
_AT_BYTE: Final = re.compile(r" ?\(byte (\d+)\)")
_AT_KEY: Final = re.compile(r"unknown field `(\w+)`|- at `\$[^`]*?(\w+)(?:\[[^]`]*])*`")
T = TypeVar("T")


class GivenFileError(ValueError):
    """A file that cannot be used; the message names it and says why."""


def read_given_file(path: Path, parse: Callable[[str], T]) -> T:
    """Return what `parse` makes of a file's text.

    `parse` refuses a text by ValueError. Raises GivenFileError, which names the file, for that, for
    a file beyond `MAX_FILE_BYTES`, and for one that is no text; OSError, which names it too, where
    it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise GivenFileError(f"{path} is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB")
    text = ""
    try:
        text = decode_lines(content)
        return parse(text)
    except RecursionError:
        raise GivenFileError(f"{path}: it nests too deep") from None
    except ValueError as error:
        raise GivenFileError(f"{path}: {_with_line(str(error), text)}") from None


def _with_line(reason: str, text: str) -> str:
    """Return a reason in one line, with the line of the text where the reason gives a place.

    The place is a byte, or the name of a key that one line alone has.
    """
    reason = " ".join(reason.split())
    if (found := _AT_BYTE.search(reason)) is not None:
        line = text.encode()[: int(found[1])].count(b"\n") + 1
        return f"line {line}: {_AT_BYTE.sub('', reason)}"
    if (found := _AT_KEY.search(reason)) is not None:
        begins = re.compile(rf"""["']?{re.escape(found[1] or found[2])}["']?\s*[=:]""")
        lines = [number for number, line in enumerate(text.split("\n"), 1) if begins.match(line.lstrip())]
        if len(lines) == 1:
            return f"line {lines[0]}: {reason}"
    return reason
