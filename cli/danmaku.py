"""Danmaku files in Bilibili's XML format, parsed for ingress. Pure but for `read_file`.

Owns the parsing of `<d p="seconds,mode,size,colour,unix time,pool,sender,id">text</d>`. The file is
not trusted: a document type and entities are refused, and its size is limited. A line that cannot
be used is skipped and counted by reason. `replay` and the demo call it.
"""

import math
import re
from collections import Counter
from enum import Enum
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple, NoReturn
from xml.parsers import expat

from liveroom.bodies import Danmaku, Mode
from liveroom.errors import ExplainedError

FILE: Final = "danmaku-130614.xml"
MAX_FILE_BYTES: Final = 64 * 1024 * 1024
MAX_TEXT_CHARS: Final = 200
MIN_SIZE: Final = 12
MAX_SIZE: Final = 64
MAX_AT_S: Final = 48 * 3600.0

_FIELDS: Final = 7  # up to the sender; the id and what newer files add behind it are not needed
_MODES: Final = {1: Mode.SCROLL, 2: Mode.SCROLL, 3: Mode.SCROLL, 4: Mode.BOTTOM, 5: Mode.TOP, 6: Mode.REVERSE}
_NOT_XML: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # real files hold such bytes; XML 1.0 forbids them
_SENDER: Final = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_MAX_COLOR: Final = 0xFFFFFF


class Flaw(Enum):
    """What is wrong with a line. CUT shortens it; all others skip it."""

    ATTRIBUTES = "attributes"
    MODE = "mode"
    EMPTY = "empty"
    CUT = "cut"


class DanmakuFileError(ExplainedError):
    """A file that is not in this format; the message says why."""


class Line(NamedTuple):
    """One danmaku: seconds into the video, the sender, and the body."""

    at_s: float
    user: str
    body: Danmaku


class DanmakuFile(NamedTuple):
    """The usable lines in order of their time, and what is wrong with the others."""

    lines: list[Line]
    flaws: Counter[Flaw]

    @property
    def length_s(self) -> float:
        """The time of the last line, in seconds."""
        return self.lines[-1].at_s if self.lines else 0.0


def default_file() -> Path:
    """Return the danmaku file that comes with liveroom; raise DanmakuFileError where it is missing.

    In a wheel it lies beside this module, in a checkout among the tests.
    """
    places = (Path(__file__).with_name("data") / FILE, Path(__file__).parents[1] / "tests" / "data" / FILE)
    for path in places:
        if path.is_file():
            return path
    raise DanmakuFileError(f"{FILE} is missing ({places[0]}); name another file with --file")


def read_file(path: Path) -> DanmakuFile:
    """Read and parse a file; raise DanmakuFileError where that is not possible."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DanmakuFileError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_FILE_BYTES:
        raise DanmakuFileError(f"{path} is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB")
    try:
        return parse(content)
    except DanmakuFileError as error:
        raise DanmakuFileError(f"{path}: {error}") from None


def parse(content: bytes) -> DanmakuFile:
    """Parse a file's bytes; raise DanmakuFileError where they are not in this format."""
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.EntityDeclHandler = _refuse_doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(_NOT_XML.sub(b" ", content), True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # ValueError, LookupError: a declared encoding that is none
        raise DanmakuFileError(f"not XML: {error}") from None
    if reader.root != "i":
        raise DanmakuFileError(f"not a danmaku file: the root element is <{reader.root}>, not <i>")
    reader.lines.sort(key=lambda line: line.at_s)
    return DanmakuFile(reader.lines, reader.flaws)


def _refuse_doctype(*_: object) -> NoReturn:
    raise DanmakuFileError("it declares a document type, which danmaku files do not have; entities are refused")


class _Reader:
    """Takes expat's events."""

    def __init__(self) -> None:
        self.root = ""
        self.lines: list[Line] = []
        self.flaws: Counter[Flaw] = Counter()
        self._depth = 0
        self._attributes: str | None = None
        self._text: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
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
            line = self._line(self._attributes, "".join(self._text))
            self._attributes = None
            if isinstance(line, Line):
                self.lines.append(line)
            else:
                self.flaws[line] += 1

    def _line(self, attributes: str, text: str) -> Line | Flaw:
        fields = attributes.split(",")
        if len(fields) < _FIELDS:
            return Flaw.ATTRIBUTES
        try:
            at_s, mode, size, color = float(fields[0]), int(fields[1]), int(fields[2]), int(fields[3])
        except ValueError:
            return Flaw.ATTRIBUTES
        if not math.isfinite(at_s) or at_s > MAX_AT_S:
            return Flaw.ATTRIBUTES
        if mode not in _MODES:
            return Flaw.MODE  # 7 and up are scripts
        words = " ".join(text.split())
        if not words:
            return Flaw.EMPTY
        if len(words) > MAX_TEXT_CHARS:
            self.flaws[Flaw.CUT] += 1
        body = Danmaku(
            text=words[:MAX_TEXT_CHARS],
            color=min(max(color, 0), _MAX_COLOR),
            mode=_MODES[mode],
            size=min(max(size, MIN_SIZE), MAX_SIZE),
        )
        return Line(max(0.0, at_s), user_of(fields[6]), body)


def user_of(sender: str) -> str:
    """Return a valid user id for a sender's hash, whatever the file has in its place."""
    if _SENDER.match(sender):
        return f"u{sender.lower()}"
    return f"u{blake2b(sender.encode(errors='replace'), digest_size=8).hexdigest()}"
