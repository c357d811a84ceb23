"""Attackers occupy the HTTP ports of all services: honest users beside them are never refused, and
the counters name who was refused and why.

Honest users come through a proxy that reports their addresses. Attacks take turns with stretches in
which the attacker's process takes as much of the processor without connecting.
"""

import asyncio
import json
import secrets
import statistics
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import psutil
import pytest

from devstack.processes import Service
from devstack.system import System
from liveroom.wire import SUBPROTOCOL
from tests.attacks.flooding import SILENT
from tests.attacks.test_pulls import Delays, obey
from tests.e2e.audience import knows_gateways
from tests.e2e.harness import seen
from viewer.client import Viewer

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(150)]
ROOT = Path(__file__).parent.parent.parent
ROOM = "hall"
HEAD_S = 3.0
ATTACKS = {"slow": HEAD_S + 4, "bombs": 2.0, "forged": 2.0, "ticket": 2.0}
MOST_PENDING = SILENT // 2
SETTINGS = {
    "PROXIES": json.dumps(["127.0.0.1/32"]),
    "HTTP__HEAD_TIMEOUT_S": str(HEAD_S),
    "HTTP__MAX_PENDING_PER_ADDRESS": str(MOST_PENDING),
    "BODY_TIMEOUT_S": str(HEAD_S),
    "ADDRESS_REQUESTS_PER_S": "10",
    "ADDRESS_REQUESTS_BURST": "60",
    "ADDRESS_FAILURES_PER_S": "10",
    "ADDRESS_FAILURES_BURST": "60",
    "ADDRESS_GUESTS_PER_S": "10",
    "ADDRESS_GUESTS_BURST": "60",
}
MOST_GROWTH_BYTES = 40 * 1024 * 1024


def honest_headers(system: System, number: int) -> dict[str, str]:
    """The token of an honest user, and the address that the proxy reports."""
    number %= 200
    return {"Authorization": f"Bearer {system.token(f'h{number}')}", "X-Forwarded-For": f"198.51.100.{number}"}


async def come_and_speak(system: System, outcomes: Counter[str]) -> None:
    """Enter, connect, join and send, each time as a newcomer with connections of its own, for
    ever.
    """
    number = 0
    while True:
        number += 1
        headers = honest_headers(system, number)
        async with aiohttp.ClientSession(headers=headers) as http:
            async with http.get(f"{system.scheduler_url}/v1/entry", params={"room": ROOM}) as answer:
                outcomes[f"entry {answer.status}"] += 1
                entry = await answer.json()
            url = f"{entry['gateways'][0]['url']}?ticket={entry['ticket']}"
            async with http.ws_connect(url, protocols=[SUBPROTOCOL], headers=headers) as socket:
                assert json.loads(await socket.receive_str())["t"] == "hello"
                await socket.send_str(json.dumps({"t": "join", "room": ROOM}))
                outcomes[f"join {json.loads((await socket.receive_str()).splitlines()[0])['t']}"] += 1
            async with http.post(f"{system.ingress_url}/v1/rooms/{ROOM}/danmaku", json={"text": "hi"}) as answer:
                outcomes[f"send {answer.status}"] += 1
        await asyncio.sleep(0.05)


def by_label(metrics: dict[str, float], name: str) -> dict[str, float]:
    """The samples of a metric that are not 0, by their labels."""
    return {
        sample.partition("{")[2].rstrip("}"): value for sample, value in metrics.items() if sample.startswith(name) and value
    }


def ended(metrics: dict[str, float], port: str) -> set[str]:
    """Why connections of a port were ended."""
    found = by_label(metrics, "liveroom_http_connections_ended_total")
    return {label.split('reason="')[1].rstrip('"') for label in found if f'port="{port}"' in label}


