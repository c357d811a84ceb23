"""Words: found in spite of the usual tricks, and not where they are not."""

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.words import (
    MAX_WORD_CHARS,
    LibraryError,
    WordLibraries,
    WordLibrary,
    WordVerdict,
    check_word,
    normal,
    read_library,
    usable,
)
from liveroom.records.control import WordAction

LIBRARY = WordLibrary(
    {
        "ass": WordAction.MASK,
        "*fuck*": WordAction.MASK,
        "bad*": WordAction.REFUSE,
        "spam": WordAction.COUNT,
        "傻逼": WordAction.REFUSE,
        "臺灣": WordAction.COUNT,
        "two words": WordAction.MASK,
    }
)


def judged(text: str, library: WordLibrary = LIBRARY) -> WordVerdict | None:
    libraries = WordLibraries({})
    libraries.use_files(library)
    return libraries.judge("r", text)


def action(libraries: WordLibraries, room: str, text: str) -> WordAction | None:
    for name in libraries.due(room):
        libraries.end_build(name, WordLibrary(usable(libraries.begin_build(name) or {})))
    verdict = libraries.judge(room, text)
    return verdict and verdict.action


@pytest.mark.parametrize(
    ("text", "words", "masked"),
    [
        pytest.param("kick ass now", ["ass"], "kick *** now", id="as it is"),
        pytest.param("ASS", ["ass"], "***", id="case"),
        pytest.param("ａｓｓ", ["ass"], "***", id="full width"),
        pytest.param("a s s!", ["ass"], "*****!", id="spaces"),
        pytest.param("a.s-s", ["ass"], "*****", id="signs"),
        pytest.param("a\u200bs\u200ds", ["ass"], "*****", id="zero width"),
        pytest.param("a\u0301\u0308ss", ["ass"], "*****", id="marks"),
        pytest.param("аss", ["ass"], "***", id="a Cyrillic letter"),
        pytest.param("@ss", ["ass"], "***", id="a sign for a letter"),
        pytest.param("𝓪𝓼𝓼", ["ass"], "***", id="letters of mathematics"),
        pytest.param("bass ass", ["ass"], "bass ***", id="the whole word alone"),
        pytest.param("class", [], "class", id="inside a word"),
        pytest.param("as someone", [], "as someone", id="over the end of a word"),
        pytest.param("motherfucker", ["*fuck*"], "mother****er", id="inside a word where it is asked for"),
        pytest.param("badly", ["bad*"], "***ly", id="the beginning of a word"),
        pytest.param("forbad", [], "forbad", id="the end of a word"),
        pytest.param("你是傻 逼吗", ["傻逼"], "你是***吗", id="Chinese"),
        pytest.param("台灣", ["臺灣"], "台灣", id="traditional and simplified"),
        pytest.param("two   words", ["two words"], "***********", id="two words"),
        pytest.param("spam ass", ["ass", "spam"], "spam ***", id="counted ones stay"),
        pytest.param("", [], "", id="nothing"),
        pytest.param("😀😀", [], "😀😀", id="no letter"),
    ],
)
def test_a_word_is_found_in_spite_of_tricks(text: str, words: list[str], masked: str) -> None:
    verdict = judged(text)
    if not words:
        assert verdict is None
        return
    assert verdict is not None
    assert sorted(verdict.words) == sorted(words)
    assert verdict.text == masked


@pytest.mark.parametrize(
    ("text", "severest"),
    [("spam", WordAction.COUNT), ("spam ass", WordAction.MASK), ("spam ass bad", WordAction.REFUSE)],
)
def test_the_severest_action_counts(text: str, severest: WordAction) -> None:
    verdict = judged(text)
    assert verdict is not None
    assert verdict.action is severest


@given(st.text(max_size=30))
def test_any_text_is_judged_and_masks_keep_its_length(text: str) -> None:
    verdict = judged(text)
    assert verdict is None or len(verdict.text) == len(text)
    assert normal(normal(text)) == normal(text)


@given(
    st.text(st.characters(categories=["L"]), min_size=1, max_size=8),
    st.lists(st.sampled_from(["", " ", ".", "\u200b", "-"]), min_size=8, max_size=8),
)
def test_a_word_is_found_with_anything_between_its_letters(word: str, between: list[str]) -> None:
    library = WordLibrary({f"*{word}*": WordAction.MASK}) if normal(word) else WordLibrary({})
    text = "".join(letter + sign for letter, sign in zip(word, between, strict=False))
    assert (judged(text, library) is not None) == bool(normal(word))


def test_a_library_is_a_plain_list() -> None:
    text = "# comment\nrefuse bad word\nmask darn # another\n\n  count  spam \n"
    assert read_library(text) == {"bad word": WordAction.REFUSE, "darn": WordAction.MASK, "spam": WordAction.COUNT}


@pytest.mark.parametrize("line", ["forbid x", "refuse", "refuse ...", "refuse " + "x" * (MAX_WORD_CHARS + 1), "mask a\x01b"])
def test_a_line_that_cannot_be_used_is_named(line: str) -> None:
    with pytest.raises(LibraryError, match="line 2"):
        read_library(f"mask darn\n{line}\n")


def test_rooms_have_words_of_their_own_beside_those_of_all() -> None:
    rules = {"*": {"spam": WordAction.REFUSE}, "r": {"spoiler": WordAction.MASK}}
    libraries = WordLibraries(rules)
    libraries.use_files(WordLibrary({check_word("darn"): WordAction.COUNT}))
    assert [action(libraries, "r", text) for text in ("spam", "spoiler", "darn")] == [
        WordAction.REFUSE,
        WordAction.MASK,
        WordAction.COUNT,
    ]
    assert action(libraries, "other", "spoiler") is None
    rules["other"] = {"spoiler": WordAction.MASK}
    del rules["r"]["spoiler"]
    libraries.changed("r")
    assert action(libraries, "other", "spoiler") is WordAction.MASK
    assert action(libraries, "r", "spoiler") is None


@pytest.mark.parametrize("word", ["", "*", "!!", "\u200b", "x" * (MAX_WORD_CHARS + 1)])
def test_a_word_that_cannot_be_searched_is_passed_over_wherever_it_came_from(word: str) -> None:
    """Rules are read from a topic that others write too: one of them must not make every text of
    the room fail.
    """
    libraries = WordLibraries({"r": {word: WordAction.REFUSE, "spam": WordAction.MASK}})
    assert action(libraries, "r", "spam") is WordAction.MASK
    assert action(libraries, "r", "x * !! eggs") is None


# ---- words as an attack
MARKS = [chr(code) for code in range(33, 0x2000) if chr(code).isprintable() and not normal(chr(code))]
SAME = [f"*a{first}{second}" for first in MARKS[:25] for second in MARKS[25:45]]
NESTED = ["*" + "b" * count_b + "a" * count_a + "*" for count_b in range(9) for count_a in range(1, 55)]
WIDE = "\ufdfa"  # one character, 15 letters in its normal form
ATTACKS = [
    pytest.param(SAME, "a" * 200, WordAction.COUNT, id="500 words that are all the same"),
    pytest.param(NESTED, "b" * 8 + "a" * 192, WordAction.REFUSE, id="words that lie in one another"),
    pytest.param(["a" * count for count in range(1, 65)], "a" * 200, WordAction.REFUSE, id="whole words in one another"),
    pytest.param(["*" + WIDE * count + "*" for count in range(1, 9)], WIDE * 200, WordAction.REFUSE, id="wide characters"),
]


def test_words_with_the_same_normal_form_are_one_with_the_most_severe_action() -> None:
    library = WordLibrary({"*a!*": WordAction.COUNT, "*a?*": WordAction.MASK, "*A*": WordAction.COUNT, "a": WordAction.REFUSE})
    assert len(library) == 2, "the whole word alone is another one than that inside words"
    assert judged("bab", library) == WordVerdict(WordAction.MASK, "b*b", ("*a?*",))
    assert judged("b a b", library) == WordVerdict(WordAction.REFUSE, "b * b", ("*a?*", "a"))


def test_matches_are_found_wherever_a_text_is_sliced() -> None:
    library = WordLibrary({"*ab*": WordAction.MASK, "*" + "ab" * 30 + "*": WordAction.MASK, "臺灣": WordAction.COUNT})
    for before in range(70):
        verdict = judged("x" * before + "ab" * 30 + "x" * 9, library)
        assert verdict is not None
        assert verdict.text == "x" * before + "*" * 60 + "x" * 9
        assert set(verdict.words) == {"*ab*", "*" + "ab" * 30 + "*"}


@pytest.mark.parametrize(("words", "text", "action"), ATTACKS)
def test_no_words_make_a_danmaku_expensive(words: list[str], text: str, action: WordAction) -> None:
    """Compared in the same run with the check of an honest text of the same length."""
    attacked = WordLibrary(dict.fromkeys(map(check_word, words), WordAction.COUNT))
    verdict = judged(text, attacked)
    assert verdict is not None
    assert verdict.action is action
    honest = WordLibrary({"*cd*": WordAction.COUNT})
    assert least_s(lambda: judged(text, attacked)) < 30 * least_s(lambda: judged("ab cd " * 33, honest))


def least_s(check: Callable[[], object]) -> float:
    """Return the processor time of the fastest of many runs."""
    found = []
    for _ in range(50):
        began_s = time.thread_time()
        check()
        found.append(time.thread_time() - began_s)
    return min(found)


def test_a_word_whose_normal_form_is_endless_is_refused() -> None:
    check_word(WIDE * 8)
    with pytest.raises(LibraryError, match="more than 128 letters"):
        check_word(WIDE * 9)
