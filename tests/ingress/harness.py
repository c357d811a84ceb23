"""An ingress for a test: its app in this process with a log that only looks like one, or the real
process.
"""

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from ingress.__main__ import Parts, build
from ingress.words import WordLibraries
from liveroom.errors import TABLE, Code
from liveroom.kafka import UnsentError
from liveroom.kafka_port import AioKafka
from liveroom.kinds import HOSTS_OF_ROOMS, Role
from liveroom.moderation import Rules
from liveroom.records.uplink import Uplink, decode_uplink
from liveroom.registry import Metrics
from liveroom.revocations import Revocations
from liveroom.service import Runtime
from liveroom.settings import IngressSettings, KafkaSettings
from liveroom.tickets import User
from liveroom.tokens import Verifier, sign_user
from liveroom.topics import UPLINK, Topic
from liveroom.users import user_id
from liveroom.web import serve
from tests.log import read_all

KEY = "ingress-test-key-of-more-than-32-bytes"


def settings_of(kafka: KafkaSettings | None = None, **changed: Any) -> IngressSettings:
    values: dict[str, Any] = {
        "token_key": KEY,
        "port": 0,
        "internal_port": 0,
        "kafka": kafka or KafkaSettings(),
        "viewers_may_claim_payment": True,
    } | changed
    return IngressSettings(**values)


def token_of(role: Role = Role.VIEWER, *, user: str = "u1", ttl_s: int = 86_400, **more: Any) -> str:
    if role in HOSTS_OF_ROOMS:
        more.setdefault("rooms", ("r1",))
    return sign_user(User(user_id(user), role, **more), KEY.encode(), int(time.time()), ttl_s)


def headers_of(role: Role = Role.VIEWER, **more: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token_of(role, **more)}"}


async def problem_of(answer: aiohttp.ClientResponse, code: Code) -> dict[str, Any]:
    text = await answer.text()
    assert answer.status == TABLE[code].status, text
    assert answer.content_type == "application/problem+json"
    document: dict[str, Any] = json.loads(text)
    assert (document["code"], document["status"]) == (code.value, answer.status)
    return document


@dataclass
class FakeLogWriter:
    """Acknowledges at once, or fails as told."""

    waiting: int = 0
    error: UnsentError | None = None
    taken: list[Uplink] = field(default_factory=list)
    written: list[tuple[Topic, bytes, bytes | None]] = field(default_factory=list)

    async def put(self, topic: Topic, key: bytes, value: bytes | None) -> None:
        if self.error is not None:
            raise self.error
        self.written.append((topic, key, value))
        if topic is UPLINK and value is not None:
            self.taken.append(decode_uplink(key, value))

    async def put_many(self, topic: Topic, records: Sequence[tuple[bytes, bytes]]) -> list[UnsentError | None]:
        for key, value in records:
            await self.put(topic, key, value)
        return [None] * len(records)


@dataclass
class Served:
    """An app on a port of this process."""

    url: str
    port: int
    http: aiohttp.ClientSession
    metrics: Metrics
    writer: FakeLogWriter
    rules: Rules
    words: WordLibraries
    revocations: Revocations
    parts: Parts

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@asynccontextmanager
async def served(**changed: Any) -> AsyncIterator[Served]:
    settings, writer, runtime, rules = settings_of(**changed), FakeLogWriter(), Runtime("ingress"), Rules()
    rules.are_read = True
    revocations = Revocations()
    revocations.are_read = True
    words = WordLibraries(rules.words)
    verifier = Verifier(settings.read_token_keys(), settings.token_leeway_s, settings.token_life_s, revocations)
    parts = build(settings, runtime, AioKafka(settings.kafka), verifier, rules, words, revocations, writer)
    async with serve(parts.app.web, "127.0.0.1", 0) as (_, port):
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession(url) as http:
            yield Served(url, port, http, runtime.metrics, writer, rules, words, revocations, parts)
    await parts.close()


@dataclass
class Running:
    """The real process: `python -m ingress`.

    `log`: its log lines, read to the end only when it has ended.
    """

    process: Process
    port: int
    internal_port: int
    log: list[dict[str, Any]]
    reader: "asyncio.Task[None]"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def readyz(self) -> tuple[int, str]:
        return await asyncio.to_thread(_get, f"http://127.0.0.1:{self.internal_port}/readyz")

    async def livez(self) -> int:
        return (await asyncio.to_thread(_get, f"http://127.0.0.1:{self.internal_port}/livez"))[0]

    async def metrics(self) -> str:
        return (await asyncio.to_thread(_get, f"http://127.0.0.1:{self.internal_port}/metrics"))[1]

    async def until_ready(self, deadline_s: float = 30.0) -> None:
        await until(self._is_ready, deadline_s)

    async def _is_ready(self) -> bool:
        return (await self.readyz())[0] == 200

    async def ended(self, deadline_s: float = 10.0) -> int:
        async with asyncio.timeout(deadline_s):
            code = await self.process.wait()
            await self.reader
        return code


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def until(true: Callable[[], Awaitable[bool]], deadline_s: float = 10.0) -> None:
    """Look until `true()` holds."""
    async with asyncio.timeout(deadline_s):
        while not await true():  # noqa: ASYNC110 - what is awaited lies in another process
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(kafka: KafkaSettings, **environment: str) -> AsyncIterator[Running]:
    env = os.environ | {
        "LIVEROOM_TOKEN_KEY": KEY,
        "LIVEROOM_PORT": "0",
        "LIVEROOM_INTERNAL_PORT": "0",
        "LIVEROOM_LOG_FORMAT": "json",
        "LIVEROOM_VIEWERS_MAY_CLAIM_PAYMENT": "true",
        "LIVEROOM_KAFKA__BOOTSTRAP": kafka.bootstrap,
        "LIVEROOM_KAFKA__PREFIX": kafka.prefix,
        "LIVEROOM_KAFKA__PARTITIONS": str(kafka.partitions),
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "ingress", env=env | environment, stderr=PIPE)
    log: list[dict[str, Any]] = []
    assert process.stderr is not None
    stderr = process.stderr

    async def read() -> None:
        async for line in stderr:
            try:
                log.append(json.loads(line))
            except ValueError:
                log.append({"event": line.decode(errors="replace")})

    reader = asyncio.create_task(read())

    def logged(event: str) -> dict[str, Any] | None:
        return next((line for line in log if line.get("event") == event), None)

    async def listening() -> bool:
        assert process.returncode is None, log
        return logged("listening") is not None

    try:
        await until(listening, 20)
        started, at = logged("started"), logged("listening")
        assert started is not None
        assert at is not None
        yield Running(process, at["port"], started["internal_port"], log, reader)
    except BaseException:
        print(*log, sep="\n")
        raise
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reader


async def uplink_records(kafka: KafkaSettings) -> list[Uplink]:
    """Everything in `uplink` right now, by partition and offset."""
    records = await read_all(kafka.bootstrap, AioKafka(kafka).topic_name(UPLINK), range(kafka.partitions))
    return [decode_uplink(record.key, record.value) for record in records]


def unused_port() -> int:
    """A port nobody listens on, out of the range that outgoing connections get theirs from."""
    for port in range(19_000, 20_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")
