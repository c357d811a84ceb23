"""Danmaku in Bilibili's XML format, which recorders and other sites write too. Pure.

Owns the parsing of `<d p="...">text</d>` and the two orders of the fields in `p`. A file is parsed
as a whole. Where that fails, each `<d>` is parsed by itself, so that a broken one costs itself
only. The file is not trusted: a document type and entities are refused, and its depth is limited.
"""

import re
from typing import Final, NoReturn
from xml.parsers import expat

from cli.danmaku.lines import MAX_AT_S, DanmakuFile, DanmakuFileError, Flaw, Lines

_FIELDS: Final = 7  # that a line needs in both orders; newer files add some behind them
_MAX_DEPTH: Final = 32
_MODE_FIELD: Final = re.compile(r"[1-9]\Z")
_PART_CHARS: Final = 65_536  # expat goes on to the end of what it has when a handler raises
# Real files hold such characters; XML 1.0 forbids them.
_NOT_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_BEGINS: Final = re.compile(r"<d(?=[\s/>])")
_END: Final = "</d>"
_ROOT_END: Final = "</i>"
_NICONICO: Final = {"packet", "chat", "thread"}


def read_xml(text: str) -> DanmakuFile:
    """Read a file's text; raise DanmakuFileError where it is no such file."""
    text = _NOT_XML.sub(" ", text.lstrip())
    reader = _Reader(Lines())
    try:
        _parse(text, reader)
    except (expat.ExpatError, ValueError) as error:  # ValueError: a BAD_BYTE, or too deep
        begins = [found.start() for found in _BEGINS.finditer(text)]
        if reader.root not in {"", "i"} or not begins:
            raise DanmakuFileError(_other(reader.root) or f"it is not XML: {error}") from None
        return _read_each(text, begins)
    if reader.root != "i":
        raise DanmakuFileError(_other(reader.root))
    return reader.lines.file()


def _other(root: str) -> str:
    """Return why a file with another root element cannot be read; empty for a danmaku file's."""
    if root in {"", "i"}:
        return ""
    if root in _NICONICO:
        return f"it is a comment file of Niconico (<{root}>), which cannot be read; convert it to Bilibili's XML"
    return f"it is not a danmaku file: the root element is <{root}>, not <i>"


def _read_each(text: str, begins: list[int]) -> DanmakuFile:
    """Read every `<d>` of a broken file by itself."""
    lines = Lines()
    for begin, next_begin in zip(begins, [*begins[1:], len(text)], strict=True):
        end = text.find(_END, begin, next_begin)
        element = text[begin : end + len(_END)] if end >= 0 else text[begin:next_begin]
        seen = lines.seen
        try:
            _parse(f"<i>{element}</i>", _Reader(lines))
        except (expat.ExpatError, ValueError):
            if lines.seen == seen:
                lines.skip(Flaw.BROKEN)
    return lines.file(is_cut_off=_ROOT_END not in text[begins[-1] :])


def _parse(text: str, reader: "_Reader") -> None:
    """Parse XML; raise ExpatError or ValueError where it is none."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.EntityDeclHandler = _refuse_doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    for begin in range(0, len(text), _PART_CHARS):
        parser.Parse(text[begin : begin + _PART_CHARS], False)
    parser.Parse("", True)


def _refuse_doctype(*_: object) -> NoReturn:
    raise DanmakuFileError("it declares a document type, which danmaku files do not have; entities are refused")


class _Reader:
    """Takes expat's events."""

    def __init__(self, lines: Lines) -> None:
        self.root = ""
        self.lines = lines
        self._depth = 0
        self._attributes: str | None = None
        self._text: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError(f"elements nest deeper than {_MAX_DEPTH}")
        if self._depth == 1:
            self.root = name
        elif self._depth == 2 and name == "d":  # noqa: PLR2004 - a child of the root
            self._attributes = attributes.get("p", "")
            self._text = []

    def text(self, data: str) -> None:
        if self._attributes is not None and self._depth == 2:  # noqa: PLR2004 - a child of the root
            self._text.append(data)

    def end(self, _: str) -> None:
        self._depth -= 1
        if self._depth == 1 and self._attributes is not None:
            _add(self.lines, self._attributes, "".join(self._text))
            self._attributes = None


def _add(lines: Lines, attributes: str, text: str) -> None:
    """Add one danmaku.

    The fields of the usual order are: seconds, mode, size, colour, Unix time, pool, sender, id.
    Those of the other order are: id, attributes, milliseconds, mode, size, colour, Unix time,
    sender.
    """
    fields = [field.strip() for field in attributes.split(",")]
    if len(fields) < _FIELDS:
        lines.skip(Flaw.ATTRIBUTES)
        return
    try:
        if _is_other_order(fields):
            at_s, (mode, size, color), sender = float(fields[2]) / 1000, fields[3:6], ",".join(fields[7:8]) or fields[0]
        else:
            at_s, (mode, size, color), sender = float(fields[0]), fields[1:4], fields[6]
        lines.add(at_s, int(mode), text, size=int(size), color=int(color), sender=sender)
    except ValueError:
        lines.skip(Flaw.ATTRIBUTES)


def _is_other_order(fields: list[str]) -> bool:
    """Return whether an id comes first: no such time, or no mode, stands in the usual places."""
    if not fields[0].isdecimal() or not fields[2].isdecimal() or not _MODE_FIELD.match(fields[3]):
        return False
    return float(fields[0]) > MAX_AT_S or not _MODE_FIELD.match(fields[1])
