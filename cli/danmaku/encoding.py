"""The encoding of a file that somebody else wrote, found out from its bytes. Pure.

A declaration within the file is often wrong: programs convert files and leave it as it was. So
UTF-8 and UTF-16 are told by their bytes, and a declaration counts only where neither fits.
"""

import codecs
import re
from typing import Final

BAD_BYTE: Final = "\udcff"  # in the place of a byte that has no character; no text can have it
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE_BYTES: Final = 4096
_DECLARED: Final = re.compile(rb"""\A\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
# What a file declares counts if it is declarable: some of Python's codecs take quadratic time.
_DECLARABLE: Final = {"big5", "cp949", "euc_jp", "euc_kr", "gb18030", "gb2312", "gbk", "shift_jis"}
_PIECES: Final = re.compile(rb"[^\n<]+")  # between line breaks and tags
_MOST_PIECES: Final = 1000


def _mark_bad_bytes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return BAD_BYTE, error.end


codecs.register_error("liveroom.bad-bytes", _mark_bad_bytes)


def decode(content: bytes) -> str:
    """Return the text of a file, without a byte order mark.

    Bytes that have no character in the file's encoding become BAD_BYTE.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _decode(content[len(mark) :], encoding)
    if (found := _utf16(content)) is not None:
        return _decode(content, found)
    try:
        return content.decode()
    except UnicodeDecodeError:
        pass
    return _decode(content, "utf-8" if _is_mostly_utf8(content) else _declared(content) or "gb18030")


def _decode(content: bytes, encoding: str) -> str:
    return content.decode(encoding, "liveroom.bad-bytes")


def _utf16(content: bytes) -> str | None:
    """Return UTF-16 with its order where every other byte of markup and digits is NUL."""
    sample = content[:_SAMPLE_BYTES]
    first, second = sample[::2].count(0), sample[1::2].count(0)
    least = len(sample) // 10
    if second > least and second > 8 * first:
        return "utf-16-le"
    if first > least and first > 8 * second:
        return "utf-16-be"
    return None


def _is_mostly_utf8(content: bytes) -> bool:
    """Return whether most pieces of a text are UTF-8.

    Then the others are damaged. Chinese in GBK is almost never UTF-8 by chance.
    """
    good = bad = 0
    for piece in _PIECES.finditer(content):
        if piece[0].isascii():
            continue
        try:
            piece[0].decode()
        except UnicodeDecodeError as error:
            is_cut_off = piece.end() == len(content) and error.end == len(piece[0])
            good, bad = good + is_cut_off, bad + (not is_cut_off)
        else:
            good += 1
        if good + bad == _MOST_PIECES:
            break
    return good >= bad


def _declared(content: bytes) -> str | None:
    """Return the declared encoding where the whole file can be read in it."""
    found = _DECLARED.match(content)
    if found is None:
        return None
    try:
        encoding = codecs.lookup(found[1].decode("ascii")).name
        if encoding.replace("-", "_") not in _DECLARABLE:
            return None
        content.decode(encoding)
    except (LookupError, UnicodeDecodeError):
        return None
    return encoding
