"""A real Prometheus, of the distribution's packages."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CACHE = Path(tempfile.gettempdir()) / f"liveroom-prometheus-{os.getuid()}"


@pytest.fixture(scope="session")
def prometheus_folder() -> Path:
    """Return the folder with `prometheus` and `promtool`: the system's, or of Debian's package, unpacked into a cache."""
    if found := shutil.which("promtool"):
        return Path(found).parent
    unpacked = CACHE / "usr" / "bin"
    if not (unpacked / "promtool").exists():
        if shutil.which("apt-get") is None:
            pytest.skip("no prometheus: install it (brew install prometheus)")
        CACHE.mkdir(mode=0o700, exist_ok=True)
        fetch = ["apt-get", "download", "prometheus"]
        if subprocess.run(fetch, cwd=CACHE, capture_output=True, check=False).returncode:
            subprocess.run(["apt-get", "update"], capture_output=True, check=False)  # a fresh machine knows no packages yet
            subprocess.run(fetch, cwd=CACHE, capture_output=True, check=True)
        subprocess.run(["dpkg", "-x", str(next(CACHE.glob("prometheus_*.deb"))), str(CACHE)], check=True)
    return unpacked
