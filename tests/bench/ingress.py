"""The ingress: danmaku and bulk items for a second of its processor, and the cost of the words.

The real process runs on the real Kafka with everything on: tokens of 1,000 users, 20,000 words,
rates, modes, the brokers' acknowledgement. Its baselines run in alternating rounds over as many
connections. For danmaku that is a bare aiohttp handler that reads and answers JSON (`_barehttp`);
for bulk items one that also checks them against the schema and produces them (`_barebulk`). The
check of the words is compared with the automaton's scan of the same texts, without normal form,
libraries and verdicts.
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
from ahocorasick_rs import AhoCorasick, MatchKind

from cli import danmaku
from devstack.local_kafka import kafka_cluster
from devstack.system import System
from ingress.words import WordLibraries, WordLibrary
from liveroom.kafka import ensure_topics
from liveroom.kafka_port import AioKafka
from liveroom.kinds import Role
from liveroom.records.control import WordAction
from liveroom.settings import KafkaSettings
from liveroom.topics import UPLINK
from tests.bench._http import bare, cpu_s
from tests.bench.e2e import FILE
from tests.bench.figure import Figure, median, rounds

USERS = 1000
REQUESTS = 6000
ROUNDS = rounds(9)
WORD_ROUNDS = 99
PARTITIONS = 4
WORDS = 20_000
BULK_ITEMS = 1000
BULK_REQUESTS = 60
GENEROUS = json.dumps({"danmaku": {"user_per_s": 1e5, "user_burst": 1e5, "room_per_s": 1e6}})


async def measure() -> AsyncIterator[Figure]:
    """Give the figures of this group."""
    checks, scans = _words_us()
    about = f"{WORDS} words, real danmaku; not a ratio: of this machine alone"
    yield median("words.us_per_danmaku", checks, "us", about)
    ratios = [check / scan for check, scan in zip(checks, scans, strict=True)]
    about = f"the bare automaton's scan of the same: {statistics.median(scans):.3f} us; aim: at most 3"
    yield median("words.vs_scan", ratios, "times", about)
    prefix = f"b{secrets.token_hex(4)}."
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "words.txt"
        await asyncio.to_thread(file.write_text, "".join(f"refuse {word}\n" for word in _words()), "utf-8")
        settings = {"RATES": GENEROUS, "WORD_FILES": json.dumps([str(file)]), "ROOM_LIMIT_PER_S": str(10**9)}
        async with (
            kafka_cluster() as bootstrap,
            System(bootstrap, prefix=prefix, partitions=PARTITIONS, edges=1, settings=settings) as system,
            bare() as (bare_port, beside),
            bare("_barebulk", bootstrap, await _plain_topic(bootstrap), str(PARTITIONS)) as (bulk_port, bulk_beside),
        ):
            ingress = psutil.Process(system.ingress.pid)
            requests = danmaku_requests([system.token(f"user-{number}", level=number % 60) for number in range(USERS)])
            ratios, rates = [], []
            for _ in range(ROUNDS + 1):
                bare_s = await cpu_s(beside, bare_port, requests)
                ours_s = await cpu_s(ingress, system.ingress.port, requests)
                ratios.append(bare_s / ours_s)
                rates.append(REQUESTS / ours_s)
            about = "not a ratio: of this machine alone"
            yield median("ingress.accept_per_cpu_s", rates[1:], "danmaku/s", about)  # the first one warms up
            yield median("ingress.accept_vs_bare", ratios[1:], "ratio", "aim: at least 0.5")
            bulk = _bulk_requests(system.token("gifts", role=Role.SERVICE))
            ratios, rates = [], []
            for _ in range(ROUNDS + 1):
                bare_s = await cpu_s(bulk_beside, bulk_port, bulk, connections=4)
                ours_s = await cpu_s(ingress, system.ingress.port, bulk, connections=4)
                ratios.append(bare_s / ours_s)
                rates.append(len(bulk) * BULK_ITEMS / ours_s)
            yield median("ingress.bulk_per_s", rates[1:], "items/s", f"of its processor; {about}")
            yield median("ingress.bulk_vs_bare", ratios[1:], "ratio", "checked, encoded and produced; aim: at least 0.5")


async def _plain_topic(bootstrap: str) -> str:
    """Make a topic like `uplink` and return its name."""
    settings = KafkaSettings(bootstrap=bootstrap, prefix=f"bare{secrets.token_hex(3)}.", partitions=PARTITIONS)
    await ensure_topics(AioKafka(settings), [UPLINK])
    return AioKafka(settings).topic_name(UPLINK)


def _words() -> list[str]:
    rng = random.Random(1)
    return ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(5, 10))) for _ in range(WORDS)]


def _words_us() -> tuple[list[float], list[float]]:
    """Return for each round the processor time for one danmaku: of the check, of the automaton."""
    words = _words()
    libraries = WordLibraries({})
    libraries.use_files(WordLibrary(dict.fromkeys(words, WordAction.MASK)))
    bare = AhoCorasick(words, matchkind=MatchKind.Standard)
    texts = [line.body.text for line in danmaku.read_file(FILE).lines]
    checks, scans = [], []
    for _ in range(WORD_ROUNDS + 1):
        began = time.thread_time()
        for text in texts:
            libraries.judge("r", text)
        between = time.thread_time()
        for text in texts:
            bare.find_matches_as_indexes(text, overlapping=True)
        scans.append((time.thread_time() - between) / len(texts) * 1e6)
        checks.append((between - began) / len(texts) * 1e6)
    return checks[1:], scans[1:]  # the first one warms up


def danmaku_requests(tokens: Sequence[str]) -> list[bytes]:
    """Return requests of the users in turn, with real texts; the ingress makes the ids."""
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
