"""Which code a service runs: its folder, its launcher, and another one at the next start."""

from pathlib import Path

import pytest

from devstack.builds import THIS, Build
from devstack.processes import Service

SERVED = "import sys\nprint('{name}', *sys.argv[1:], flush=True)\n"


@pytest.fixture
def builds(tmp_path: Path) -> tuple[Build, Build]:
    """Return two checkouts of one module, which prints where it comes from."""
    for name in ("old", "new"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "pyproject.toml").touch()
        (folder / "served.py").write_text(SERVED.format(name=name))
    return Build("old", tmp_path / "old"), Build("new", tmp_path / "new")


async def test_a_service_runs_the_code_of_its_build_and_another_one_after_the_next_start(
    builds: tuple[Build, Build], tmp_path: Path
) -> None:
    service = Service("served-1", "served", tmp_path)
    for service.build in builds:
        await service.start()
        assert await service.ended() == 0
        await service.stop()
    assert service.log.read_text() == "old\nnew\n"


async def test_a_launcher_runs_the_module_of_the_service(builds: tuple[Build, Build], tmp_path: Path) -> None:
    launched = Build("launched", builds[0].folder, launcher="served")
    service = Service("edge-1", "edge", tmp_path, build=launched)
    await service.start()
    assert await service.ended() == 0
    await service.stop()
    assert service.log.read_text() == "old edge\n"


def test_a_checkout_that_another_build_runs_in_comes_before_what_is_installed(builds: tuple[Build, Build]) -> None:
    assert builds[0].environment()["PYTHONPATH"].startswith(str(builds[0].folder))
    assert THIS.environment()["PYTHONPATH"].startswith(str(THIS.folder))
