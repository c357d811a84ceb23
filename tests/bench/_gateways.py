"""Gateways that only report: `python -m tests.bench._gateways BOOTSTRAP TOPIC COUNT`, each once a
second, until it is killed.

A process of its own: where the process that measures also reported, reports came late whenever it
was busy with requests.
"""

import asyncio
import sys
import time

import msgspec
from aiokafka import AIOKafkaProducer

from liveroom.records.codec import encode_json
from liveroom.records.control import GatewayState, Limits, LoadReport

AT_ONCE = 50


def reports(count: int) -> list[LoadReport]:
    """Return a report of each, with ever more viewers."""
    return [
        LoadReport(
            1,
            f"e{number}",
            1,
            GatewayState.SERVING,
            0,
            "",
            "",
            "",
            0,
            limits=Limits(),
            connections=number * 7,
            joins_per_s=5.0,
            leaves_per_s=4.0,
            cpu=0.3,
        )
        for number in range(count)
    ]


def _now(report: LoadReport) -> bytes:
    """Return a report of this moment: one of another time comes from a gateway whose clock is off,
    and such a gateway gets no viewers.
    """
    return encode_json(msgspec.structs.replace(report, at_ms=time.time_ns() // 1_000_000))


async def main(bootstrap: str, topic: str, count: int) -> None:
    """Report for ever, evenly.

    One that gets no ack ends this process: nobody would hear of these gateways any more.
    """
    all_of_them = reports(count)
    groups = [all_of_them[start : start + AT_ONCE] for start in range(0, count, AT_ONCE)]
    began, number = time.monotonic(), 0
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=20) as producer:
        while True:
            group = groups[number % len(groups)]
            await asyncio.gather(*[await producer.send(topic, _now(report), key=report.gateway.encode()) for report in group])
            number += 1
            await asyncio.sleep(max(0.0, began + number / len(groups) - time.monotonic()))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
