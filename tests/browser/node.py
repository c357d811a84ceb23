"""The Node.js that Playwright brings and drives the browser with.

It needs libatomic, which an empty Debian lacks.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from devstack.programs import Program

_PLAYWRIGHT: Final = find_spec("playwright")
OWN: Final = Path((_PLAYWRIGHT and _PLAYWRIGHT.origin) or "").parent / "driver" / "node"
WITH_LIBRARY: Final = Path(sys.prefix) / "bin" / "playwright-node"  # made by tests.prepare
NODE: Final = Program(
    "node",
    (str(WITH_LIBRARY), str(OWN)),
    "PLAYWRIGHT_NODEJS_PATH",
    "Playwright, by which tests drive the pages",
    "apt install libatomic1, dnf install libatomic, apk add libatomic",
)
