"""An overlay of one's own, written as deploy/README.md says it.

Owns the reading of the page: a block of code whose first line is a comment with a file's name is
that file. Called by the tests of manifests and by those of newcomers.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import yaml

from devstack.builds import ROOT
from tests.docs.blocks import blocks

PAGE: Final = ROOT / "deploy" / "README.md"
_NAME: Final = re.compile(r"# ([\w-]+\.\w+)\n")


def files() -> dict[str, str]:
    """The files that the page shows, by name."""
    found = [block.body for block in blocks(str(PAGE))]
    return {named[1]: body for body in found if (named := _NAME.match(body))}


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
