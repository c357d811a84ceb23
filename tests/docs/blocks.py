"""The code blocks of documents, and which of them are run.

A comment right before its fence marks a block: `<!-- run: up -->` says that it runs as it stands,
in a shell that has evaluated `liveroom up --env` beside a running `liveroom up`. The word after
`run:` is for the test that runs blocks of that sort, and readers of the page do not see it.
"""

import re
from typing import Final, NamedTuple

from devstack.builds import ROOT

_BLOCK: Final = re.compile(
    r"(?:^ *<!-- run: (?P<run>[\w-]+) -->\n+)?^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of a document; `line` is that of its fence, `run` is empty where nothing runs it."""

    document: str
    line: int
    language: str
    run: str
    body: str


def blocks(document: str) -> list[Block]:
    """Return the blocks of a document, which is named from the root of the tree."""
    text = (ROOT / document).read_text("utf-8")
    found = []
    for each in _BLOCK.finditer(text):
        indent = each["indent"]
        body = "".join(line.removeprefix(indent) for line in each["body"].splitlines(keepends=True))
        line = text.count("\n", 0, each.start("indent")) + 1
        found.append(Block(document, line, each["language"], each["run"] or "", body))
    return found


def bodies(document: str, language: str) -> list[str]:
    """Return what stands in the blocks of a document in a language."""
    return [block.body for block in blocks(document) if block.language == language]


def only_body(document: str, language: str) -> str:
    """Return what stands in the only block of a document in a language."""
    (body,) = bodies(document, language)
    return body


def runnable(document: str, run: str) -> str:
    """Return the marked blocks of one sort, one after the other, as one script."""
    return "\n".join(each.body for each in blocks(document) if each.run == run)
