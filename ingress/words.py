"""Forbidden words: finds them in spite of the usual tricks, and refuses, masks or counts. Pure.

Owns the libraries (word -> action) and the normal form in which texts and words are compared. That
form is NFKD and case-folded, turns traditional Chinese into simplified, and drops everything
between letters, and marks but those that make another letter or syllable in their script. A word of
Latin letters matches a whole word only ("ass" is not in "class"); a `*` before or behind it lets it
match inside longer words too. No match begins or ends within a syllable. The search is Aho-Corasick
(ahocorasick-rs). Called for every danmaku.

Some characters have two readings: a letter of another alphabet looks like a Latin one, and `@` is
an "a" or stands between letters, as one in a frame does. A text with such characters is searched in
each of its forms.

A check takes a bounded time whatever the words and the text are. Words with the same normal form
are one pattern. A text with more than `MAX_MATCHES` matches is refused; no list of matches grows
much beyond that, because a text with a match is searched in slices.
"""

import re
import unicodedata
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, Self

from ahocorasick_rs import AhoCorasick, MatchKind
from opencc import OpenCC

from liveroom.moderation import EVERYWHERE
from liveroom.records.control import WordAction
from liveroom.texts import is_filler, joined_away

MAX_WORD_CHARS: Final = 64
MAX_LIBRARIES: Final = 1000  # of rooms
MAX_LETTERS: Final = 4_000_000  # of all their words: 125 rooms with the longest words, or 1,000 with usual ones
MAX_WORD_LETTERS: Final = 128  # of the normal form, in which one character can become 15 letters
MAX_MATCHES: Final = 500
_SLICE_LETTERS: Final = 32
_STEP_CHARS: Final = 512  # of a build: 1 ms for Chinese characters that come for the first time
_PART_LETTERS: Final = 8_000  # that one search may have: building it takes 1 to 3 ms, and cannot be cut
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
# Letters of other alphabets that look like Latin ones are alike, by their folded form.
_ALIKE: Final = dict(
    zip(
        "аеорсухквмнтіјѕһԁԛԝӏүѵɩɑοαευρτικνχωηγμβօսոհցզᎪᏴᏟᎠᎬᎶᎻᎫᏦᏞᎷᏢᎡᏚᎢᏙᎳᏃ",
        "aeopcyxkbmhtijshdqwlyviaoaeuptikvxwnyubounhgqabcdeghjklmprstvwz",
        strict=True,
    )
)
# Capitals look like other Latin letters than their small forms.
_CAPITALS: Final = dict(zip("ΝΗΥΜΖ", "nhymz", strict=True))
_SIGNS: Final = {"@": "a", "$": "s"}
# Letters in a frame, small capitals, and letters with a stroke or hook have no decomposition.
_NAMED: Final = re.compile(
    r"(?:LATIN (?:SMALL|CAPITAL) LETTER (?:SCRIPT |DOTLESS )?|LATIN LETTER SMALL CAPITAL |REGIONAL INDICATOR SYMBOL LETTER "
    r"|(?:CROSSED )?(?:NEGATIVE )?(?:SQUARED|CIRCLED) (?:LATIN CAPITAL LETTER )?)([A-Z]{1,2}|COOL|FREE|NEW|SOS|VOD)"
    r"(?: WITH .*)?\Z"
)
# Framed: blocks of letters, digits and syllables in circles, squares and brackets.
_FRAMES: Final = "\u2460-\u24ff\u2776-\u2793\u3200-\u33ff\U0001f100-\U0001f2ff"
_FRAMED: Final = re.compile(f"[{_FRAMES}]").match
# Kept: blocks of scripts in which a mark makes another syllable. Everywhere else marks are dropped.
_KEPT: Final = (
    "\u0780-\u07ff\u0900-\u109f\u135d-\u135f\u1700-\u17ff\u1900-\u1aaf\u1b00-\u1c4f\u3099-\u309c\u309e\u30fe"
    "\ua800-\uaaff\uabc0-\uabff\uff9e\uff9f\U00010a00-\U00010a5f\U00011000-\U00011fff"
)
_HAS_KEPT: Final = re.compile(f"[{_KEPT}]").search
_STRAY: Final = "\u200b"  # in place of a mark that stands on no letter of its script
_KANA_MARKS: Final = "\u3099\u309a"
_KANA: Final = frozenset({"HIRAGANA", "KATAKANA"})
_JAMO_BEHIND: Final = re.compile("[\u1160-\u11ff]").match  # the vowels and finals of syllables
_JAMO_ALONE: Final = re.compile("[\u3131-\u318e\uffa1-\uffdc]").match  # they belong to no syllable
# Ambiguous: all characters with more than one reading, and more: whole blocks, kept marks.
_AMBIGUOUS: Final = re.compile(
    f"[@$＠＄﹫﹩\u0370-\u058f\u13a0-\u13f5\u1f00-\u1fff\uab70-\uabbf\U0001d6a8-\U0001d7cb{_FRAMES}{_KEPT}]"
).search
_MEANT: Final = "#+%°€£¥"  # signs that belong to a word that begins or ends with them: C#
_MEANT_FIRST: Final = _MEANT + "."  # .NET
_MAX_SIGNS: Final = 4
_HAS_MEANT: Final = re.compile(f"[^\x00-\x7f]|[{re.escape(_MEANT_FIRST)}]").search  # signs can be wide
_LINE_END: Final = re.compile(r"\r\n?|\n")
_COMMENT: Final = re.compile(r"\s#")
_IS_COMMENT: Final = re.compile(r"#(?:\s|\Z)").match


