"""Texts that people write and read: whether one shows anything, and files of them. Pure.

Unicode has more blanks than white space: characters that no font draws, fillers that are letters by
their category, marks without a letter to stand on. `viewer/web/texts.js` follows the same rule.
"""

import re
import unicodedata
from typing import Final

# Blanks: what Unicode names Default Ignorable, and characters that have a glyph without ink.
BLANKS: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc\U00013441\U00013442\U00016fe4\U0001bca0-\U0001bca3"
    "\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
NONCHARACTERS: Final = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
JOINERS: Final = "\u200c\u200d"  # words of Persian and Indic scripts need them, and emoji of several people
# Kept: joiners, marks of direction (they turn nothing but signs beside them), and what stands in
# words or between them: the space of no width of Khmer, Thai and Burmese, the separator of
# Mongolian, the soft hyphen and the word joiner.
_KEPT: Final = JOINERS + "\u200e\u200f\u061c" + "\u200b\u180e\u00ad\u2060"
# A flag of a region: a black flag, what it stands for in tags, and the tag that ends it.
_FLAGS: Final = re.compile("(\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,8}\U000e007f)").split
# Turns: blocks of scripts from right to left, and marks of that direction.
_TURNS: Final = re.compile("[\u0590-\u08ff\u200f\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00010fff\U0001e800-\U0001efff]").search
# Inked: format characters that a font draws; they stand under or around the digits that follow.
_INKED: Final = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
_OBVIOUS: Final = re.compile(r"[!-~\u4e00-\u9fff\u3041-\u3096]").search
_BLANK: Final = re.compile(f"[{BLANKS}{NONCHARACTERS}]").match
_UTF_8_MARK: Final = b"\xef\xbb\xbf"
_UTF_16_MARKS: Final = b"\xff\xfe", b"\xfe\xff"
_SEEN_IN: Final = "LNPS"  # letters, numbers, punctuation, symbols


def is_blank(char: str) -> bool:
    """Return whether a character alone shows nothing: white space, a control, a mark, a filler.

    A character that is not assigned yet shows: an emoji may be newer than this Python.
    """
    if _BLANK(char):
        return True
    category = unicodedata.category(char)
    return category[0] not in _SEEN_IN and category not in {"Cn", "Co"} and char not in _INKED


def is_filler(char: str) -> bool:
    """Return whether a character is one that no font draws, whatever its category says."""
    return _BLANK(char) is not None


def joined_away(text: str) -> str:
    """Return a text without joiners and characters that this Python does not know yet.

    What is left of it is printable in the sense of `str.isprintable` where the text is.
    """
    return "".join(char for char in text if char not in JOINERS and (unicodedata.category(char) != "Cn" or _BLANK(char)))


def is_visible(text: str) -> bool:
    """Return whether a text shows anything to a person."""
    return _OBVIOUS(text) is not None or not all(map(is_blank, text))


def visible_or_empty(text: str) -> str:
    """Return a text, or the empty text in place of one that shows nothing."""
    return text if is_visible(text) else ""


def shown(text: str, *, joins: bool = True) -> str:
    """Return a text of others as a terminal or a page may show it among texts of its own.

    Controls, and format characters that turn the direction or that nobody sees, are replaced.
    Joiners, breaks within words, marks of direction and the tags of flags stay, for words and emoji
    need them; `joins` False replaces these too. A character that is newer than this Python stays.
    """
    if text.isprintable():
        return text
    parts = _FLAGS(text) if joins else [text]
    for place in range(0, len(parts), 2):  # between them are flags
        parts[place] = "".join(char if _is_shown(char, joins=joins) else "\N{REPLACEMENT CHARACTER}" for char in parts[place])
    return "".join(parts)


def _is_shown(char: str, *, joins: bool) -> bool:
    if char.isprintable() or char in _INKED:
        return True
    if joins and char in _KEPT:
        return True
    category = unicodedata.category(char)
    return category == "Zs" or (category == "Cn" and not _BLANK(char))


def isolated(text: str) -> str:
    """Return a text so that its direction does not turn what stands beside it.

    The text must be as `shown` returns it. Where nothing in it is written from right to left it is
    returned as it is.
    """
    return f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}" if _TURNS(text) else text


def without_mark(data: bytes | str) -> bytes | str:
    """Return a file's content without the byte order mark of UTF-8, which some editors write."""
    return data.removeprefix(_UTF_8_MARK) if isinstance(data, bytes) else data.removeprefix("\ufeff")


def decode_lines(data: bytes) -> str:
    """Return the text of a file that a person wrote: UTF-8, with a byte order mark or without.

    The byte order mark of UTF-16 is also understood: some editors save so. Raises ValueError where
    the file has another encoding.
    """
    encoding = "utf-16" if data.startswith(_UTF_16_MARKS) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"not UTF-8: {error.reason} in line {line}, at byte {error.start}") from None