async def flood(system: System, delays: Delays) -> tuple[dict[str, Counter[str]], dict[str, dict[str, float]]]:
    """Attack and burn in turns; return what the attacker got, and each service's metrics at the
    end.
    """
    services: dict[str, Service] = {"ingress": system.ingress, "scheduler": system.scheduler, "edge": system.edges[0]}
    targets = {
        "ports": [port for service in services.values() for port in (service.port, service.internal_port)],
        "ingress": system.ingress.port,
        "scheduler": system.scheduler.port,
        "token": system.token("attacker"),
        "room": ROOM,
    }
    attacker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.attacks.flooding", json.dumps(targets)), cwd=ROOT, stdin=PIPE, stdout=PIPE
    )
    assert attacker.stdout is not None
    assert (await attacker.stdout.readline()) == b"ready\n"
    before = {name: psutil.Process(service.pid).memory_info().rss for name, service in services.items()}
    got = {}
    for attack, seconds in ATTACKS.items():
        for stretch, line in (("pull", f"{attack} {seconds}\n"), ("burn", f"burn {seconds / 2}\n")):
            delays.stretch = stretch
            answered = await obey(attacker, line)
            delays.stretch = ""
            if stretch == "pull":
                got[attack] = answered
    attacker.terminate()
    await attacker.wait()
    grown = {name: psutil.Process(service.pid).memory_info().rss - before[name] for name, service in services.items()}
    assert max(grown.values()) < MOST_GROWTH_BYTES, grown
    return got, {name: await service.metrics() for name, service in services.items()}


async def test_whoever_occupies_the_ports_keeps_nobody_out(kafka_bootstrap: str) -> None:
    services = ("ingress", "scheduler", "edge")
    async with (
        System(
            kafka_bootstrap,
            prefix=f"a{secrets.token_hex(4)}.",
            partitions=1,
            edges=1,
            settings_of=dict.fromkeys(services, SETTINGS),
        ) as system,
        aiohttp.ClientSession() as http,
        asyncio.TaskGroup() as tasks,
    ):
        await knows_gateways(system, 1)
        delays, outcomes = Delays(), Counter[str]()
        async with AsyncExitStack() as stack:
            for number in range(5):
                viewer = Viewer(
                    *(system.scheduler_url, [ROOM]), http=http, token=system.token(f"v{number}"), on_effect=delays.on_effect
                )
                await stack.enter_async_context(viewer)
            await seen(lambda: delays.entered == 5)
            honest = [tasks.create_task(come_and_speak(system, outcomes)) for _ in range(2)]
            got, metrics = await flood(system, delays)
            for task in honest:
                task.cancel()
    print({attack: dict(counts) for attack, counts in got.items()}, dict(outcomes))
    assert set(outcomes) == {"entry 200", "join joined", "send 202"}
    assert outcomes["send 202"] >= 30
    # What the attacker got.
    assert not [what for what in got["slow"] if what.endswith("held")], "nothing is held beyond its time"
    assert set(got["bombs"]) == {"bomb 415 unsupported_media_type"}
    assert set(got["forged"]) <= {"forged 200", "forged 401 token_invalid", "forged 429 rate_address"}
    assert got["forged"]["forged 429 rate_address"] > got["forged"]["forged 200"]
    assert got["ticket"]["ticket 101"] == 2
    assert set(got["ticket"]) <= {"ticket 101", "ticket 401 ticket_used", "ticket 429 rate_address"}
    # Who was refused and why.
    for service in services:
        for port in ("public", "internal"):
            assert ended(metrics[service], port) >= {"head_late", "pending_address"}, (service, port)
    assert by_label(metrics["ingress"], "liveroom_ingress_limited_total").keys() == {'reason="address_failures"'}
    assert by_label(metrics["scheduler"], "liveroom_scheduler_limited_total").keys() == {'reason="address_guests"'}
    used = metrics["edge"]['liveroom_edge_upgrades_refused_total{code="ticket_used"}']
    assert used == got["ticket"]["ticket 401 ticket_used"] > 50
    refused = by_label(metrics["ingress"], "liveroom_ingress_refusals_total")
    assert refused['code="unsupported_media_type"'] == sum(got["bombs"].values())
    # A busy attacker may meet the end of its connection before it reads the answer.
    assert refused['code="body_late"'] >= max(1, got["slow"]["body 408 body_late"])
    medians = {stretch: statistics.median(delays.of[stretch]) for stretch in ("pull", "burn")}
    print(medians)
    assert medians["pull"] <= 2 * medians["burn"]
