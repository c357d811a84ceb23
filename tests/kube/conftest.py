"""A control plane with nodes, for each test its own: it takes five seconds, and some tests stop it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from tests.kube.nodes import Nodes
from tests.kube.plane import Plane, build, missing

NODES = 8


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say plainly what a machine lacks that cannot run these."""
    if lacks := missing():
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.skip(reason=f"no Kubernetes control plane here: {lacks}"))


@pytest.fixture(scope="session")
def programs() -> Path:
    """The control plane's programs; built at the first time."""
    return build()


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
    """The driver reads it in a thread that has a loop of its own, as the library wants it; there files may be waited for."""
    for function in blocking_calls_fail.functions.values():
        function.can_block_in("autoscaler/drivers/kubernetes.py", "_connect")
