"""Words that rooms do not take: finding them in spite of the usual tricks, and what to do then.
Pure.

Owns the library (word -> refuse, mask, count) and the normal form in which text and words are
compared: NFKC, case, traditional to simplified Chinese, look-alike letters, marks, and everything
between letters is taken away. A word of Latin letters is found as a whole word only ("ass" is not
in "class"), with `*` before or behind it also inside longer ones. The search is Aho-Corasick
(ahocorasick-rs). Called for every danmaku.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import cache
from typing import Final, NamedTuple

from ahocorasick_rs import AhoCorasick, MatchKind
from opencc import OpenCC

from liveroom.moderation import EVERYWHERE

MAX_WORD_CHARS: Final = 64
MASK: Final = "*"
_MAX_LETTERS: Final = 65_536
_INNER: Final = "*"
_SKIPPED: Final = frozenset(
    {
        "Cc",
        "Cf",
        "Cn",
        "Co",
        "Lm",
        "Mn",
        "Me",
        "Pc",
        "Pd",
        "Pe",
        "Pf",
        "Pi",
        "Po",
        "Ps",
        "Sc",
        "Sk",
        "Sm",
        "So",
        "Zl",
        "Zp",
        "Zs",
    }
)
# Look-alikes: letters of other alphabets, and signs, that are read as Latin ones, after NFKC and
# case folding.
_ALIKE: Final = dict(
    zip(
        "аеорсухквмнтіјѕһԁԛԝɡɩοαευρτικνχωʏ@$",
        "aeopcyxkbmhtijshdqwgioaeuptiknxwyas",
        strict=True,
    )
)


class WordAction(Enum):
    """What is done with a text that has the word: refuse it, mask the word, or only count it
    against the user.
    """

    REFUSE = "refuse"
    MASK = "mask"
    COUNT = "count"


class LibraryError(ValueError):
    """A line of a library that cannot be used; the message says which and why."""


class WordVerdict(NamedTuple):
    """What the words in a text come to. `text`: as it may go on. `words`: those found."""

    action: WordAction
    text: str
    words: tuple[str, ...]


class _LibraryWord(NamedTuple):
    """A word as it is searched: in its normal form, whether it must begin and end as a word."""

    word: str
    action: WordAction
    is_bound_left: bool
    is_bound_right: bool


_SEVERITY: Final = (WordAction.REFUSE, WordAction.MASK, WordAction.COUNT)
_LATIN: Final = re.compile(r"[a-z0-9]+\Z")


@cache
def _converter() -> OpenCC:
    return OpenCC("t2s")


class _Letters(dict[int, str]):
    """What each character stands for in the normal form: often one letter, nothing, or several.

    For `str.translate`.
    """

    def __missing__(self, code: int) -> str:
        folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", chr(code)).casefold())
        letter = "".join(
            _ALIKE.get(part, part) for part in folded if part in _ALIKE or unicodedata.category(part) not in _SKIPPED
        )
        if not letter.isascii():
            letter = _converter().convert(letter)
        if len(self) < _MAX_LETTERS:
            self[code] = letter
        return letter


_LETTERS: Final = _Letters()


def normal(text: str) -> str:
    """Return the normal form of a text."""
    return text.translate(_LETTERS)


def _origins(text: str) -> list[int]:
    """Return of each character of the normal form the place in the text it came from."""
    return [place for place, char in enumerate(text) for _ in _LETTERS[ord(char)]]


def read_library(text: str) -> dict[str, WordAction]:
    """Return the words of a library file: a line each, `action word`; `#` begins a comment, empty
    lines count for nothing.
    """
    words: dict[str, WordAction] = {}
    for number, line in enumerate(text.splitlines(), 1):
        action, _, word = line.partition("#")[0].strip().partition(" ")
        if not action:
            continue
        try:
            words[check_word(word.strip())] = WordAction(action)
        except ValueError as error:
            raise LibraryError(f"line {number}: {error}") from None
    return words


def check_word(word: str) -> str:
    """Return a word that can be searched for, or raise LibraryError."""
    if not 1 <= len(word) <= MAX_WORD_CHARS:
        raise LibraryError(f"a word has 1 to {MAX_WORD_CHARS} characters")
    if not word.isprintable():
        raise LibraryError(f"{word!r} has characters that nobody sees")
    if not normal(word.strip(_INNER)):
        raise LibraryError(f"{word!r} has no letter")
    return word


class WordLibrary:
    """Words that can be searched for all at once."""

    def __init__(self, words: Mapping[str, WordAction]) -> None:
        self._entries: list[_LibraryWord] = []
        patterns: list[str] = []
        for word, action in words.items():
            bare = word.strip(_INNER)
            pattern = normal(bare)
            is_latin = _LATIN.match(pattern) is not None
            bound = is_latin and not word.startswith(_INNER), is_latin and not word.endswith(_INNER)
            self._entries.append(_LibraryWord(word, action, *bound))
            patterns.append(pattern)
        self._search = AhoCorasick(patterns, matchkind=MatchKind.Standard) if patterns else None

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, text: str) -> Sequence[tuple[int, int, int]]:
        """Return the words found in a text in normal form: (word, begin, end).

        Whether they stand alone there is not looked at.
        """
        return self._search.find_matches_as_indexes(text, overlapping=True) if self._search is not None else ()

    def confirm(self, found: tuple[int, int, int], text: str, origins: Sequence[int]) -> tuple[_LibraryWord, int, int] | None:
        """Return a word that was found, and where it begins and ends in `text`; None where it is a
        part of another word.
        """
        number, start, stop = found
        entry = self._entries[number]
        begin, end = origins[start], origins[stop - 1] + 1
        if entry.is_bound_left and begin > 0 and _is_latin(text[begin - 1]):
            return None
        if entry.is_bound_right and end < len(text) and _is_latin(text[end]):
            return None
        return entry, begin, end


def _is_latin(char: str) -> bool:
    return _LATIN.match(_LETTERS[ord(char)]) is not None


_ACTIONS: Final = frozenset(action.value for action in WordAction)


def usable(rules: Mapping[str, str]) -> dict[str, WordAction]:
    """Return the words among rules that can be searched for: others than an ingress may write rules
    too.
    """
    words: dict[str, WordAction] = {}
    for word, action in rules.items():
        with suppress(LibraryError):
            if action in _ACTIONS:
                words[check_word(word)] = WordAction(action)
    return words


def _verdict(text: str, form: str, libraries: Iterable[WordLibrary]) -> WordVerdict | None:
    """Say what the words in a text come to; None: all that were found in its normal form are parts
    of other words.
    """
    origins = _origins(text)
    found = [
        word
        for library in libraries
        for match in library.find(form)
        if (word := library.confirm(match, text, origins)) is not None
    ]
    if not found:
        return None
    action = min((entry.action for entry, _, _ in found), key=_SEVERITY.index)
    masked = list(text)
    for entry, begin, end in found:
        if entry.action is not WordAction.COUNT:
            masked[begin:end] = MASK * (end - begin)
    return WordVerdict(action, "".join(masked), tuple(dict.fromkeys(entry.word for entry, _, _ in found)))


class WordLibraries:
    """All libraries of an ingress: of the files, of operators for all rooms, of hosts for theirs.

    `rules`: words by room, and "*".
    """

    def __init__(self, rules: Mapping[str, Mapping[str, str]]) -> None:
        self._rules = rules
        self._files: tuple[WordLibrary, ...] = ()
        self._set: dict[str, WordLibrary] = {}

    def use_files(self, files: WordLibrary) -> None:
        """Take what the files hold."""
        self._files = (files,)

    def changed(self, room: str) -> None:
        """Words of this room (or "*") have changed: make its library anew when it is needed."""
        self._set.pop(room, None)

    def judge(self, room: str, text: str) -> WordVerdict | None:
        """Say what the words in a text come to in this room; None: it has none."""
        libraries = self._files if not self._rules else self._of(room)
        form = text.translate(_LETTERS)
        for library in libraries:
            if library.find(form):
                return _verdict(text, form, libraries)
        return None

    def _of(self, room: str) -> tuple[WordLibrary, ...]:
        return *self._files, *(self._library(name) for name in (EVERYWHERE, room) if name in self._rules)

    def _library(self, room: str) -> WordLibrary:
        library = self._set.get(room)
        if library is None:
            library = self._set[room] = WordLibrary(usable(self._rules[room]))
        return library
