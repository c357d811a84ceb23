"""`liveroom loadtest` on a real gateway, with an objective that breaks early."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from liveroom.cli.processes import importing

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a load test takes two processor cores"),
]


async def loadtest(kafka_bootstrap: str, folder: Path, *options: str) -> tuple[int, str]:
    """Run the command on our Kafka; return its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from liveroom.cli.commands import app; app()",
        "loadtest",
        "--ramp=viewers",
        "--runs=1",
        "--step=1",
        "--factor=4",
        *options,
        env=importing() | {"KAFKA_BOOTSTRAP": kafka_bootstrap, "LIVEROOM_RUNTIME_DIR": str(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    return process.returncode or 0, said


async def test_a_ramp_ends_at_a_knee_with_limits_and_a_report(kafka_bootstrap: str, tmp_path: Path) -> None:
    limits, report = tmp_path / "limits.json", tmp_path / "report.html"
    code, said = await loadtest(
        kafka_bootstrap, tmp_path, "--first=20", "--cpu=0.06", f"--limits={limits}", f"--report={report}"
    )
    # That is what it must say on a machine that does something else as well.
    if "the load generator's own core" in said or "of what was to be said was accepted" in said:
        assert code == 1
        assert not limits.exists()
        return
    assert code == 0, said
    assert "where cpu breaks first" in said
    assert "8 viewers checked everything: accepted" in said
    found = json.loads(limits.read_text())
    assert 20 < found["max_connections"] < 20_000
    assert found["max_packets_per_s"] > found["max_connections"], "every viewer gets more than one push a second"
    assert "<svg" in report.read_text()


async def test_where_nothing_breaks_it_is_inconclusive_and_no_limits_are_written(kafka_bootstrap: str, tmp_path: Path) -> None:
    limits = tmp_path / "limits.json"
    code, said = await loadtest(kafka_bootstrap, tmp_path, "--first=20", "--most=20", f"--limits={limits}")
    assert code == 1, said
    assert "inconclusive" in said
    assert not limits.exists()
