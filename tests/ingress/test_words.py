"""Words: found in spite of the usual tricks, and not where they are not."""

import time
import unicodedata
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


# ---- what stands between letters, and looks like one
TRICKS = WordLibrary(
    dict.fromkeys(
        ["傻帽", "ass", "C#", "C++", ".NET", "#tag", "nazi", "νίκη", "хер", "*fuck*", "naïve", "می‌خواهم"], WordAction.MASK
    )
)


SIGNS = "@$#&¥€^~+|ー〜・★🅰🇦😀"
UNSEEN = "\u3164\u115f\u1160\uffa0\u2800\u00ad\u034f\u17b4\u180e\ufe0f\u0301\u0000\x7f\u2028\u3000"


@pytest.mark.parametrize("filler", [*SIGNS, *UNSEEN])
def test_a_word_is_found_through_what_stands_between_its_letters(filler: str) -> None:
    verdict = judged(f"你是傻{filler}帽吗", TRICKS)
    assert verdict == WordVerdict(WordAction.MASK, f"你是{'*' * (2 + len(filler))}吗", ("傻帽",))
    for text in (f"f{filler}u{filler}c{filler}k", f"a{filler}ss") if filler not in "🇦🅰" else ():
        verdict = judged(text, TRICKS)
        assert verdict is not None, text
        assert verdict.text == "*" * len(text)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param("@ss", "ass", id="a sign for a letter"),
        pytest.param("＠$＄", "ass", id="wide signs for letters"),
        pytest.param("a@ss", "ass", id="the same sign between letters"),
        pytest.param("ᴀꜱꜱ", "ass", id="small capitals"),
        pytest.param("ɴᴀᴢɪ", "nazi", id="all small capitals"),
        pytest.param("🅰🆂🆂", "ass", id="squares"),
        pytest.param("🄰🅂🅂", "ass", id="empty squares"),
        pytest.param("🅐🅢🅢", "ass", id="black circles"),
        pytest.param("Ⓐⓢⓢ", "ass", id="circles"),
        pytest.param("🇦🇸🇸", "ass", id="letters of flags"),
        pytest.param("🅰️s🆂", "ass", id="squares shown as pictures"),
        pytest.param("ɑss", "ass", id="a letter of phonetics"),
        pytest.param("ΝΑΖΙ", "nazi", id="Greek capitals"),
        pytest.param("ΑЅЅ", "ass", id="Greek and Cyrillic"),
        pytest.param("ᎪᏚᏚ", "ass", id="Cherokee"),
        pytest.param("f@uсk", "*fuck*", id="a sign between and a look-alike"),
        pytest.param("ΝΊΚΗ", "νίκη", id="a Greek word in capitals"),
        pytest.param("νικη", "νίκη", id="a Greek word without accents"),
        pytest.param("ХЕР", "хер", id="a Cyrillic word in capitals"),
        pytest.param("xep", "хер", id="a Cyrillic word in Latin letters"),
        pytest.param("C#", "C#", id="a sign that belongs to the word"),
        pytest.param("c＃", "C#", id="a wide sign that belongs to the word"),
        pytest.param("C\u200b#", "C#", id="a sign behind what nobody sees"),
        pytest.param("C++", "C++", id="two signs that belong to the word"),
        pytest.param(".net", ".NET", id="a sign before the word"),
        pytest.param("#tag", "#tag", id="a hash before the word"),
        pytest.param("naıve", "naïve", id="a letter without its dot"),
        pytest.param("میخواهم", "می‌خواهم", id="a Persian word without its joiner"),
    ],
)
def test_a_word_is_found_in_each_reading_of_its_letters(text: str, word: str) -> None:
    assert judged(f"so {text} it is", TRICKS) == WordVerdict(WordAction.MASK, f"so {'*' * len(text)} it is", (word,))


@pytest.mark.parametrize(
    "text",
    [
        "vitamin C",
        "vitamin C, B and D",
        "C or c",
        "ABC#",
        "C +1",
        "a net",
        "tag #tags",
        "class",
        "b@ss",
        "p@$$word",
        "gr@ss",
        "cl🅰ss",
        "🇧🇷🇦🇸🇸🇪",
        "херувим",
        "ссора",
        "glass, brass",
        "ann@example.org",
        "$100",
    ],
)
def test_a_word_is_not_found_where_it_is_not(text: str) -> None:
    assert judged(text, TRICKS) is None


