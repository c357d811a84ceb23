"""Builds: which code the services of a system run.

Owns how a service's module is started: with which interpreter, from which folder, and through which
launcher. A system normally runs the code that this process runs (`THIS`). An upgrade runs two
builds side by side: `Service.build` is changed between two starts of a service.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import liveroom

ROOT: Final = Path(liveroom.__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Build:
    """One version of the code.

    - `name`: for people.
    - `folder`: the checkout whose packages the services import.
    - `python`: the interpreter. A version with other dependencies has an environment of its own.
    - `launcher`: a module that runs the service's module, which is its argument; empty: none.
    """

    name: str
    folder: Path
    python: str = sys.executable
    launcher: str = ""

    def command(self, module: str) -> tuple[str, ...]:
        """Return the command that runs a module of this build."""
        # -P: the working directory is no place for modules
        return (self.python, "-P", "-m", *filter(None, (self.launcher, module)))

    def environment(self) -> dict[str, str]:
        """Return this process's environment, extended so that a child imports this build."""
        environment = dict(os.environ)
        if (self.folder / "pyproject.toml").is_file():  # a checkout, perhaps not installed; a wheel is in site-packages
            paths = (str(self.folder), environment.get("PYTHONPATH"))
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        return environment


THIS: Final = Build("this code", ROOT)
