"""Forbidden words: finds them in spite of the usual tricks, and refuses, masks or counts. Pure.

Owns the libraries (word -> action) and the normal form in which texts and words are compared. That
form is NFKC and case-folded, turns traditional Chinese into simplified and look-alike letters into
Latin ones, and drops marks and everything between letters. A word of Latin letters matches a whole
word only ("ass" is not in "class"); a `*` before or behind it lets it match inside longer words
too. The search is Aho-Corasick (ahocorasick-rs). Called for every danmaku.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Final, NamedTuple

from ahocorasick_rs import AhoCorasick, MatchKind
from opencc import OpenCC

from liveroom.moderation import EVERYWHERE
from liveroom.records.control import WordAction

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
# Look-alikes: letters of other alphabets, and signs, that look like Latin ones, after NFKC and
# case folding.
_ALIKE: Final = dict(
    zip(
        "аеорсухквмнтіјѕһԁԛԝɡɩοαευρτικνχωʏ@$",
        "aeopcyxkbmhtijshdqwgioaeuptiknxwyas",
        strict=True,
    )
)


class LibraryError(ValueError):
    """A word or a library's line that cannot be used; the message names the reason."""


class WordVerdict(NamedTuple):
    """The verdict on a text with forbidden words. `text`: the text with those words masked."""

    action: WordAction
    text: str
    words: tuple[str, ...]


class _LibraryWord(NamedTuple):
    """A word, and whether a match must begin and end at the border of a word."""

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
    """The normal form of each character, for `str.translate`: a letter, nothing, or several."""

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
    """Return for each character of the normal form its index in the text."""
    return [place for place, char in enumerate(text) for _ in _LETTERS[ord(char)]]


def read_library(text: str) -> dict[str, WordAction]:
    """Return the words of a library file: one `action word` a line, comments after `#`.

    Raises LibraryError with the number of the line that cannot be used.
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
    """Return `word` where it can be searched for; otherwise raise LibraryError."""
    if not 1 <= len(word) <= MAX_WORD_CHARS:
        raise LibraryError(f"a word has 1 to {MAX_WORD_CHARS} characters")
    if not word.isprintable():
        raise LibraryError(f"{word!r} has invisible characters")
    if not normal(word.strip(_INNER)):
        raise LibraryError(f"{word!r} has no letter")
    return word


class WordLibrary:
    """Words that one search finds all at once."""

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
        """Return the matches in a text in normal form as (word's index, begin, end).

        A match may lie inside another word: `confirm` decides.
        """
        return self._search.find_matches_as_indexes(text, overlapping=True) if self._search is not None else ()

    def confirm(self, found: tuple[int, int, int], text: str, origins: Sequence[int]) -> tuple[_LibraryWord, int, int] | None:
        """Return the word of a match and its begin and end in `text`.

        None: the match is a part of another word.
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


def usable(rules: Mapping[str, WordAction]) -> dict[str, WordAction]:
    """Return the words that can be searched for; other programs may write rules that cannot."""
    words: dict[str, WordAction] = {}
    for word, action in rules.items():
        with suppress(LibraryError):
            words[check_word(word)] = action
    return words


def _verdict(text: str, form: str, libraries: Iterable[WordLibrary]) -> WordVerdict | None:
    """Return the verdict on a text; None: every match is a part of another word."""
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
    """All libraries of an ingress: the files', the operators' for all rooms, the hosts' for theirs.

    `rules`: words by room, with those for all rooms under `EVERYWHERE`.
    """

    def __init__(self, rules: Mapping[str, Mapping[str, WordAction]]) -> None:
        self._rules = rules
        self._files: tuple[WordLibrary, ...] = ()
        self._set: dict[str, WordLibrary] = {}

    def use_files(self, files: WordLibrary) -> None:
        """Use this library for all rooms from now on, in place of the previous files'."""
        self._files = (files,)

    def changed(self, room: str) -> None:
        """Rebuild the library of this room (or of `EVERYWHERE`) at its next use."""
        self._set.pop(room, None)

    def judge(self, room: str, text: str) -> WordVerdict | None:
        """Return the verdict on a text in this room; None: it has no forbidden word."""
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