# ---- scripts in which a mark or a final makes another syllable
SCRIPTS = WordLibrary(
    dict.fromkeys(["보지", "자지", "ㅅㅂ", "ㅗ", "หี", "ばか", "はか", "バカ", "चूत", "傻帽", "أحمق", "café"], WordAction.MASK)
)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("보직", id="a Korean final behind the word"),
        pytest.param("자진해서", id="a Korean final within a text"),
        pytest.param(unicodedata.normalize("NFD", "보직 자진해서"), id="Korean in its parts"),
        pytest.param("ㅅ발", id="a Korean syllable behind an initial"),
        pytest.param("보자", id="a vowel within Korean syllables"),
        pytest.param("หมา ห้อง หิว", id="a Thai consonant with other vowels"),
        pytest.param("หี้", id="a Thai tone behind the word"),
        pytest.param("ばが はがき ぱか", id="Japanese with other marks"),
        pytest.param(unicodedata.normalize("NFD", "ばが"), id="Japanese in its parts"),
        pytest.param("ﾊｶ ﾊﾟｶ ﾊﾞｶﾞ", id="Japanese of half width with other marks"),
        pytest.param("चूती चत", id="Devanagari with other vowels"),
    ],
)
def test_a_word_is_not_found_in_other_syllables(text: str) -> None:
    assert judged(text, SCRIPTS) is None


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        pytest.param("보지ㅠㅠ", "**ㅠㅠ", id="letters of Korean that stand alone behind the word"),
        pytest.param("아 보 지!", "아 ***!", id="Korean with a space"),
        pytest.param(unicodedata.normalize("NFD", "보지"), "****", id="Korean in its parts"),
        pytest.param("ㅂㅗㅈㅣ", "****", id="Korean letter by letter"),
        pytest.param("ㅗㅗ", "**", id="a vowel that stands alone"),
        pytest.param("ห.ี", "***", id="Thai with a sign within"),
        pytest.param("ばか", "**", id="Japanese"),
        pytest.param("は゛か", "***", id="Japanese with a mark of its own width"),
        pytest.param(unicodedata.normalize("NFD", "ばか"), "***", id="Japanese in its parts"),
        pytest.param("ﾊﾞ･ｶ", "****", id="Japanese of half width"),
        pytest.param("墓ははか", "墓は**", id="Japanese without marks"),
        pytest.param("चू\u200dत", "****", id="Devanagari with a joiner"),
        pytest.param("أَحْمَق", "*******", id="Arabic with vowels"),
        pytest.param("cafe\u0301 cafe", "****\u0301 ****", id="accents"),
    ],
)
def test_a_word_of_any_script_is_found_in_its_syllables(text: str, masked: str) -> None:
    verdict = judged(text, SCRIPTS)
    assert verdict is not None
    assert verdict.text == masked


@pytest.mark.parametrize("filler", [*"\u302e\u0d82\u0e35\u094d\u3099゛ﾞゞ\u1b44🄰Ⓢ①⑴❶㋡🅱🈚", "\u0e35\u0e49", "\u0d82\u302e"])
def test_marks_of_another_script_and_what_stands_in_a_frame_pass_nothing_between_letters(filler: str) -> None:
    for text in (f"傻{filler}帽", f"傻帽{filler}"):
        verdict = judged(text, SCRIPTS)
        assert verdict is not None, ascii(text)
        assert verdict.text.startswith("**")
    verdict = judged(f"f{filler}uck", TRICKS)
    assert verdict == WordVerdict(WordAction.MASK, "*" * (3 + len(filler)) + "*", ("*fuck*",))


def test_a_hash_within_a_word_belongs_to_it() -> None:
    text = "# words\nmask C#\nmask F# # a language\nrefuse\tgo #home\n  count #tag\nmask a#b#c\r\nmask d\u2028e#\n"
    with pytest.raises(LibraryError, match=r"line 7: .* has invisible characters"):
        read_library(text)
    assert read_library(text.replace("\u2028", "")) == {
        "C#": WordAction.MASK,
        "F#": WordAction.MASK,
        "go": WordAction.REFUSE,
        "#tag": WordAction.COUNT,
        "a#b#c": WordAction.MASK,
        "de#": WordAction.MASK,
    }


@pytest.mark.parametrize(
    "line", ["mask # all of it", "mask #", "mask #\tx", "mask @", "mask $", "mask \u3164", "mask \u2800\ufe0f"]
)
def test_a_line_without_a_word_is_refused(line: str) -> None:
    with pytest.raises(LibraryError, match="line 1"):
        read_library(line)


@pytest.mark.parametrize("word", ["می‌خواهم", "क्‍ष", "a\U0001fae8b", "a\U0001faefb"])
def test_a_word_may_have_joiners_and_characters_newer_than_this_python(word: str) -> None:
    assert check_word(word) == word


@pytest.mark.parametrize("word", ["a\u200bb", "a\u202eb", "a\x00b", "a\ufeffb", "a\U000e0061b", "a\ufffeb"])
def test_a_word_with_characters_that_nobody_sees_is_refused(word: str) -> None:
    with pytest.raises(LibraryError, match="invisible"):
        check_word(word)


@pytest.mark.parametrize("text", ["а" * 200, "@$" * 100, "🅰" * 200, "Νa@" * 66])
def test_texts_with_many_readings_cost_little_more(text: str) -> None:
    """Compared in the same run with the check of an honest text of the same length."""
    library = WordLibrary({"*cd*": WordAction.COUNT, "傻帽": WordAction.REFUSE})
    assert least_s(lambda: judged(text, library)) < 20 * least_s(lambda: judged("ab cd " * 33, library))
