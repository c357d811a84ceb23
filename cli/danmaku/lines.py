"""The lines of a danmaku file, whatever its format. Pure.

Owns the bounds of a line: what is skipped, what is cut, and what is clamped. The readers of the
formats call it for each danmaku that they find.
"""

import math
import re
from collections import Counter
from enum import Enum
from hashlib import blake2b
from typing import Final, NamedTuple

from liveroom.bodies import Danmaku, Mode
from liveroom.errors import ExplainedError
from liveroom.texts import is_visible

MAX_TEXT_CHARS: Final = 200
MAX_LINES: Final = 500_000
MIN_SIZE: Final = 12
MAX_SIZE: Final = 64
USUAL_SIZE: Final = 25
MAX_AT_S: Final = 48 * 3600.0

_SENDER: Final = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_MAX_COLOR: Final = 0xFFFFFF
# The modes of Bilibili, which other sites took over; 7 and up are scripts.
MODES: Final = {1: Mode.SCROLL, 2: Mode.SCROLL, 3: Mode.SCROLL, 4: Mode.BOTTOM, 5: Mode.TOP, 6: Mode.REVERSE}


class Flaw(Enum):
    """What is wrong with a line. CUT shortens it; all others skip it."""

    BROKEN = "broken"
    ATTRIBUTES = "attributes"
    MODE = "mode"
    EMPTY = "empty"
    CUT = "cut"


FLAWS: Final = {
    Flaw.BROKEN: "skipped, broken markup or bytes",
    Flaw.ATTRIBUTES: "skipped, unreadable attributes",
    Flaw.MODE: "skipped, scripts or unknown modes",
    Flaw.EMPTY: "skipped, empty or invisible",
    Flaw.CUT: f"cut to {MAX_TEXT_CHARS} characters",
}


class DanmakuFileError(ExplainedError):
    """A file that cannot be read as danmaku; the message says why."""


class Line(NamedTuple):
    """One danmaku: seconds into the video, the sender, and the body."""

    at_s: float
    user: str
    body: Danmaku


class DanmakuFile(NamedTuple):
    """The usable lines in order of their time, and what is wrong with the others.

    `is_cut_off`: the file ends in the middle; `lines` are those before its end.
    """

    lines: list[Line]
    flaws: Counter[Flaw]
    is_cut_off: bool = False

    @property
    def length_s(self) -> float:
        """The time of the last line, in seconds."""
        return self.lines[-1].at_s if self.lines else 0.0

    def remarks(self) -> list[str]:
        """Return what is wrong with the file, a sentence for each kind; empty where nothing is."""
        found = [f"{count:,} danmaku {FLAWS[flaw]}" for flaw, count in self.flaws.items()]
        if self.is_cut_off:
            found.append("the file is cut off: only what came before its end is used")
        return found


class Lines:
    """Collects the lines of a file and counts what is wrong with the others."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._flaws: Counter[Flaw] = Counter()
        self._seen = 0

    def add(self, at_s: float, mode: int, text: str, *, size: int = USUAL_SIZE, color: int = _MAX_COLOR, sender: str) -> None:
        """Take a danmaku, or count why it cannot be used.

        `at_s`: seconds into the video. `mode`: a number of Bilibili. `size`: in pixels. `color`:
        RGB. `sender`: whatever the file has in its place.
        """
        words = " ".join(text.split())
        if not math.isfinite(at_s) or at_s > MAX_AT_S:
            self.skip(Flaw.ATTRIBUTES)
        elif mode not in MODES:
            self.skip(Flaw.MODE)
        elif _is_broken(words):
            self.skip(Flaw.BROKEN)
        elif not is_visible(words[:MAX_TEXT_CHARS]):
            self.skip(Flaw.EMPTY)
        else:
            self._count()
            if len(words) > MAX_TEXT_CHARS:
                self._flaws[Flaw.CUT] += 1
            body = Danmaku(
                text=words[:MAX_TEXT_CHARS],
                color=min(max(color, 0), _MAX_COLOR),
                mode=MODES[mode],
                size=min(max(size, MIN_SIZE), MAX_SIZE),
            )
            self._lines.append(Line(max(0.0, at_s), user_of(sender), body))

    def skip(self, flaw: Flaw) -> None:
        """Count a danmaku that cannot be used."""
        self._count()
        self._flaws[flaw] += 1

    @property
    def seen(self) -> int:
        """The number of danmaku so far, also of those that cannot be used."""
        return self._seen

    def file(self, *, is_cut_off: bool = False) -> DanmakuFile:
        """Return what was collected."""
        return DanmakuFile(sorted(self._lines, key=lambda line: line.at_s), self._flaws, is_cut_off)

    def _count(self) -> None:
        self._seen += 1
        if self._seen > MAX_LINES:
            raise DanmakuFileError(f"it has more than {MAX_LINES:,} danmaku")


def user_of(sender: str) -> str:
    """Return a valid user id for a sender's hash, whatever the file has in its place."""
    if _SENDER.match(sender):
        return f"u{sender.lower()}"
    return f"u{blake2b(sender.encode(errors='replace'), digest_size=8).hexdigest()}"


def _is_broken(text: str) -> bool:
    """Return whether a text has half of a character: no request can carry it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
