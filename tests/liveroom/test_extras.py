"""What a program says that is started without the packages of an extra."""

import subprocess
import sys

import pytest

from devstack.builds import THIS
from liveroom.extras import EXTRA_OF, explained, remedy

SERVICES = ("ingress", "broadcaster", "edge", "scheduler", "autoscaler", "viewer.canary")
WITHOUT = """
import runpy, sys
service, *missing = sys.argv[1:]
sys.modules |= dict.fromkeys(missing)
sys.argv[:] = [service, "--help"]
runpy.run_module(service, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_with_the_packages_of_the_extra_server_alone(service: str) -> None:
    missing = [package for package, extra in EXTRA_OF.items() if extra != "server"]
    command = (sys.executable, "-P", "-c", WITHOUT, service, *missing)
    done = subprocess.run(command, env=THIS.environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m")


@pytest.mark.parametrize(("package", "extra"), EXTRA_OF.items())
def test_a_missing_package_names_its_extra(package: str, extra: str) -> None:
    text = remedy(ModuleNotFoundError(name=f"{package}.part"))
    assert text == f"{package} is not installed. Run: pip install 'liveroom[{extra}]'"


def test_a_program_that_needs_more_than_the_missing_package_advises_its_own_extra(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_, explained("liveroom", "demo"):
        raise ModuleNotFoundError(name="aiokafka")
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "liveroom: aiokafka is not installed. Run: pip install 'liveroom[demo]'\n"


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError(name="ours"), ModuleNotFoundError(), ImportError("a name"), KeyError("x")]
)
def test_any_other_error_passes_through(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, explained("liveroom"):
        raise error
    assert raised.value is error