class LibraryError(ValueError):
    """A word or a library's line that cannot be used; the message names the reason."""


class WordVerdict(NamedTuple):
    """The verdict on a text with forbidden words. `text`: the text with those words masked."""

    action: WordAction
    text: str
    words: tuple[str, ...]


class _LibraryWord(NamedTuple):
    """A word, and what must be beside a match: the border of a word, or signs of this word."""

    word: str
    action: WordAction
    is_bound_left: bool
    is_bound_right: bool
    before: str
    after: str


_SEVERITY: Final = (WordAction.REFUSE, WordAction.MASK, WordAction.COUNT)
_LATIN: Final = re.compile(r"[a-z0-9]+\Z")

_CONVERTER: Final = OpenCC("t2s")  # here, and not at its first use in the loop: it reads files for 15 ms


class _Letters(dict[int, str]):
    """The normal form of each character, for `str.translate`: a letter, nothing, or several.

    `looks`: letters count as the Latin ones that they look like. `signs`: signs that look like
    letters count as these; otherwise they are nothing, and neither is what stands in a frame.
    """

    def __init__(self, *, looks: bool, signs: bool) -> None:
        super().__init__()
        self.looks = looks
        self._signs = signs

    def __missing__(self, code: int) -> str:
        is_sign = _FRAMED(chr(code)) is not None and not self._signs
        parts = "" if is_sign else unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", chr(code)))
        letter = "".join(map(self._letter, parts))
        if not letter.isascii():
            letter = _CONVERTER.convert(letter)
        if len(self) < _MAX_LETTERS:
            self[code] = letter
        return letter

    def _letter(self, part: str) -> str:
        if self.looks and part in _CAPITALS:
            return _CAPITALS[part]
        return "".join(map(self._folded, unicodedata.normalize("NFKD", part.casefold())))

    def _folded(self, part: str) -> str:
        if part in _SIGNS:
            return _SIGNS[part] if self._signs else ""
        if self.looks and part in _ALIKE:
            return _ALIKE[part]
        category = unicodedata.category(part)
        if category in {"Ll", "So"} and not part.isascii() and (named := _NAMED.match(unicodedata.name(part, ""))):
            return named[1].lower()
        if category[0] == "M" and not _HAS_KEPT(part):
            return ""
        return "" if category in _SKIPPED or is_filler(part) else part


