"""What a front-end developer uses beside the SDK: npm, TypeScript, esbuild and Vite.

`tests.prepare` brings them, at the versions of `tools/package-lock.json`. That file names no
registry: npm takes the one that the machine is set up for.
"""

import hashlib
import subprocess
from pathlib import Path
from typing import Final

from devstack.page_server import FOLDER
from devstack.programs import Program, need, programs_dir

NPM: Final = Program(
    "npm",
    (),  # not that of the PATH, which may be too old for these tools
    "LIVEROOM_NPM",
    "the tests of the JavaScript SDK as a package",
    "npm of Node.js 22 or newer, from nodejs.org",
)
SDK: Final = FOLDER / "sdk"
STRICT: Final = (
    *("--strict", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess", "--verbatimModuleSyntax"),
    *("--noEmit", "--target", "es2022"),
)
LOCK: Final = Path(__file__).parent / "tools" / "package-lock.json"


def tools_dir() -> Path:
    """Return the folder of the tools; another lock has another one."""
    return programs_dir() / f"sdk-tools-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"


def run(folder: Path, name: str, *arguments: str) -> str:
    """Run npm or one of the tools in a folder; return what it prints, and fail where it fails."""
    tool = ["exec", "--offline", "--prefix", str(tools_dir()), "--", str(tools_dir() / "node_modules" / ".bin" / name)]
    command = [need(NPM), *([] if name == "npm" else tool), *arguments]
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, f"{name} {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout
