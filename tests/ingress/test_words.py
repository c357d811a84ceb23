"""Words: found in spite of the usual tricks, and not where they are not."""

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
