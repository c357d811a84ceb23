"""The glossary has each term once, in order, and names the file where it lives."""

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs/glossary.md").read_text(encoding="utf-8")
ENTRIES = re.findall(r"^- \*\*(.+?)\*\*: (.*?)(?=^- |\Z)", TEXT, re.MULTILINE | re.DOTALL)


def test_each_term_stands_once_and_in_order() -> None:
    terms = [term for names, _ in ENTRIES for term in names.split(", ")]
    assert len(terms) == TEXT.count("\n- ") + sum(", " in names for names, _ in ENTRIES) >= 40
    assert len(set(terms)) == len(terms)
    assert [names for names, _ in ENTRIES] == sorted(names for names, _ in ENTRIES)


def test_each_term_has_one_sentence_and_its_files() -> None:
    for term, meaning in ENTRIES:
        assert re.search(r"`[\w/]+\.(py|html)`", meaning), term
        assert len(re.findall(r"\.(?:\s|$)", meaning)) <= 2, term
