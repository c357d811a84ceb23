"""The programs of docs/uplink.md, run as they stand there."""

import asyncio
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from confluent_kafka import Producer

from devstack.builds import ROOT
from devstack.java import find_java
from devstack.kafka_jars import ensure_jars
from tests.ecj import compile_java

PROGRAMS: Final = ROOT / "docs" / "uplink"
DEADLINE_S: Final = 90.0  # nothing here takes so long, on whatever machine
COMPRESSIONS: Final = ("gzip", "snappy", "lz4", "zstd")
_WRITTEN: Final = re.compile(r"written to partition (\d+) at offset \d+\n")


def commands(classes: Path) -> dict[str, Sequence[str]]:
    """The command of each program; Java's is compiled into the folder `classes`."""
    jars = ensure_jars()
    compile_java(PROGRAMS / "Gift.java", jars, classes)
    class_path = os.pathsep.join(map(str, (classes, *jars)))
    python = {program.stem: (sys.executable, str(program)) for program in sorted(PROGRAMS.glob("*.py"))}
    return {"Gift": (str(find_java().program), "-cp", class_path, "Gift"), **python}


async def written(command: Sequence[str], *arguments: str, environment: Mapping[str, str]) -> int:
    """Run a program; return the partition that it wrote to."""
    process = await asyncio.create_subprocess_exec(
        *command, *arguments, env=os.environ | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = _WRITTEN.fullmatch(out.decode())
    assert said, (process.returncode, out.decode(), errors.decode())
    return int(said[1])


def write_compressed(value: bytes, room: str, environment: Mapping[str, str], compression: str) -> None:
    """Write one record with librdkafka, which has all of Kafka's compressions."""
    settings: dict[str, str | int | float | bool] = {
        "bootstrap.servers": environment["KAFKA_BOOTSTRAP"],
        "security.protocol": environment["KAFKA_SECURITY"],
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": environment["KAFKA_USERNAME"],
        "sasl.password": environment["KAFKA_PASSWORD"],
        "partitioner": "murmur2_random",
        "compression.type": compression,
    }
    producer = Producer(settings)
    producer.produce(environment["UPLINK"], value, key=room.encode())
    assert producer.flush(DEADLINE_S) == 0
