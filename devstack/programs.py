"""Finds the programs from outside Python that the tests and `up --with-prometheus` need.

Owns the order of the search: the environment variable of a program, the PATH, then liveroom's cache
folder, into which `python -m tests.prepare` downloads. It installs nothing. Everything that needs a
program asks here, so all find the same one.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devstack.folders import cache_dir
from liveroom.errors import ExplainedError

_ASK_TIMEOUT_S: Final = 20.0  # a browser's first start from a slow disk


@dataclass(frozen=True, slots=True)
class Program:
    """One program: its commands, its environment variable, its purpose, how to install it.

    `answers`: the argument to which it answers by ending well, wherever it runs.
    """

    name: str
    commands: tuple[str, ...]
    variable: str
    purpose: str
    install: str
    oldest: tuple[int, int] | None = None
    answers: str = "--version"


CHROMIUM: Final = Program(
    "chromium",
    ("chromium", "chromium-browser", "google-chrome", "chrome"),
    "LIVEROOM_CHROMIUM",
    "the tests of the pages",
    "apt install chromium, dnf install chromium, apk add chromium, pacman -S chromium, brew install --cask chromium",
)
PROMETHEUS: Final = Program(
    "prometheus",
    ("prometheus",),
    "LIVEROOM_PROMETHEUS",
    "the tests of the dashboards and `up --with-prometheus`",
    "apt install prometheus, apk add prometheus, pacman -S prometheus, brew install prometheus",
)
PROMTOOL: Final = Program("promtool", ("promtool",), "LIVEROOM_PROMTOOL", "the tests of the alerts", "it comes with Prometheus")
KUBECTL: Final = Program(
    "kubectl",
    ("kubectl",),
    "LIVEROOM_KUBECTL",
    "the tests of the manifests",
    "version 1.30 or newer, from kubernetes.io/docs/tasks/tools or by brew install kubectl",
    answers="help",
    oldest=(1, 30),  # Debian 12 has 1.20, whose kustomize knows neither `components` nor `envs`
)
HAPROXY: Final = Program(
    "haproxy",
    ("haproxy", "/usr/sbin/haproxy"),
    "LIVEROOM_HAPROXY",
    "the tests behind proxies",
    "apt install haproxy, dnf install haproxy, apk add haproxy, brew install haproxy",
    answers="-v",
)
NGINX: Final = Program(
    "nginx",
    ("nginx", "/usr/sbin/nginx"),
    "LIVEROOM_NGINX",
    "the tests behind proxies",
    "apt install nginx, dnf install nginx, apk add nginx, brew install nginx",
    answers="-v",
)
HITCH: Final = Program(
    "hitch",
    ("hitch", "/usr/sbin/hitch"),
    "LIVEROOM_HITCH",
    "the tests behind a proxy that ends TLS",
    "apt install hitch, dnf install hitch, apk add hitch, brew install hitch",
)
CURL: Final = Program(
    "curl",
    ("curl",),
    "LIVEROOM_CURL",
    "the tests of the commands in documents",
    "apt install curl, dnf install curl, apk add curl, brew install curl",
)
PROXIES: Final = (HAPROXY, NGINX, HITCH)  # for tests alone
ALL: Final = (CHROMIUM, PROMETHEUS, PROMTOOL, KUBECTL)


class MissingProgramError(ExplainedError):
    """A program is missing; the message says how to get it."""


def programs_dir() -> Path:
    """Return the folder of downloaded programs."""
    return cache_dir() / "programs"


def cached(program: Program) -> Path:
    """Return where a downloaded program lies."""
    return programs_dir() / "bin" / program.name


def find(program: Program) -> Path | None:
    """Return the first one found that is new enough; None where there is none.

    The environment variable wins, whatever it names.
    """
    if named := os.environ.get(program.variable):
        return Path(named)
    candidates = [*filter(None, map(shutil.which, program.commands)), shutil.which(cached(program))]
    return next((Path(found) for found in candidates if found and _new_enough(program, found)), None)


def need(program: Program) -> str:
    """Return the program; raise MissingProgramError, with how to get it, where it is missing."""
    found = find(program)
    if found is None:
        raise MissingProgramError(
            f"no {program.name}, for {program.purpose}: run python -m tests.prepare, or install it ({program.install}),"
            f" or name it in {program.variable}"
        )
    return str(found)


def runs(program: Program, found: Path) -> str:
    """Return why a program that was found does not run here; empty where it does."""
    try:
        answer = subprocess.run(
            [found, program.answers],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=_ASK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = answer.stderr.strip() or answer.stdout.strip()
    return "" if answer.returncode == 0 else f"{found} ends with {answer.returncode}: {said[-300:]}"


def _new_enough(program: Program, found: str) -> bool:
    if program.oldest is None:
        return True
    command = [found, "version", "--client", "-o", "json"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=_ASK_TIMEOUT_S, check=False
        )
        versions = json.loads(answer.stdout)["clientVersion"]
        return (int(versions["major"]), int(versions["minor"].rstrip("+"))) >= program.oldest
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return False
