"""The ingress: danmaku and bulk items for a second of its processor, and what the words cost.

The real process on the real Kafka with everything on: tokens of 1,000 users, 20,000 words, rates, modes, the brokers' ack.
Beside it, in alternating rounds over as many connections, a bare aiohttp handler that reads JSON and answers JSON.
"""

import asyncio
import json
import random
import secrets
import statistics
import string
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psutil

from ingress.words import Libraries, Library, WordAction
from liveroom.cli import danmaku
from liveroom.cli.localkafka import kafka_cluster
from liveroom.cli.processes import System
from liveroom.kinds import Role
from tests.bench._http import bare, cpu_s
from tests.bench.e2e import FILE
from tests.bench.figure import Figure

USERS = 1000
REQUESTS = 6000
ROUNDS = 9
WORDS = 20_000
BULK_ITEMS = 1000
BULK_REQUESTS = 60
GENEROUS = json.dumps({"danmaku": {"user_per_s": 1e5, "user_burst": 1e5, "room_per_s": 1e6}})


async def measure() -> AsyncIterator[Figure]:
    """Give the figures of this group."""
    yield Figure("words.us_per_danmaku", _words_us(), "us", f"{WORDS} words, real danmaku")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "words.txt"
        await asyncio.to_thread(file.write_text, "".join(f"refuse {word}\n" for word in _words()))
        settings = {"RATES": GENEROUS, "WORD_FILES": json.dumps([str(file)]), "ROOM_LIMIT_PER_S": str(10**9)}
        async with (
            kafka_cluster() as bootstrap,
            System(bootstrap, prefix=f"b{secrets.token_hex(4)}.", partitions=4, edges=1, settings=settings) as system,
            bare() as (bare_port, beside),
        ):
            ingress = psutil.Process(system.ingress.pid)
            requests = danmaku_requests([system.token(f"user-{number}", level=number % 60) for number in range(USERS)])
            ratios, rates = [], []
            for _ in range(ROUNDS + 1):
                bare_s = await cpu_s(beside, bare_port, requests)
                ours_s = await cpu_s(ingress, system.ingress.port, requests)
                ratios.append(bare_s / ours_s)
                rates.append(REQUESTS / ours_s)
            ratios, rates = ratios[1:], rates[1:]  # the first one warms up
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}, median of {ROUNDS}"
            yield Figure(
                "ingress.accept_per_cpu_s", statistics.median(rates), "danmaku/s", "not a ratio: of this machine alone"
            )
            yield Figure("ingress.accept_vs_bare", statistics.median(ratios), "ratio", f"aim: at least 0.5; {spread}")
            bulk = _bulk_requests(system.token("gifts", role=Role.SERVICE))
            per_s = [
                len(bulk) * BULK_ITEMS / await cpu_s(ingress, system.ingress.port, bulk, connections=4) for _ in range(ROUNDS)
            ]
            spread = f"{min(per_s):.0f} to {max(per_s):.0f}"
            yield Figure("ingress.bulk_per_s", statistics.median(per_s), "items/s", f"of its processor; aim: 20,000; {spread}")


def _words() -> list[str]:
    rng = random.Random(1)
    return ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(5, 10))) for _ in range(WORDS)]


def _words_us() -> float:
    """Return the thread's processor time for one danmaku, the median of rounds."""
    libraries = Libraries({})
    libraries.use_files(Library(dict.fromkeys(_words(), WordAction.MASK)))
    texts = [line.body.text for line in danmaku.read_file(FILE).lines]
    took = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for text in texts:
            libraries.judge("r", text)
        took.append((time.thread_time() - began) / len(texts) * 1e6)
    return statistics.median(took)


def danmaku_requests(tokens: Sequence[str]) -> list[bytes]:
    """One request each of a user in turn: real texts, ids made by the ingress."""
    lines = danmaku.read_file(FILE).lines
    return [
        _request(
            f"rooms/room-{number % 20}/danmaku", {"text": lines[number % len(lines)].body.text}, tokens[number % len(tokens)]
        )
        for number in range(REQUESTS)
    ]


def _bulk_requests(token: str) -> list[bytes]:
    items = [
        {
            "room": f"room-{number % 100}",
            "user": f"user-{number}",
            "kind": "gift",
            "id": "",
            "data": {"gift": "rose", "count": number % 9 + 1},
            "name": f"user {number}",
            "level": number % 60,
        }
        for number in range(BULK_ITEMS)
    ]
    for item in items:
        del item["id"]
    return [_request("interactions", {"items": items}, token)] * BULK_REQUESTS


def _request(path: str, body: object, token: str) -> bytes:
    data = json.dumps(body, ensure_ascii=False).encode()
    head = f"POST /v1/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
