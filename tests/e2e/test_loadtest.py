"""`liveroom loadtest` on a real gateway, with an objective that breaks early."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from devstack.builds import THIS

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a load test takes two processor cores"),
]


# A machine that does something else as well must not doubt, nor break anything but what is to
# break.
CALM = ("--client=1", "--applied=0", "--loop-lag-ms=1e9", "--delay-ms=1e9", "--skipped=1", "--missing=1")


async def loadtest(kafka_bootstrap: str, folder: Path, *options: str) -> tuple[int, str]:
    """Run the command on our Kafka; return its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from cli.commands import app; app()",
        "loadtest",
        "--ramp=viewers",
        "--runs=1",
        "--step=1",
        "--factor=4",
        "--first=20",
        *options,
        env=THIS.environment() | {"KAFKA_BOOTSTRAP": kafka_bootstrap, "LIVEROOM_RUNTIME_DIR": str(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    return process.returncode or 0, said


async def test_a_ramp_ends_at_a_knee_with_limits_and_a_report(kafka_bootstrap: str, tmp_path: Path) -> None:
    limits, report = tmp_path / "limits.json", tmp_path / "report.html"
    code, said = await loadtest(
        kafka_bootstrap, tmp_path, *CALM, "--cpu=0.12", "--messages-per-s=20", f"--limits={limits}", f"--report={report}"
    )
    assert code == 0, said
    assert "where cpu breaks first" in said
    assert "8 viewers checked everything: accepted" in said
    found = json.loads(limits.read_text())
    assert 20 < found["max_connections"] < 20_000
    assert found["max_packets_per_s"] > found["max_connections"], "every viewer gets more than one push a second"
    assert "<svg" in report.read_text()


async def test_where_nothing_breaks_it_is_inconclusive_and_no_limits_are_written(kafka_bootstrap: str, tmp_path: Path) -> None:
    limits = tmp_path / "limits.json"
    code, said = await loadtest(kafka_bootstrap, tmp_path, *CALM, "--most=20", f"--limits={limits}")
    assert code == 1, said
    assert "inconclusive: nothing broke: go higher; it held 20 viewers" in said
    assert not limits.exists()


async def test_where_the_load_is_in_doubt_it_is_inconclusive_and_no_limits_are_written(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    limits = tmp_path / "limits.json"
    code, said = await loadtest(kafka_bootstrap, tmp_path, *CALM, "--cpu=0.01", "--client=0", f"--limits={limits}")
    assert code == 1, said
    assert "inconclusive: the load generator's own core was" in said
    assert not limits.exists()
