"""A `liveroom up` of the tests, as a person starts it, and a shell beside it."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from devstack.builds import ROOT
from devstack.programs import CURL, need

MINE: Final = "http://my.test:5173"  # an origin whose pages may enter; browsers know .page and .dev by HTTPS alone
PROGRAMS: Final = Path(sys.executable).parent
END_S: Final = 60.0


def clean_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without what tests set for services."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LIVEROOM_", "KAFKA_"))}
    return kept | {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"} | more


class Up:
    """A running one; `run` gives a shell that knows it."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = environment

    def run(self, script: str, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run commands after `eval "$(liveroom up --env)"`, up to the first that fails.

        A refusal of a service fails `curl` too.
        """
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f'eval "$(liveroom up --env)"\n{script}'],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@contextmanager
def running_up(bootstrap: str, folder: Path, arguments: Sequence[str] = ()) -> Iterator[Up]:
    """Run one on a Kafka of the tests, with topics of its own, while the block runs."""
    programs = folder / "programs"
    programs.mkdir(parents=True)
    (programs / "curl").symlink_to(need(CURL))
    (folder / ".curlrc").write_text("fail\nshow-error\nsilent\nmax-time = 60\n")
    environment = clean_environment(LIVEROOM_RUNTIME_DIR=str(folder / "run"), CURL_HOME=str(folder))
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    options = ["--edges", "1", "--partitions", "2", "--ports", "0", "--page-port", "0", "--prefix", f"u{secrets.token_hex(4)}."]
    with (folder / "up.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            ["liveroom", "up", *options, *arguments],
            env=environment | {"KAFKA_BOOTSTRAP": bootstrap},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.split()[2:] == ["ready"]:
                    break
            else:
                log.seek(0)
                raise AssertionError(f"it ended with {process.wait()}: {''.join(lines)}{log.read()}")
            yield Up(folder, environment)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=END_S)
    assert process.returncode == 0
