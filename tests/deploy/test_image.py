"""The image: what it installs is locked with hashes, and the locks agree with pyproject.toml."""

import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from deploy.lock import BUILD, EXTRAS, LOCKS, PYTHONS, lock_of

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTAINERFILE: Final = (ROOT / "deploy" / "Containerfile").read_text()
PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==(\S+) \\$((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+)", re.MULTILINE)


def pinned(lock: Path) -> dict[str, Version]:
    """The version of each package in a lock."""
    return {canonicalize_name(name): Version(version) for name, version, _ in PIN.findall(lock.read_text())}


def wanted(python: str) -> dict[str, list[Requirement]]:
    """What the image needs by pyproject.toml, by package: the base and its extras."""
    project = PROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    found: dict[str, list[Requirement]] = {}
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    for requirement in map(Requirement, lines):
        if requirement.name != "liveroom" and (requirement.marker is None or requirement.marker.evaluate(environment)):
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_fits_what_the_project_needs(python: str) -> None:
    have = pinned(lock_of(python))
    unfit = {
        str(each)
        for name, requirements in wanted(python).items()
        for each in requirements
        if name not in have or not each.specifier.contains(have[name])
    }
    assert unfit == set(), "run: make lock"


def test_the_lock_of_the_build_fits_what_the_build_needs() -> None:
    have = pinned(BUILD)
    for requirement in map(Requirement, PROJECT["build-system"]["requires"]):
        assert requirement.specifier.contains(have[canonicalize_name(requirement.name)]), "run: make lock"


@pytest.mark.parametrize("lock", sorted(LOCKS.iterdir()), ids=lambda path: path.name)
def test_every_line_of_a_lock_is_a_version_with_hashes(lock: Path) -> None:
    rest = PIN.sub("", lock.read_text())
    assert [line for line in rest.splitlines() if line and not line.startswith("#")] == []
    assert pinned(lock)


def test_there_is_a_lock_for_each_python_of_the_image_and_no_other() -> None:
    assert {path.name for path in LOCKS.iterdir()} == {BUILD.name, *(lock_of(python).name for python in PYTHONS)}
    (default,) = re.findall(r"^ARG PYTHON=(\S+)$", CONTAINERFILE, re.MULTILINE)
    assert default in PYTHONS


def test_the_image_installs_nothing_without_a_hash() -> None:
    installs = [line for line in CONTAINERFILE.splitlines() if line.startswith("RUN") and re.search(r"\bpip\b", line)]
    assert len(installs) == 4
    for line in installs:
        assert "--require-hashes" in line or {"--no-index", "--no-deps"} <= set(line.split()), line


def test_the_base_is_given_to_the_build_and_is_the_same_in_both_stages() -> None:
    bases = re.findall(r"^FROM (\S+)", CONTAINERFILE, re.MULTILINE)
    assert bases == ["${BASE}", "${BASE}"]
    assert re.search(r"^ARG BASE=docker\.io/library/python:\$\{PYTHON\}-slim$", CONTAINERFILE, re.MULTILINE)


# ---- the policy of production
DIGEST: Final = "@sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("image", "good"),
    [
        ("registry.example.com/liveroom:0.1.0", True),
        ("registry.example.com:5000/liveroom:v1.12.3-rc.1", True),
        (f"registry.example.com/liveroom{DIGEST}", True),
        (f"registry.example.com/liveroom:latest{DIGEST}", True),
        ("registry.example.com/liveroom", False),
        ("registry.example.com:5000/liveroom", False),
        ("registry.example.com/liveroom:latest", False),
        ("registry.example.com/liveroom:main", False),
        ("registry.example.com/liveroom:1", False),
        ("registry.example.com/liveroom:1.2", False),
        ("registry.example.com/1.2.3", False),
        ("registry.example.com/liveroom:1.2.3/other", False),
        ("registry.example.com/liveroom@sha256:0", False),
    ],
)
def test_production_refuses_an_image_whose_tag_may_move(image: str, good: bool) -> None:
    policy, binding = yaml.safe_load_all((ROOT / "deploy/overlays/production/images.yaml").read_text())
    (pattern,) = re.findall(r"matches\('(.+)'\)", policy["spec"]["validations"][0]["expression"])
    assert (re.search(pattern, image) is not None) is good
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
