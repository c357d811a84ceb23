"""Prose of documents is at most 100 columns wide, as lint holds docstrings and comments to it."""

import re
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COLUMNS = 100
DOCUMENTS = [*ROOT.glob("*.md"), *(path for folder in ("docs", "deploy", "tests") for path in (ROOT / folder).rglob("*.md"))]


def columns(line: str) -> int:
    """How wide a line is where a Chinese character takes two columns."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


def too_wide(text: str) -> list[int]:
    """The lines of prose that are too wide: no table, code or picture, and two words or more."""
    found, is_code = [], False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        is_prose = not is_code and not line.startswith(("|", "<", "!["))
        words = re.sub(r"^[\s>#*-]+|^\s*\d+\.\s", "", line)
        if is_prose and " " in words and columns(line) > COLUMNS:
            found.append(number)
    return found


@pytest.mark.parametrize("document", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in sorted(DOCUMENTS)])
def test_prose_is_at_most_100_columns_wide(document: Path) -> None:
    assert too_wide(document.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param(f"a {'b' * 98}\nab {'b' * 98}\n", [2], id="one column too many"),
        pytest.param(f"- a {'b' * 98}\n  1. a {'b' * 98}\n", [1, 2], id="in a list"),
        pytest.param(f"中 {'文' * 49}\n", [1], id="Chinese characters take two columns"),
        pytest.param(f"| a | {'b' * 120} |\n", [], id="a table"),
        pytest.param(f"```sh\na {'b' * 120}\n```\nb\n", [], id="code"),
        pytest.param(f"see\nhttps://example.com/{'b' * 120}\n", [], id="an address"),
    ],
)
def test_what_is_too_wide_is_found(text: str, found: list[int]) -> None:
    assert too_wide(text) == found
