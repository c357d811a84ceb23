"""Blocks of documents that say that they run, run as they stand beside a real `liveroom up`."""

from pathlib import Path

import pytest

from devstack.builds import ROOT
from tests.docs.blocks import blocks, runnable
from tests.up import Up

DOCUMENTS = sorted(str(path.relative_to(ROOT)) for folder in ("docs", "deploy") for path in (ROOT / folder).rglob("*.md"))
BESIDE_UP = [document for document in DOCUMENTS if runnable(document, "up")]


@pytest.mark.kafka
@pytest.mark.timeout(180)
@pytest.mark.parametrize("document", BESIDE_UP)
def test_every_command_of_a_page_works_beside_a_running_system(up: Up, document: str) -> None:
    done = up.run("set -x\n" + runnable(document, "up"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_the_pages_that_people_begin_with_run() -> None:
    assert {"docs/quickstart.md", "docs/ingress.md", "docs/moderation.md"} <= set(BESIDE_UP)


def test_a_block_is_found_with_its_mark_and_without_its_indent(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- run: up -->\n```sh\necho a\n```\n1. b\n   ```python\n   if b:\n       c()\n   ```\n```\nd\n```\n")
    assert [each[1:] for each in blocks(str(page))] == [
        (3, "sh", "up", "echo a\n"),
        (7, "python", "", "if b:\n    c()\n"),
        (11, "", "", "d\n"),
    ]
    assert runnable(str(page), "up") == "echo a\n"