_LETTERS: Final = _Letters(looks=True, signs=True)
_LOOKS: Final = _Letters(looks=True, signs=False)
_OTHER_READINGS: Final = (_LOOKS, _Letters(looks=False, signs=False))
_OWN_LETTERS: Final = _Letters(looks=False, signs=True)  # of words: a sign in one is meant


_Form = tuple[str, _Letters]  # one reading of a text: its normal form, and the table that made it


def normal(text: str) -> str:
    """Return the normal form of a text."""
    return _without_strays(text).translate(_LETTERS)


def _forms(text: str) -> list[_Form]:
    """Return the normal forms of a text, one for each way to read it."""
    if not _AMBIGUOUS(text):
        return [(text.translate(_LETTERS), _LETTERS)]
    text = _without_strays(text)
    forms = [(text.translate(_LETTERS), _LETTERS)]
    for table in _OTHER_READINGS:
        letters = text.translate(table)
        if all(letters != known for known, _ in forms):
            forms.append((letters, table))
    return forms


def _without_strays(text: str) -> str:
    """Return a text in which marks on no letter of their script are something that nobody sees.

    Every character keeps its place.
    """
    if not _HAS_KEPT(text):
        return text
    kept, base = list(text), ""
    for place, char in enumerate(text):
        letter = _LETTERS[ord(char)]
        if not letter:
            continue
        if not _is_mark(letter[0]):
            base = letter.rstrip(_KANA_MARKS)[-1]
        elif not base or not _is_of_script(letter[0], base):
            kept[place] = _STRAY
    return "".join(kept)


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter)[0] == "M"


def _is_of_script(mark: str, base: str) -> bool:
    """Return whether a mark and a letter have names that begin with the same script."""
    script = unicodedata.name(base, "").partition(" ")[0]
    return script in _KANA if mark in _KANA_MARKS else unicodedata.name(mark, "").startswith(script + " ")


def _is_within_syllable(form: str, places: Iterable[int], text: str, origins: Sequence[int]) -> bool:
    """Return whether one of the letters at these places of a form continues the syllable before."""
    for place in places:
        if 0 < place < len(form) and (_is_mark(form[place]) or _JAMO_BEHIND(form[place])):
            between = origins[place] - origins[place - 1]
            if between == 0 or (between == 1 and not _JAMO_ALONE(text[origins[place]])):
                return True
    return False


def _patterns(word: str) -> set[str]:
    """Return the normal forms in which a word is searched for: as it looks and as it is."""
    return {normal(word), _without_strays(word).translate(_OWN_LETTERS)} if _AMBIGUOUS(word) else {normal(word)}


def _origins(text: str, table: _Letters) -> list[int]:
    """Return for each character of a normal form its index in the text."""
    return [place for place, char in enumerate(text) for _ in table[ord(char)]]


def read_library(text: str) -> dict[str, WordAction]:
    """Return the words of a library file: one `action word` a line.

    A `#` at the beginning of a line or after white space begins a comment; one within a word, or at
    the beginning of it, belongs to the word. Raises LibraryError with the number of the line that
    cannot be used.
    """
    words: dict[str, WordAction] = {}
    for number, line in enumerate(_LINE_END.split(text), 1):
        action, *more = line.split(maxsplit=1) or [""]
        if not action or action.startswith("#"):
            continue
        rest = more[0] if more else ""
        word = "" if _IS_COMMENT(rest) else _COMMENT.split(rest, maxsplit=1)[0].strip()
        try:
            words[check_word(word)] = WordAction(action)
        except ValueError as error:
            raise LibraryError(f"line {number}: {error}") from None
    return words


