"""Texts of others, as a terminal may print them. Pure."""

from unicodedata import category


def printable(text: str) -> str:
    """Return `text` with control and format characters replaced: they would move the cursor."""
    return "".join("\N{REPLACEMENT CHARACTER}" if category(character)[0] == "C" else character for character in text)
