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
from email import message_from_bytes
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import aiohttp
import pytest

from devstack.builds import ROOT
from devstack.system import System
from liveroom import __version__
from liveroom.extras import EXTRA_OF
from viewer.client import Viewer
from viewer.effects import Delivered, Effect
from viewer.sender import Accepted, Sender

pytestmark = pytest.mark.system
BOT = ROOT / "docs" / "bot.py"
BIN = Path(sys.executable).parent
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
GIT_FILES = ("git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES)
SERVICES = ("ingress", "broadcaster", "edge", "scheduler", "autoscaler", "viewer.canary")
WITHOUT_SERVER = {"demo": "demo", "up": "demo", "loadtest": "demo", "doctor": "server", "topics": "server"}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what `make wheel` builds: the sdist, and the wheel made from it."""
    return build(tmp_path_factory.mktemp("built"))


def build(folder: Path, *options: str) -> Path:
    """Build into `folder` as `make wheel` does and return it."""
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), *options, str(ROOT))
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def base_install(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel and its base dependencies alone."""
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    environment = tmp_path_factory.mktemp("install") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    subprocess.run([*pip, "--python", str(environment), "install", str(wheel_in(built))], check=True)
    return environment / "bin"


def wheel_in(folder: Path) -> Path:
    """Return the only wheel in `folder`."""
    [wheel] = folder.glob("*.whl")
    return wheel


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of an installed environment, away from the checkout."""
    return subprocess.run(
        [str(program), *arguments], cwd=program.parent, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_a_wheel_from_the_sdist_is_the_one_from_the_checkout(built: Path, tmp_path: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    assert sdist.name == f"liveroom-{__version__}.tar.gz"
    assert wheel_in(built).name == f"liveroom-{__version__}-py3-none-any.whl"
    assert wheel_in(build(tmp_path, "--wheel")).read_bytes() == wheel_in(built).read_bytes()


def test_a_wheel_has_every_file_of_its_packages_and_the_demo_s_danmaku_and_nothing_else(built: Path) -> None:
    with ZipFile(wheel_in(built)) as wheel:
        found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(GIT_FILES, cwd=ROOT, check=True, capture_output=True, text=True)
    assert found == {*tracked.stdout.split("\n")[:-1], "cli/data/danmaku-130614.xml"}


def test_a_wheel_carries_its_licences_and_the_readme(built: Path) -> None:
    with ZipFile(wheel_in(built)) as wheel:
        folder = f"liveroom-{__version__}.dist-info"
        about = message_from_bytes(wheel.read(f"{folder}/METADATA"))
        assert about.get_all("License-File") == ["LICENSE", "viewer/web/vendor/danmaku.LICENSE.txt"]
        for name in about.get_all("License-File", []):
            assert wheel.read(f"{folder}/licenses/{name}") == (ROOT / name).read_bytes()
    assert (about["Name"], about["Version"], about["License-Expression"]) == ("liveroom", __version__, "MIT")
    assert about["Description-Content-Type"] == "text/markdown"
    assert about.get_payload(decode=True) == (ROOT / "README.md").read_bytes()


@pytest.mark.parametrize("program", ["liveroom", *SERVICES])
def test_every_program_prints_the_version_without_any_extra(program: str, base_install: Path) -> None:
    command = (base_install / "liveroom",) if program == "liveroom" else (base_install / "python", "-m", program)
    done = run(*command, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"liveroom {__version__}\n", "")


@pytest.mark.parametrize("program", ["liveroom", *SERVICES])
def test_every_program_of_an_editable_install_prints_the_version(program: str) -> None:
    command = (BIN / "liveroom",) if program == "liveroom" else (BIN / "python", "-m", program)
    done = subprocess.run([*command, "--version"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"liveroom {__version__}\n", "")


def test_the_version_is_the_one_that_manifests_and_documents_name() -> None:
    tag = re.compile(r"(?:newTag: |-t liveroom:)(\S+)")
    named = {
        str(path.relative_to(ROOT)): tag.findall(path.read_text())
        for path in sorted((ROOT / "deploy").rglob("*"))
        if path.is_file() and path.suffix != ".pyc" and tag.search(path.read_text())
    }
    assert len(named) == 4
    assert all(set(found) == {__version__} for found in named.values()), named


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


def test_the_page_on_the_client_shows_the_bot_as_it_is() -> None:
    assert f"```python\n{BOT.read_text()}```" in (ROOT / "docs" / "python-client.md").read_text()


async def test_the_bot_of_the_page_answers_with_the_base_install(kafka_bootstrap: str, base_install: Path) -> None:
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
