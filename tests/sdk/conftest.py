"""The SDK as an application has it."""

import json
import shutil
from pathlib import Path

import pytest

from tests.sdk.tools import SDK, run


@pytest.fixture(scope="session")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, as `npm pack` makes it."""
    folder = tmp_path_factory.mktemp("packed")
    [packed] = json.loads(run(SDK, "npm", "pack", "--json", "--pack-destination", str(folder)))
    return folder / str(packed["filename"])


@pytest.fixture(scope="session")
def app(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An application that has the package installed."""
    folder = tmp_path_factory.mktemp("app") / "app"
    shutil.copytree(Path(__file__).parent / "app", folder)
    run(folder, "npm", "install", "--offline", "--no-audit", "--no-fund", str(tarball))
    return folder
