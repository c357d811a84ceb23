"""Starts of all services while a broker is killed: `python -m tests.starts --rounds 20`.

Each round starts every service at once against three brokers, with topics that are created at that
moment, and kills (kill -9) a broker that leads some of them. The broker starts again soon, late, or
only once all services are ready; the round's seed draws which. Within the limit every service must
be ready, a gateway must be open for the canary's gift, and no process may have ended. A file keeps
the rounds, so a run that was interrupted continues behind the last one.

Prints the quickest, the median and the slowest start of each service. Exit code 1 if one did not
become ready.
"""

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable
from pathlib import Path

import msgspec
import uvloop
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from devstack.local_kafka import LocalKafka
from devstack.processes import Service, ServiceError
from devstack.stack import remove_topics
from devstack.system import System
from liveroom.topics import ALL
from tests.rates import NO_RATES

LIMIT_S = 90.0
BEFORE_TOPICS, BEFORE_S = 0.2, 1.0  # so often a broker is killed that soon after the processes were started
AFTER_S = 1.5  # otherwise that soon after the topics were made
SOON_S, LATE_S = (0.5, 3.0), (3.0, 10.0)
PARTITIONS = 8
SETTINGS = {"KAFKA__REPLICATION": "3", "KAFKA__MIN_INSYNC": "2", "RATES": NO_RATES}


class Round(msgspec.Struct):
    """What a round gave: seconds from the start to ready; `wrong`: what was not as it should be."""

    number: int
    seed: int
    killed: str
    took_s: dict[str, float]
    wrong: list[str]
    commit: str = ""


def commit() -> str:
    """Return which commit is tried; rounds of others do not count."""
    told = subprocess.run(("git", "describe", "--always", "--dirty"), capture_output=True, text=True, check=False)
    return told.stdout.strip()


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


async def run_round(kafka: LocalKafka, number: int, seed: int) -> Round:
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
    return Round(number, seed, killed, took_s, wrong, await asyncio.to_thread(commit))


def read(results: Path) -> list[Round]:
    """Return the rounds of this commit that were put down."""
    if not results.exists():
        return []
    rounds = [msgspec.json.decode(line, type=Round) for line in results.read_bytes().splitlines()]
    return [done for done in rounds if done.commit == commit()]


def tell(rounds: list[Round]) -> int:
    """Print the closing table; return the exit code."""
    took_s: dict[str, list[float]] = defaultdict(list)
    for done in rounds:
        for module, seconds in done.took_s.items():
            took_s[module].append(seconds)
    print(f"\n{'service':<14} {'ready':>9} {'quickest':>10} {'median':>10} {'slowest':>10}")
    for module, each in sorted(took_s.items()):
        ready = f"{len(each)}/{len(rounds)}"
        print(f"{module:<14} {ready:>9} {min(each):>8.1f} s {statistics.median(each):>8.1f} s {max(each):>8.1f} s")
    wrong = [f"round {done.number} (seed {done.seed}): {text}" for done in rounds for text in done.wrong]
    print(*wrong, sep="\n")
    return 1 if wrong or not rounds else 0


async def run(rounds: int, minutes: float, results: Path, seed: int | None) -> int:
    """Run what is missing of so many rounds, for so long; return the exit code."""
    done = await asyncio.to_thread(read, results)
    deadline = time.monotonic() + minutes * 60
    if done:
        print(f"{len(done)} rounds of this commit are in {results}; --again forgets them", flush=True)
    if len(done) < rounds:
        async with LocalKafka(brokers=3) as kafka:
            while len(done) < rounds and time.monotonic() < deadline:
                number = len(done) + 1
                last = await run_round(kafka, number, seed if seed is not None else random.SystemRandom().randrange(1 << 31))
                done.append(last)
                with results.open("ab") as file:
                    file.write(msgspec.json.encode(last) + b"\n")
                slowest = max(last.took_s.items(), key=lambda item: item[1], default=("nothing", 0.0))
                said = "WRONG" if last.wrong else "all ready"
                print(
                    f"round {number:>2} of {rounds}, seed {last.seed}: {last.killed}; {said},"
                    f" the slowest {slowest[0]} in {slowest[1]:.1f} s",
                    flush=True,
                )
    code = tell(done)
    if len(done) < rounds:
        print(f"{rounds - len(done)} rounds are left; the same command continues with them")
        return 2
    return code


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.starts", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="number of rounds (default: 20)")
    parser.add_argument("--minutes", type=float, default=60.0, help="start no round after this time (default: 60)")
    parser.add_argument("--results", type=Path, default=Path(".starts.jsonl"), help="file that keeps the rounds")
    parser.add_argument("--again", action="store_true", help="forget the rounds in that file")
    parser.add_argument("--seed", type=int, help="seed of each round, to repeat one that was printed")
    chosen = parser.parse_args()
    if chosen.again:
        chosen.results.unlink(missing_ok=True)
    sys.exit(uvloop.run(run(chosen.rounds, chosen.minutes, chosen.results, chosen.seed)))


if __name__ == "__main__":
    main()