def check_word(word: str) -> str:
    """Return `word` where it can be searched for; otherwise raise LibraryError."""
    if not 1 <= len(word) <= MAX_WORD_CHARS:
        raise LibraryError(f"a word has 1 to {MAX_WORD_CHARS} characters")
    if not joined_away(word).isprintable():
        raise LibraryError(f"{word!r} has invisible characters")
    letters = max(map(len, _patterns(word.strip(_INNER))))
    if not letters or word.strip(_INNER) in _SIGNS:
        raise LibraryError(f"{word!r} has no letter")
    if letters > MAX_WORD_LETTERS:
        raise LibraryError(f"{word!r} has more than {MAX_WORD_LETTERS} letters in its normal form")
    return word


class WordLibrary:
    """Words that one search finds all at once.

    Of several words that match the same texts one remains, with the most severe of their actions.
    `letters`: of all patterns, by which its size grows.
    """

    def __init__(self, words: Mapping[str, WordAction]) -> None:
        self.letters = 0
        self._entries: dict[str, list[_LibraryWord]] = {}
        self._of_pattern: list[list[_LibraryWord]] = []
        self._longest = 0
        self._parts: list[tuple[int, AhoCorasick]] = []
        for _ in self._build(words):
            pass

    @classmethod
    def building(cls, rules: Mapping[str, WordAction]) -> Generator[None, None, Self]:
        """Return the library of those words that can be searched for; yields between short steps.

        Other programs may write rules that cannot be searched for.
        """
        words: dict[str, WordAction] = {}
        chars = 0
        for word, action in rules.items():
            with suppress(LibraryError):
                words[check_word(word)] = action
            if (chars := chars + len(word) + 1) >= _STEP_CHARS:
                chars = 0
                yield
        library = cls({})
        yield from library._build(words)
        return library

    def _build(self, words: Mapping[str, WordAction]) -> Iterator[None]:
        """Fill the library; yields between steps of `_STEP_CHARS` or `_PART_LETTERS`."""
        merged: dict[tuple[str, bool, bool, str, str], _LibraryWord] = {}
        chars = 0
        for word, action in words.items():
            beside = _beside(word)
            for pattern in _patterns(word.strip(_INNER)):
                known = merged.get((pattern, *beside))
                if known is None or _SEVERITY.index(action) < _SEVERITY.index(known.action):
                    merged[pattern, *beside] = _LibraryWord(word, action, *beside)
            if (chars := chars + len(word) + 1) >= _STEP_CHARS:
                chars = 0
                yield
        for number, ((pattern, *_), entry) in enumerate(merged.items(), 1):
            self._entries.setdefault(pattern, []).append(entry)
            if number % _STEP_CHARS == 0:
                yield
        self._of_pattern = list(self._entries.values())
        self._longest = max(map(len, self._entries), default=0)
        part: list[str] = []
        first = letters = 0
        for number, pattern in enumerate(self._entries, 1):
            part.append(pattern)
            letters += len(pattern)
            if letters >= _PART_LETTERS or number == len(self._entries):
                self._parts.append((first, AhoCorasick(part, matchkind=MatchKind.Standard)))
                self.letters += letters
                part, first, letters = [], number, 0
                yield

    def __len__(self) -> int:
        return sum(map(len, self._of_pattern))

    def may_match(self, form: str) -> bool:
        """Return whether a pattern is in a text in normal form, be it inside another word."""
        return any(search.find_matches_as_indexes(form) for _, search in self._parts)

    def find(self, form: str, most: int) -> list[tuple[int, int, int]]:
        """Return the matches in a text in normal form as (pattern's index, begin, end).

        A match may lie inside another word: `confirm` decides. Stops soon after `most` matches.
        The search returns all matches of a text at once, so it gets slices: each is the next
        `_SLICE_LETTERS` letters and those before them that a match can begin in.
        """
        found: list[tuple[int, int, int]] = []
        for start in range(0, len(form), _SLICE_LETTERS):
            begin = max(0, start - self._longest + 1)
            letters = form[begin : start + _SLICE_LETTERS]
            for offset, search in self._parts:
                for number, first, last in search.find_matches_as_indexes(letters, overlapping=True):
                    if last + begin > start:
                        found.append((number + offset, first + begin, last + begin))
            if len(found) > most:
                break
        return found

    def confirm(
        self, found: tuple[int, int, int], text: str, origins: Sequence[int], form: _Form
    ) -> Iterator[tuple[_LibraryWord, int, int]]:
        """Yield the words of a match with their begin and end in `text`.

        A word is left out where the match is a part of another word or cuts a syllable, or lacks a
        sign of the word.
        """
        number, start, stop = found
        letters, table = form
        if _is_within_syllable(letters, (start, stop), text, origins):
            return
        borders = table if table.looks else _LOOKS
        first, last = origins[start], origins[stop - 1] + 1
        is_within_left = _is_latin(text, first - 1, borders)
        is_within_right = _is_latin(text, last, borders)
        before: _Signs | None = None
        after: _Signs | None = None
        for entry in self._of_pattern[number]:
            begin, end = first, last
            if entry.before:
                before = before or _signs(text, first - 1, -1)
                if not before.signs.startswith(entry.before):
                    continue
                begin = before.places[len(entry.before) - 1]
            elif entry.is_bound_left and is_within_left:
                continue
            if entry.after:
                after = after or _signs(text, last, 1)
                if not after.signs.startswith(entry.after):
                    continue
                end = after.places[len(entry.after) - 1] + 1
            elif entry.is_bound_right and is_within_right:
                continue
            yield entry, begin, end


