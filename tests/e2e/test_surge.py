"""`liveroom demo --surge`, as a person runs it."""

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import psutil
import pytest

from devstack.builds import ROOT

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


async def test_a_crowd_comes_and_goes_and_the_pool_with_it(kafka_bootstrap: str, tmp_path: Path) -> None:
    mark = str(tmp_path)
    environment = os.environ | {"KAFKA_BOOTSTRAP": kafka_bootstrap, "LIVEROOM_RUNTIME_DIR": mark, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from cli.commands import app; app()",
        *("demo", "--surge", "--viewers", "100", "--partitions", "2", "--page-port", "0"),
        env=environment,
        stdout=PIPE,
        stderr=STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    assert int(re.findall(r"the pool has (\d+) gateways after", output)[0]) > 4, output
    assert "the pool has 2 gateways again" in output, output
    assert re.search(r"^accepted \d+, lost 0, doubled 0", output, re.MULTILINE), output
    left = [one for one in psutil.process_iter(["environ"]) if mark in (one.info["environ"] or {}).values()]
    assert left == [], "nothing is left of it"
