"""A control plane with nodes for each test: it starts in five seconds, and some tests stop it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from tests.conftest import told_at_once
from tests.kube.build import BuildError, prepare
from tests.kube.nodes import Nodes
from tests.kube.plane import Plane

NODES = 8


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have the control plane built before the time of any test begins."""
    if any(item.get_closest_marker("kube") for item in session.items) and not session.config.option.collectonly:
        with told_at_once(session.config, BuildError):
            prepare()


@pytest.fixture(scope="session")
def programs() -> Path:
    """The control plane's programs."""
    return prepare() / "bin"


@pytest.fixture(scope="session")
def definitions() -> list[Path]:
    """The custom resource definitions that the manifests need."""
    return sorted((prepare() / "definitions").iterdir())


@pytest.fixture
async def plane(programs: Path) -> AsyncIterator[Plane]:
    """A control plane that runs."""
    async with Plane(programs) as plane:
        yield plane


@pytest.fixture
async def nodes(plane: Plane, tmp_path: Path) -> AsyncIterator[Nodes]:
    """Nodes on it."""
    async with Nodes(plane, tmp_path / "pods", NODES, {}) as nodes:
        yield nodes


@pytest.fixture(autouse=True)
def configuration_is_read_in_a_thread(blocking_calls_fail: BlockBuster) -> None:
    """The driver reads it in a thread that has a loop of its own, as the library wants it; there
    files may be waited for.
    """
    for function in blocking_calls_fail.functions.values():
        function.can_block_in("autoscaler/drivers/kubernetes/api.py", "_connect")
