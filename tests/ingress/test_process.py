"""The real process on the real Kafka."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from devstack.local_kafka import LocalKafka
from liveroom.settings import KafkaSettings
from tests.ingress.harness import Running, headers_of, running, until, unused_port, uplink_records

pytestmark = pytest.mark.kafka
DANMAKU = "/v1/rooms/r1/danmaku"


async def send(
    ingress: Running, http: aiohttp.ClientSession, number: int, room: str = "r1"
) -> tuple[int, dict[str, Any], float]:
    """Send a gift; return status, body and the wall time it took."""
    began = time.monotonic()
    url = f"{ingress.url}/v1/rooms/{room}/gifts"
    async with http.post(url, json={"gift": "g", "id": f"g{number}"}, headers=headers_of()) as answer:
        body = await answer.json(content_type=None)
        if answer.status == 503:
            assert answer.headers["Retry-After"] == "1"
            assert body["code"] in {"queue_unavailable", "not_ready"}
        return answer.status, body, time.monotonic() - began


async def test_what_got_202_is_in_uplink(kafka_settings: KafkaSettings) -> None:
    async with running(kafka_settings) as ingress, aiohttp.ClientSession() as http:
        await ingress.until_ready()
        answers = await asyncio.gather(*(send(ingress, http, number, f"room-{number % 7}") for number in range(200)))
        assert {status for status, _, _ in answers} == {202}
        records = await uplink_records(kafka_settings)
        assert sorted((record.room, record.id, record.at_ms) for record in records) == sorted(
            (body["room"], body["id"], body["at_ms"]) for _, body, _ in answers
        )
        metrics = await ingress.metrics()
        assert 'liveroom_ingress_interactions_total{kind="gift",outcome="accepted"} 200.0' in metrics
        assert 'liveroom_ingress_interactions_total{kind="like",outcome="unknown"} 0.0' in metrics
        ingress.process.terminate()
        assert await ingress.ended() == 0
        assert [line["event"] for line in ingress.log][-1] == "stopped"


@pytest.mark.fault
async def test_it_starts_without_kafka_says_why_and_works_once_kafka_is_there() -> None:
    async with LocalKafka() as kafka:
        await kafka.stop_broker()
        settings = KafkaSettings(bootstrap=kafka.bootstrap, prefix="a.", partitions=4)
        async with running(settings) as ingress, aiohttp.ClientSession() as http:

            async def says_why() -> bool:
                status, text = await ingress.readyz()
                return status == 503 and f"no connection to the broker at {kafka.bootstrap}" in text

            await until(says_why)
            assert await ingress.livez() == 200
            status, _, took_s = await send(ingress, http, 1)
            assert status == 503
            assert took_s < 1

            await kafka.start_broker()
            await ingress.until_ready()
            assert (await send(ingress, http, 2))[0] == 202
            assert [record.id for record in await uplink_records(settings)] == ["g2"]


@pytest.mark.fault
async def test_sigterm_before_kafka_was_ever_there_ends_with_0() -> None:
    async with running(KafkaSettings(bootstrap=f"127.0.0.1:{unused_port()}", prefix="z.")) as ingress:
        ingress.process.terminate()
        assert await ingress.ended() == 0


@pytest.mark.fault
@pytest.mark.parametrize("fault", ["stopped", "frozen"])
async def test_without_kafka_503_comes_within_3_s_and_it_recovers_by_itself(fault: str) -> None:
    async with LocalKafka() as kafka:
        settings = KafkaSettings(bootstrap=kafka.bootstrap, prefix="f.", partitions=4)
        async with running(settings) as ingress, aiohttp.ClientSession() as http:
            await ingress.until_ready()
            assert (await send(ingress, http, 0))[0] == 202

            if fault == "stopped":
                await kafka.stop_broker()
            else:
                await kafka.kill_broker(0, signal.SIGSTOP)
            answers = await asyncio.gather(*(send(ingress, http, number) for number in range(1, 51)))
            again = await asyncio.gather(*(send(ingress, http, number) for number in range(51, 61)))
            print("slowest", max(took_s for _, _, took_s in answers + again))
            for status, _, took_s in answers + again:
                assert status == 503
                assert took_s < 3
            assert (await ingress.readyz())[0] == 503
            assert await ingress.livez() == 200

            if fault == "stopped":
                await kafka.start_broker()
            else:
                await kafka.kill_broker(0, signal.SIGCONT)
            back_s = time.monotonic()

            async def works() -> bool:
                return (await send(ingress, http, 1000))[0] == 202

            await until(works, 20)
            print("recovered after", time.monotonic() - back_s)
            await ingress.until_ready()
            records = await uplink_records(settings)
            sent = [record.id for record in records]
            assert sent.count("g0") == 1
            assert sent.count("g1000") >= 1
            assert all(sent.count(f"g{number}") <= 1 for number in range(61)), "the client doubled a record"
            ingress.process.terminate()
            assert await ingress.ended() == 0


@pytest.mark.fault
async def test_sigterm_answers_what_is_under_way_and_ends_with_0() -> None:
    async with LocalKafka() as kafka:
        settings = KafkaSettings(bootstrap=kafka.bootstrap, prefix="s.", partitions=4)
        async with running(settings) as ingress, aiohttp.ClientSession() as http:
            await ingress.until_ready()
            assert (await send(ingress, http, 0))[0] == 202
            await kafka.kill_broker(0, signal.SIGSTOP)
            pending = [asyncio.create_task(send(ingress, http, number)) for number in (1, 2)]
            await until(lambda: _has_connections(ingress, 2))
            await ingress.livez()  # a round trip more: what came before it has been read
            ingress.process.terminate()
            await until(lambda: _refuses(ingress.port))
            await kafka.kill_broker(0, signal.SIGCONT)
            assert [status for status, _, _ in await asyncio.gather(*pending)] == [202, 202]
            assert await ingress.ended() == 0
            assert [line["waiting"] for line in ingress.log if line["event"] == "stopping"] == [2]
            assert {record.id for record in await uplink_records(settings)} == {"g0", "g1", "g2"}


@pytest.mark.fault
async def test_sigterm_ends_with_0_even_if_kafka_never_answers() -> None:
    async with LocalKafka() as kafka:
        settings = KafkaSettings(bootstrap=kafka.bootstrap, prefix="n.", partitions=4)
        async with running(settings) as ingress, aiohttp.ClientSession() as http:
            await ingress.until_ready()
            await kafka.kill_broker(0, signal.SIGSTOP)
            pending = asyncio.create_task(send(ingress, http, 1))
            await until(lambda: _has_connections(ingress, 1))
            await ingress.livez()
            began_s = time.monotonic()
            ingress.process.terminate()
            status, _, took_s = await pending
            assert (status, took_s < 3) == (503, True)
            assert await ingress.ended(15) == 0
            assert [line["waiting"] for line in ingress.log if line["event"] == "stopping"] == [1]
            print("ended after", time.monotonic() - began_s)
            await kafka.kill_broker(0, signal.SIGCONT)


async def _has_connections(ingress: Running, count: int) -> bool:
    """Whether the process has accepted so many connections on its public port."""
    return await asyncio.to_thread(_established, ingress.process.pid, ingress.port) >= count


def _established(pid: int, port: int) -> int:
    found = psutil.Process(pid).net_connections("tcp")
    return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == port for c in found)


async def _refuses(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return True
    writer.close()
    return False


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        pytest.param({"LIVEROOM_TOKEN_KEY": "short"}, "at least 32 bytes", id="short-key"),
        pytest.param({"LIVEROOM_MAX_BODY_BYTES": "1"}, "LIVEROOM_MAX_BODY_BYTES", id="bad-limit"),
    ],
)
async def test_bad_settings_end_it_with_2_and_a_word_why(environment: dict[str, str], says: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ingress"), env=os.environ | environment, stderr=asyncio.subprocess.PIPE
    )
    _, error = await process.communicate()
    assert process.returncode == 2
    assert says in error.decode()


async def test_keys_are_read_again_when_their_file_changes(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    old, new = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    file = tmp_path / "keys.json"

    def publish(**keys: Ed25519PrivateKey) -> None:
        described = [json.loads(OKPAlgorithm.to_jwk(key.public_key())) | {"kid": kid} for kid, key in keys.items()]
        file.write_text(json.dumps({"keys": described}))

    def signed(key: Ed25519PrivateKey, kid: str) -> dict[str, str]:
        claims = {"sub": "ann", "aud": "liveroom", "exp": time.time() + 60}
        return {"Authorization": f"Bearer {jwt.encode(claims, key, 'EdDSA', headers={'kid': kid})}"}

    publish(k1=old)
    async with (
        running(kafka_settings, LIVEROOM_TOKEN_KEYS_FILE=str(file)) as ingress,
        aiohttp.ClientSession(ingress.url) as http,
    ):
        await ingress.until_ready()

        async def status(headers: dict[str, str]) -> int:
            async with http.post(DANMAKU, json={"text": "hi"}, headers=headers) as answer:
                return answer.status

        assert [await status(signed(old, "k1")), await status(signed(new, "k2"))] == [202, 401]
        assert await status(headers_of()) == 202, "the secret beside the file"
        publish(k1=old, k2=new)
        await until(lambda: _equals(status, signed(new, "k2"), 202), 60)
        assert await status(signed(old, "k1")) == 202
        file.write_text("not a key set")

        async def is_refused() -> bool:
            return any(line["event"] == "file_not_usable" for line in ingress.log)

        await until(is_refused, 60)
        assert await status(signed(new, "k2")) == 202, "what was read before stays"
        publish(k2=new)
        await until(lambda: _equals(status, signed(old, "k1"), 401), 60)
        ingress.process.terminate()
        await ingress.ended()
        assert [line["event"] for line in ingress.log if line["event"] in {"files_read", "file_not_usable"}] == [
            "files_read",
            "file_not_usable",
            "files_read",
        ]


async def _equals(ask: Callable[[dict[str, str]], Awaitable[int]], headers: dict[str, str], wanted: int) -> bool:
    return await ask(headers) == wanted
