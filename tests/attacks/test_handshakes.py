"""An attacker leaves thousands of TLS handshakes unfinished at a gateway, or changes keys without
end: viewers inside get their messages as before, others come in, and nothing of it stays.

Attacks take turns with stretches in which the attacker's process takes as much of the processor
without connecting.
"""

import asyncio
import json
import secrets
import ssl
import statistics
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import aiohttp
import psutil
import pytest
import trustme

from devstack.processes import Service
from devstack.system import System
from edge.tls_server import MAX_PENDING, MAX_PENDING_BY_ADDRESS
from liveroom import metric_catalog
from liveroom.wire import SUBPROTOCOL
from tests.attacks.flooding import CHANGING, HANDSHAKES
from tests.attacks.test_invented_names import seen_metric
from tests.attacks.test_pulls import ROOM, ROOT, Delays, obey, speak
from tests.e2e.audience import knows_gateways
from tests.e2e.harness import seen
from tests.e2e.test_tls import write
from viewer.client import Viewer

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(150)]
ROUNDS = 2
ATTACK_S, BURN_S = 7.0, 4.0  # a handshake may take 5 s
MOST_BYTES = 100 * 1024 * 1024  # that an attack leaves: what the allocator keeps of 2,000 handshakes
MOST_GROWTH_BYTES = 20 * 1024 * 1024  # from the end of the first attack to that of the last one: 7 KiB a connection
ENDED = f'{metric_catalog.TLS_HANDSHAKES.name}{{outcome="'


async def come(system: System, trusting: ssl.SSLContext, outcomes: Counter[str]) -> None:
    """Enter, connect and join, each time as a newcomer with connections of its own, for ever."""
    number = 0
    while True:
        number += 1
        head = {"Authorization": f"Bearer {system.token(f'n{number % 200}')}"}
        async with aiohttp.ClientSession(headers=head, connector=aiohttp.TCPConnector(ssl=trusting)) as http:
            async with http.get(f"{system.scheduler_url}/v1/entry", params={"room": ROOM}) as answer:
                entry = await answer.json()
            url = f"{entry['gateways'][0]['url']}?ticket={entry['ticket']}"
            assert url.startswith("wss://")
            async with http.ws_connect(url, protocols=[SUBPROTOCOL]) as socket:
                assert json.loads(await socket.receive_str())["t"] == "hello"
                await socket.send_str(json.dumps({"t": "join", "room": ROOM}))
                outcomes[json.loads((await socket.receive_str()).splitlines()[0])["t"]] += 1
        await asyncio.sleep(0.05)


async def watch_pending(gateway: Service, seen_pending: list[float]) -> None:
    """Note how many handshakes are unfinished, again and again."""
    while True:
        seen_pending.append((await gateway.metrics())[metric_catalog.TLS_PENDING.name])
        await asyncio.sleep(0.5)


class Attacked(NamedTuple):
    """What an attack got, and what it did to the gateway."""

    got: Counter[str]
    metrics: dict[str, float]
    came: Counter[str]
    pending: list[float]
    memory: list[int]

    def outcomes(self) -> dict[str, int]:
        """Return the handshakes by their outcome."""
        return {
            name.removeprefix(ENDED).rstrip('"}'): int(value) for name, value in self.metrics.items() if name.startswith(ENDED)
        }


async def attacked(kafka_bootstrap: str, tmp_path: Path, attack: str) -> Attacked:
    """Attack a gateway with TLS beside honest users, who must not notice."""
    authority, trusting = trustme.CA(), ssl.create_default_context()
    await asyncio.to_thread(write, authority, tmp_path)
    authority.configure_trust(trusting)
    files = {"TLS_CERT_FILE": str(tmp_path / "cert.pem"), "TLS_KEY_FILE": str(tmp_path / "key.pem")}
    async with (
        System(
            kafka_bootstrap, prefix=f"a{secrets.token_hex(4)}.", partitions=1, edges=1, settings_of={"edge": files}
        ) as system,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as http,
        AsyncExitStack() as stack,
        asyncio.TaskGroup() as tasks,
    ):
        await knows_gateways(system, 1)
        (gateway,) = system.edges
        delays, came, sent, pending = Delays(), Counter[str](), Counter[int](), list[float]()
        for number in range(10):
            inside = Viewer(
                *(system.scheduler_url, [ROOM]), http=http, token=system.token(f"v{number}"), on_effect=delays.on_effect
            )
            await stack.enter_async_context(inside)
        await seen(lambda: delays.entered == 10)
        honest = [
            tasks.create_task(speak(system, http, sent)),
            *(tasks.create_task(come(system, trusting, came)) for _ in range(2)),
            tasks.create_task(watch_pending(gateway, pending)),
        ]
        attacker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.attacks.flooding", json.dumps({"tls": gateway.port})),
            cwd=ROOT,
            stdin=PIPE,
            stdout=PIPE,
        )
        assert attacker.stdout is not None
        assert (await attacker.stdout.readline()) == b"ready\n"
        got, amid = Counter[str](), list[int]()
        memory = [psutil.Process(gateway.pid).memory_info().rss]
        for _ in range(ROUNDS):
            for stretch, line in (("pull", f"{attack} {ATTACK_S}\n"), ("burn", f"burn {BURN_S}\n")):
                before, delays.stretch = came["joined"], stretch
                got += await obey(attacker, line)
                delays.stretch = ""
                if stretch == "pull":
                    amid.append(came["joined"] - before)
                    await seen_metric(gateway, "edge_tls_pending_handshakes", 0)
                    memory.append(psutil.Process(gateway.pid).memory_info().rss)
        for task in honest:
            task.cancel()
        metrics = await gateway.metrics()
        attacker.terminate()
        await attacker.wait()
    medians = {stretch: statistics.median(delays.of[stretch]) for stretch in ("pull", "burn")}
    result = Attacked(got, metrics, came, pending, memory)
    print(dict(got), result.outcomes(), dict(came), max(pending), amid, memory, medians)
    assert (set(came), set(sent)) == ({"joined"}, {202})
    assert min(amid) >= 5
    assert medians["pull"] <= 2 * medians["burn"]
    assert result.outcomes()["full"] >= came["joined"]
    assert memory[-1] - memory[0] <= MOST_BYTES
    assert memory[-1] - memory[1] <= MOST_GROWTH_BYTES
    return result


async def test_unfinished_handshakes_delay_nobody_inside_and_keep_nobody_out(kafka_bootstrap: str, tmp_path: Path) -> None:
    result = await attacked(kafka_bootstrap, tmp_path, "handshakes")
    assert sum(result.got.values()) >= ROUNDS * HANDSHAKES
    assert MAX_PENDING_BY_ADDRESS / 2 < max(result.pending) <= MAX_PENDING
    assert {name for name, count in result.outcomes().items() if count} >= {"full", "failed", "gone", "late", "crowded_out"}


async def test_changes_of_keys_delay_nobody_inside_and_keep_nobody_out(kafka_bootstrap: str, tmp_path: Path) -> None:
    result = await attacked(kafka_bootstrap, tmp_path, "keys")
    assert result.metrics[metric_catalog.TLS_FLOODS.name] >= CHANGING
    assert result.got["keys ended"] >= CHANGING
