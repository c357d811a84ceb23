"""An overlay of one's own, written as deploy/README.md says it.

Owns the reading of the page: a block of code whose first line is a comment with a file's name is
that file. Called by the tests of manifests and by those of newcomers.
"""

import re
import shutil
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import yaml

from devstack.builds import ROOT

PAGE: Final = ROOT / "deploy" / "README.md"
_BLOCK: Final = re.compile(r"^ *```\w*\n(?P<body> *# (?P<name>[\w-]+\.\w+)\n.*?)^ *```", re.MULTILINE | re.DOTALL)


def files() -> dict[str, str]:
    """The files that the page shows, by name."""
    return {block["name"]: textwrap.dedent(block["body"]) for block in _BLOCK.finditer(PAGE.read_text(encoding="utf-8"))}


def write_overlay(folder: Path, base: str = "production", components: Iterable[str] = (), **changes: object) -> None:
    """Write the overlay of the page, with more components and `changes` of its kustomization."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "liveroom").symlink_to(ROOT)
    for name, text in files().items():
        (folder / name).write_text(text)
    shutil.copy(ROOT / "deploy/overlays/production/limits.json", folder)
    made = yaml.safe_load((folder / "kustomization.yaml").read_text()) | changes
    made["resources"] = [each.replace("overlays/production", f"overlays/{base}") for each in made["resources"]]
    made["components"] += [f"liveroom/deploy/components/{each}" for each in components]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(made))