class _Signs(NamedTuple):
    """Signs beside a match that may belong to a word, the nearest first, with their places."""

    signs: str
    places: list[int]


def _signs(text: str, place: int, step: int) -> _Signs:
    """Return the signs from `place` in the direction of `step`, past what no font draws."""
    signs, places = "", []
    while 0 <= place < len(text) and len(signs) < _MAX_SIGNS:
        char = unicodedata.normalize("NFKC", text[place])
        if char in _MEANT_FIRST:
            signs += char
            places.append(place)
        elif not is_filler(char):
            break
        place += step
    return _Signs(signs, places)


def _beside(word: str) -> tuple[bool, bool, str, str]:
    """Return whether matches of a word are bound left and right, and its signs on both sides.

    The signs nearest to the letters come first.
    """
    is_latin = _LATIN.match(normal(word.strip(_INNER))) is not None
    left, right = is_latin and not word.startswith(_INNER), is_latin and not word.endswith(_INNER)
    if not (left or right) or not _HAS_MEANT(word):
        return left, right, "", ""
    kept = unicodedata.normalize("NFKC", word)
    places = [place for place, char in enumerate(kept) if normal(char)]
    before, after = kept[: places[0]], kept[places[-1] + 1 :]
    first = "".join(sign for sign in before[::-1] if sign in _MEANT_FIRST) if left else ""
    last = "".join(sign for sign in after if sign in _MEANT) if right else ""
    return left, right, first[:_MAX_SIGNS], last[:_MAX_SIGNS]


def _is_latin(text: str, place: int, table: _Letters) -> bool:
    return 0 <= place < len(text) and _LATIN.match(table[ord(text[place])]) is not None


def usable(rules: Mapping[str, WordAction]) -> dict[str, WordAction]:
    """Return the words that can be searched for; other programs may write rules that cannot."""
    words: dict[str, WordAction] = {}
    for word, action in rules.items():
        with suppress(LibraryError):
            words[check_word(word)] = action
    return words


