"""Starts of all services while a broker is killed: `python -m tests.starts`.

Each round starts every service at once against three brokers, with topics that are created at that
moment, and kills (kill -9) a broker that leads some of them. The broker starts again soon, late, or
only once all services are ready; the round's seed draws which. Within the limit every service must
be ready, a gateway must be open for the canary's gift, and no process may have ended. A file keeps
the rounds, so a run that was interrupted continues behind the last one.

Prints the quickest, the median and the slowest start of each service. Exit code 1 if one did not
become ready.
"""

import asyncio
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable

import uvloop
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from devstack.local_kafka import LocalKafka
from devstack.processes import Service, ServiceError
from devstack.stack import remove_topics
from devstack.system import System
from liveroom.topics import ALL
from tests.rates import UNLIMITED
from tests.rounds import Round, Rounds, options

LIMIT_S = 90.0
BEFORE_TOPICS, BEFORE_S = 0.2, 1.0  # so often a broker is killed that soon after the processes were started
AFTER_S = 1.5  # otherwise that soon after the topics were made
SOON_S, LATE_S = (0.5, 3.0), (3.0, 10.0)
PARTITIONS = 8
SETTINGS = {"KAFKA__REPLICATION": "3", "KAFKA__MIN_INSYNC": "2", **UNLIMITED}


class Start(Round, kw_only=True):
    """One round: which broker was killed, and the seconds from the start to ready by service."""

    killed: str
    took_s: dict[str, float]


async def leaders(kafka: LocalKafka, prefix: str) -> list[tuple[int, str]]:
    """Return (index of a broker, what it leads) of this round's topics, as far as they have been
    made.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap, request_timeout_ms=2000)
    try:
        await admin.start()
        told = await admin.describe_topics([prefix + topic.name for topic in ALL])
    except (KafkaError, TimeoutError):
        told = []
    finally:
        await admin.close()
    return [
        (partition["leader"] - 1, f"{topic['topic'].removeprefix(prefix)}-{partition['partition']}")
        for topic in told
        for partition in topic["partitions"]
        if partition["leader"] > 0
    ]


async def choose(kafka: LocalKafka, prefix: str, chance: random.Random) -> tuple[int, str]:
    """Return the broker to kill and why, at the moment to kill it: mostly just after topics were
    made.
    """
    if chance.random() < BEFORE_TOPICS:
        await asyncio.sleep(chance.uniform(0, BEFORE_S))
        return chance.randrange(3), "before there were topics"
    while True:
        led = await leaders(kafka, prefix)
        if led:
            break
        await asyncio.sleep(0.02)
    await asyncio.sleep(chance.uniform(0, AFTER_S))
    index, what = chance.choice(led)
    return index, f"leads {what}"


async def kill(kafka: LocalKafka, prefix: str, chance: random.Random, all_ready: Awaitable[object]) -> str:
    """Kill a leader while services start, and have it come back; say which, when and what came
    then.
    """
    how, began_s = chance.choice(["soon", "late", "after all"]), time.monotonic()
    index, why = await choose(kafka, prefix, chance)
    await kafka.kill_broker(index)
    after_s = time.monotonic() - began_s
    if how == "after all":
        await all_ready
    else:
        await asyncio.sleep(chance.uniform(*(SOON_S if how == "soon" else LATE_S)))
    await kafka.start_broker(index)
    return f"broker {index + 1} ({why}) killed after {after_s:.1f} s, back {how}"


async def run_round(kafka: LocalKafka, number: int, seed: int) -> Start:
    """Start everything once."""
    chance = random.Random(seed)
    prefix = f"starts-{number}-{seed}."
    system = System(
        kafka.bootstrap, prefix=prefix, partitions=PARTITIONS, edges=1, autoscalers=1, canaries=1, settings=SETTINGS
    )
    took_s: dict[str, float] = {}
    wrong: list[str] = []

    async def start(service: Service) -> None:
        began = time.monotonic()
        try:
            await service.start_ready(LIMIT_S)
        except ServiceError as error:
            wrong.append(str(error))
        else:
            took_s[service.module] = time.monotonic() - began

    await system.prepare()
    try:
        starting = asyncio.gather(*map(start, system.services))
        killed = await kill(kafka, prefix, chance, starting)
        await starting
    finally:
        await system.stop()
    wrong += map(str, system.deaths)
    await remove_topics(kafka.bootstrap, prefix)
    await kafka.in_sync()
    return Start(number=number, seed=seed, killed=killed, took_s=took_s, wrong=wrong)


def line_of(done: Start) -> str:
    """Return what is printed of a round."""
    slowest = max(done.took_s.items(), key=lambda item: item[1], default=("nothing", 0.0))
    result = "WRONG" if done.wrong else "all ready"
    return f"{done.killed}; {result}, the slowest {slowest[0]} in {slowest[1]:.1f} s"


def print_table(rounds: list[Start]) -> None:
    """Print the quickest, the median and the slowest start of each service."""
    took_s: dict[str, list[float]] = defaultdict(list)
    for done in rounds:
        for module, seconds in done.took_s.items():
            took_s[module].append(seconds)
    print(f"\n{'service':<14} {'ready':>9} {'quickest':>10} {'median':>10} {'slowest':>10}")
    for module, each in sorted(took_s.items()):
        ready = f"{len(each)}/{len(rounds)}"
        print(f"{module:<14} {ready:>9} {min(each):>8.1f} s {statistics.median(each):>8.1f} s {max(each):>8.1f} s")


def main() -> None:
    """Parse the command line and run the rounds."""
    parser = options("python -m tests.starts", str(__doc__), rounds=20, results=".starts.jsonl")
    rounds = Rounds(Start, parser.parse_args())
    uvloop.run(rounds.run(lambda: LocalKafka(brokers=3), run_round, line_of))
    print_table(rounds.done)
    sys.exit(rounds.close())


if __name__ == "__main__":
    main()
