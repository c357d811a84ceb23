"""Forbidden words: finds them in spite of the usual tricks, and refuses, masks or counts. Pure.

Owns the libraries (word -> action) and the normal form in which texts and words are compared. That
form is NFKC and case-folded, turns traditional Chinese into simplified and look-alike letters into
Latin ones, and drops marks and everything between letters. A word of Latin letters matches a whole
word only ("ass" is not in "class"); a `*` before or behind it lets it match inside longer words
too. The search is Aho-Corasick (ahocorasick-rs). Called for every danmaku.

A check takes a bounded time whatever the words and the text are. Words with the same normal form
are one pattern. A text with more than `MAX_MATCHES` matches is refused; no list of matches grows
much beyond that, because a text with a match is searched in slices.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Final, NamedTuple

from ahocorasick_rs import AhoCorasick, MatchKind
from opencc import OpenCC

from liveroom.limits import drop_oldest
from liveroom.moderation import EVERYWHERE
from liveroom.records.control import WordAction

MAX_WORD_CHARS: Final = 64
MAX_LIBRARIES: Final = 1000  # of rooms: each is made at its first use, in a few milliseconds
MAX_WORD_LETTERS: Final = 128  # of the normal form, in which one character can become 15 letters
MAX_MATCHES: Final = 500
_SLICE_LETTERS: Final = 32
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
    letters = len(normal(word.strip(_INNER)))
    if not letters:
        raise LibraryError(f"{word!r} has no letter")
    if letters > MAX_WORD_LETTERS:
        raise LibraryError(f"{word!r} has more than {MAX_WORD_LETTERS} letters in its normal form")
    return word


class WordLibrary:
    """Words that one search finds all at once.

    Of several words that match the same texts one remains, with the most severe of their actions.
    """

    def __init__(self, words: Mapping[str, WordAction]) -> None:
        merged: dict[tuple[str, bool, bool], _LibraryWord] = {}
        for word, action in words.items():
            pattern = normal(word.strip(_INNER))
            is_latin = _LATIN.match(pattern) is not None
            bound = is_latin and not word.startswith(_INNER), is_latin and not word.endswith(_INNER)
            known = merged.get((pattern, *bound))
            if known is None or _SEVERITY.index(action) < _SEVERITY.index(known.action):
                merged[pattern, *bound] = _LibraryWord(word, action, *bound)
        self._entries: dict[str, list[_LibraryWord]] = {}
        for (pattern, *_), entry in merged.items():
            self._entries.setdefault(pattern, []).append(entry)
        self._of_pattern = list(self._entries.values())
        self._longest = max(map(len, self._entries), default=0)
        self._search = AhoCorasick(list(self._entries), matchkind=MatchKind.Standard) if self._entries else None

    def __len__(self) -> int:
        return sum(map(len, self._of_pattern))

    def may_match(self, form: str) -> bool:
        """Return whether a pattern is in a text in normal form, be it inside another word."""
        return self._search is not None and bool(self._search.find_matches_as_indexes(form))

    def find(self, form: str, most: int) -> list[tuple[int, int, int]]:
        """Return the matches in a text in normal form as (pattern's index, begin, end).

        A match may lie inside another word: `confirm` decides. Stops soon after `most` matches.
        The search returns all matches of a text at once, so it gets slices: each is the next
        `_SLICE_LETTERS` letters and those before them that a match can begin in.
        """
        found: list[tuple[int, int, int]] = []
        if self._search is None:
            return found
        for start in range(0, len(form), _SLICE_LETTERS):
            begin = max(0, start - self._longest + 1)
            in_slice = self._search.find_matches_as_indexes(form[begin : start + _SLICE_LETTERS], overlapping=True)
            found += [(number, first + begin, last + begin) for number, first, last in in_slice if last + begin > start]
            if len(found) > most:
                break
        return found

    def confirm(
        self, found: tuple[int, int, int], text: str, origins: Sequence[int]
    ) -> Iterator[tuple[_LibraryWord, int, int]]:
        """Yield the words of a match with their begin and end in `text`.

        A word is left out where the match is a part of another word.
        """
        number, start, stop = found
        begin, end = origins[start], origins[stop - 1] + 1
        for entry in self._of_pattern[number]:
            if entry.is_bound_left and begin > 0 and _is_latin(text[begin - 1]):
                continue
            if entry.is_bound_right and end < len(text) and _is_latin(text[end]):
                continue
            yield entry, begin, end


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
    found: list[tuple[_LibraryWord, int, int]] = []
    left = MAX_MATCHES
    for library in libraries:
        matches = library.find(form, left)
        found += [word for match in matches[:left] for word in library.confirm(match, text, origins)]
        left -= len(matches)
        if left < 0:
            break
    words = tuple(dict.fromkeys(entry.word for entry, _, _ in found))
    if left < 0:
        return WordVerdict(WordAction.REFUSE, text, words)
    if not found:
        return None
    action = min((entry.action for entry, _, _ in found), key=_SEVERITY.index)
    masked = list(text)
    for entry, begin, end in found:
        if entry.action is not WordAction.COUNT:
            masked[begin:end] = MASK * (end - begin)
    return WordVerdict(action, "".join(masked), words)


class WordLibraries:
    """All libraries of an ingress: the files', the operators' for all rooms, the hosts' for theirs.

    `rules`: words by room, with those for all rooms under `EVERYWHERE`.
    """

    def __init__(self, rules: Mapping[str, Mapping[str, WordAction]]) -> None:
        self._rules = rules
        self._files: tuple[WordLibrary, ...] = ()
        self._set: dict[str, WordLibrary] = {}

    def __len__(self) -> int:
        return len(self._set)

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
            if library.may_match(form):
                return _verdict(text, form, libraries)
        return None

    def _of(self, room: str) -> tuple[WordLibrary, ...]:
        return *self._files, *(self._library(name) for name in (EVERYWHERE, room) if name in self._rules)

    def _library(self, room: str) -> WordLibrary:
        library = self._set.get(room)
        if library is None:
            drop_oldest(self._set, MAX_LIBRARIES - 1)
            library = self._set[room] = WordLibrary(usable(self._rules[room]))
        return library