def _verdict(text: str, forms: Sequence[_Form], libraries: Iterable[WordLibrary]) -> WordVerdict | None:
    """Return the verdict on a text; None: every match is a part of another word."""
    found: list[tuple[_LibraryWord, int, int]] = []
    left = MAX_MATCHES
    read = _without_strays(text)
    for form in forms:
        letters, table = form
        origins = _origins(read, table)
        for library in libraries:
            matches = library.find(letters, left)
            found += [word for match in matches[:left] for word in library.confirm(match, read, origins, form)]
            left -= len(matches)
            if left < 0:
                break
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

    `rules`: words by room, with those for all rooms under `EVERYWHERE`. The libraries that were
    used last are kept: at most `MAX_LIBRARIES`, with at most `MAX_LETTERS` together.
    """

    def __init__(self, rules: Mapping[str, Mapping[str, WordAction]]) -> None:
        self._rules = rules
        self._files: tuple[WordLibrary, ...] = ()
        self._set: OrderedDict[str, WordLibrary] = OrderedDict()
        self._outdated: set[str] = set()
        self._letters = 0

    def __len__(self) -> int:
        return len(self._set)

    def use_files(self, files: WordLibrary) -> None:
        """Use this library for all rooms from now on, in place of the previous files'."""
        self._files = (files,)

    def changed(self, room: str) -> None:
        """Note that the library of this room (or of `EVERYWHERE`) must be built again.

        The next text lets it be built; a text that waits for a build under way does not.
        """
        if room not in self._rules:
            self._drop(room)
        else:
            self._outdated.add(room)  # also while it is built for the first time

    # ---- builds
    def missing(self, room: str) -> list[str]:
        """Return the libraries of a room without which its texts cannot be judged at all."""
        return [name for name in (EVERYWHERE, room) if name in self._rules and name not in self._set] if self._rules else []

    def due(self, room: str) -> list[str]:
        """Return the libraries that must be built before a text in this room is judged."""
        return [name for name in (EVERYWHERE, room) if name in self._rules and self._is_due(name)] if self._rules else []

    def _is_due(self, name: str) -> bool:
        return name not in self._set or name in self._outdated

    def begin_build(self, name: str) -> dict[str, WordAction] | None:
        """Return the words of a library that must be built; None: it need not."""
        if name not in self._rules or not self._is_due(name):
            return None
        self._outdated.discard(name)  # a change from now on makes it outdated again, and it is built once more
        return dict(self._rules[name])

    def end_build(self, name: str, library: WordLibrary) -> None:
        """Keep a library that was built from what `begin_build` returned.

        Where words changed meanwhile, it serves until the next text lets them be built.
        """
        if name not in self._rules:
            return
        is_outdated = name in self._outdated
        self._drop(name)
        if is_outdated:
            self._outdated.add(name)
        self._set[name] = library
        self._letters += library.letters
        needed = [each for each in (EVERYWHERE, name) if each in self._set]  # by the text that waits for this build
        for each in needed:
            self._set.move_to_end(each)
        while len(self._set) > len(needed) and (len(self._set) > MAX_LIBRARIES or self._letters > MAX_LETTERS):
            self._drop(next(iter(self._set)))

    def _drop(self, name: str) -> None:
        library = self._set.pop(name, None)
        self._outdated.discard(name)
        if library is not None:
            self._letters -= library.letters

    # ---- verdicts
    def judge(self, room: str, text: str) -> WordVerdict | None:
        """Return the verdict on a text in this room; None: it has no forbidden word.

        Uses the newest libraries that are built, and builds none: that would block the loop. The
        caller lets `ingress.word_builds` build beforehand. Raises KeyError where one is `missing`.
        """
        libraries = self._files if not self._rules else self._of(room)
        forms = _forms(text)
        for letters, _ in forms:
            for library in libraries:
                if library.may_match(letters):
                    return _verdict(text, forms, libraries)
        return None

    def _of(self, room: str) -> tuple[WordLibrary, ...]:
        return *self._files, *(self._library(name) for name in (EVERYWHERE, room) if name in self._rules)

    def _library(self, name: str) -> WordLibrary:
        self._set.move_to_end(name)
        return self._set[name]
