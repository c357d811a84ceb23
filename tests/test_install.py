"""What `pip install liveroom` brings, on an environment that has nothing else.

Of the running system's stage: there the bot of the quick start runs in that environment too, and
the wheel is built and installed once.
"""

import asyncio
import re
import secrets
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import packages_distributions
from pathlib import Path

import aiohttp
import pytest

from devstack.processes import ROOT
from devstack.system import System
from liveroom.extras import EXTRA_OF
from viewer.client import Viewer
from viewer.effects import Delivered, Effect
from viewer.sender import Accepted, Sender

pytestmark = pytest.mark.system
BOT = ROOT / "docs" / "bot.py"
SERVICES = ("ingress", "broadcaster", "edge", "scheduler", "autoscaler", "viewer.canary")
WITHOUT_SERVER = {"demo": "demo", "up": "demo", "loadtest": "demo", "doctor": "server", "topics": "server"}


@pytest.fixture(scope="session")
def base_install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel and its base dependencies alone."""
    folder = tmp_path_factory.mktemp("install")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True)
    [wheel] = folder.glob("*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    subprocess.run([*pip, "--python", str(environment), "install", str(wheel)], check=True)
    return environment / "bin"


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of an installed environment, away from the checkout."""
    return subprocess.run(
        [str(program), *arguments], cwd=program.parent, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_a_client_needs_no_extra(base_install: Path) -> None:
    done = run(
        base_install / "python",
        "-c",
        "import viewer.client, viewer.sender, viewer.load, viewer.sink, viewer.ledger, cli.watch, cli.replay",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_commands_of_a_client_need_no_extra(base_install: Path) -> None:
    assert "liveroom demo" in run(base_install / "liveroom", "--help").stdout
    token = run(base_install / "liveroom", "token", "--user", "ann", "--token-key", "k" * 32)
    assert (token.returncode, token.stdout.count(".")) == (0, 2)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_is_started_without_its_packages_says_what_to_install(service: str, base_install: Path) -> None:
    done = run(base_install / "python", "-m", service)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("is not installed. Run: pip install 'liveroom[server]'\n")


@pytest.mark.parametrize(("command", "extra"), WITHOUT_SERVER.items())
def test_a_command_that_needs_an_extra_says_which(command: str, extra: str, base_install: Path) -> None:
    done = run(base_install / "liveroom", command)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(f"is not installed. Run: pip install 'liveroom[{extra}]'\n")


def test_the_quick_start_shows_the_bot_as_it_is() -> None:
    assert f"```python\n{BOT.read_text()}```" in (ROOT / "docs" / "quickstart.md").read_text()


async def test_the_bot_of_the_quick_start_answers_with_the_base_install(kafka_bootstrap: str, base_install: Path) -> None:
    answered = asyncio.Event()

    def on_effect(effect: Effect) -> None:
        if isinstance(effect, Delivered) and b"pong, Ann" in bytes(effect.message.data):
            answered.set()

    async with (
        System(kafka_bootstrap, prefix=f"b{secrets.token_hex(4)}.", partitions=2, edges=1) as system,
        aiohttp.ClientSession() as http,
        Viewer(system.scheduler_url, ["live-1"], http=http, on_effect=on_effect) as viewer,
    ):
        await viewer.joined()
        environment = {
            "LIVEROOM_SCHEDULER_URL": system.scheduler_url,
            "LIVEROOM_INGRESS_URL": system.ingress_url,
            "LIVEROOM_TOKEN": system.token("bot", name="Bot"),
        }
        bot = await asyncio.create_subprocess_exec(base_install / "python", BOT, env=environment, cwd=base_install)
        ann = Sender(system.ingress_url, system.token("ann", name="Ann"), http)
        try:
            async with asyncio.timeout(30):
                while not answered.is_set():  # the bot takes a moment to join the room
                    assert isinstance(await ann.danmaku("live-1", "ping"), Accepted)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(answered.wait(), 1)
            assert bot.returncode is None
        finally:
            bot.terminate()
            await bot.wait()


def test_every_package_of_one_extra_has_its_remedy() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {name_of(line) for line in project["dependencies"]}
    distributions = {package: {canonical(name) for name in names} for package, names in packages_distributions().items()}
    for package, extra in EXTRA_OF.items():
        lines: list[str] = project["optional-dependencies"][extra]
        names = {name_of(line) for line in lines} | {"cryptography" for line in lines if "[crypto]" in line}
        assert distributions[package] & names, f"{package} is no package of [{extra}]"
        assert not distributions[package] & base, f"{package} comes with the base"


def name_of(requirement: str) -> str:
    """Return the distribution that a line of pyproject.toml requires."""
    return canonical(re.split(r"[^\w-]", requirement)[0])


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")
