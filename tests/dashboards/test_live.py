"""The dashboards and alerts on the real system with a real Prometheus: every panel has data, and
faults fire their alerts.
"""

import asyncio
import re
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dashboards.alerts import Windows, alerts, records
from dashboards.boards import ALL
from devstack.prometheus import run_prometheus
from devstack.system import System
from liveroom.kinds import Role
from liveroom.ports import HOST
from tests.e2e.audience import Audience, knows_gateways, settled
from tests.kafkaproxy import kafka_proxy
from viewer.ledger import Ledger
from viewer.sender import Accepted, Sender

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
WINDOWS = Windows.all("6s", "1s")
POLICY = "min = 2\nmax = 2\nwarm_up_s = 3\n"
VARIABLES = {"$cluster": ".*", "$service": ".*", "$instance": ".*", "$__rate_interval": "15s"}
SERIES = r"liveroom_[a-z0-9_]+"


class Prom:
    """Asks a Prometheus."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = url
        self._http = http

    async def query(self, expr: str) -> list[Any]:
        async with self._http.get(f"{self._url}/api/v1/query", params={"query": expr}) as answer:
            told = await answer.json()
        assert told["status"] == "success", (expr, told)
        return list(told["data"]["result"])

    @property
    def url(self) -> str:
        """Where it is."""
        return self._url

    async def alert(self, name: str) -> dict[str, Any]:
        """An alert that fires, with its labels and annotations."""
        await self.until_firing({name})
        async with self._http.get(f"{self._url}/api/v1/alerts") as answer:
            found = (await answer.json())["data"]["alerts"]
        return next(one for one in found if one["labels"]["alertname"] == name and one["state"] == "firing")

    async def firing(self) -> set[str]:
        return {one["metric"]["alertname"] for one in await self.query('ALERTS{alertstate="firing"}')}

    async def until_firing(self, wanted: Iterable[str], timeout_s: float = 40) -> None:
        missing = set(wanted)
        deadline = time.monotonic() + timeout_s
        while missing and time.monotonic() < deadline:
            missing -= await self.firing()
            await asyncio.sleep(0.3)
        assert not missing, f"did not fire: {missing}"

    async def until_quiet(self, names: Iterable[str], timeout_s: float = 60) -> None:
        async with asyncio.timeout(timeout_s):
            while set(names) & await self.firing():  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.3)


@asynccontextmanager
async def watched(bootstrap: str, **more: Any) -> AsyncIterator[tuple[System, Prom, Audience, AsyncExitStack]]:
    async with (
        System(bootstrap, prefix=f"d{secrets.token_hex(4)}.", partitions=2, **more) as system,
        run_prometheus(system, WINDOWS, "1s") as url,
        aiohttp.ClientSession() as http,
        AsyncExitStack() as stack,
    ):
        await knows_gateways(system, 2)
        yield system, Prom(url, http), Audience(system, "lobby", http, Ledger()), stack


async def send_all(system: System, http: aiohttp.ClientSession, times: int) -> None:
    """Send a little of everything."""
    sender = Sender(system.ingress_url, system.token("ann"), http)
    host = Sender(system.ingress_url, system.token("host", Role.OPERATOR), http)
    for number in range(times):
        assert isinstance(await sender.gift("lobby", "rose"), Accepted)
        await sender.send("lobby", "danmaku", {"text": f"hello {number}"})
        await sender.send("lobby", "likes", {"count": 3})
        await host.send("lobby", "danmaku", {"text": ""})  # refused
        await asyncio.sleep(0.05)


def shown() -> list[str]:
    """Every query of every panel, with everything chosen."""
    found = []
    for board in ALL:
        for panel in board.json()["panels"]:
            found += [target["expr"] for target in panel.get("targets", ())]
    for variable, value in VARIABLES.items():
        found = [expr.replace(variable, value) for expr in found]
    return found


async def test_every_panel_rule_and_alert_has_data(kafka_bootstrap: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    more = {"edges": 0, "autoscalers": 1, "canaries": 1, "settings": {"POLICY_FILE": str(policy)}}
    async with watched(kafka_bootstrap, **more) as (system, prom, audience, stack):
        await audience.join(stack, 6)
        async with aiohttp.ClientSession() as http:
            await send_all(system, http, 60)
        asked = {one for alert in alerts(WINDOWS) for one in re.findall(SERIES, alert.expr)}
        empty = [*shown(), *(name for name, _ in records(WINDOWS)), *asked]
        with suppress(TimeoutError):
            async with asyncio.timeout(20):  # rates need two looks within a window of a few seconds
                while empty:
                    empty = [expr for expr in empty if not await prom.query(expr)]
        assert empty == [], "nothing to show"
        assert await prom.firing() == set(), "nothing is wrong"


async def test_faults_fire_their_alerts_and_their_end_ends_them(kafka_bootstrap: str) -> None:
    more = {
        "edges": 2,
        "canaries": 1,
        "settings": {"KAFKA__SESSION_TIMEOUT_S": "3"},
        "settings_of": {"viewer.canary": {"LOST_S": "1", "INTERVAL_S": "0.2"}},
    }
    async with watched(kafka_bootstrap, **more) as (system, prom, audience, stack):
        await audience.join(stack, 4)
        async with aiohttp.ClientSession() as http:
            sender = Sender(system.ingress_url, system.token("ann"), http)
            await send_all(system, http, 5)
            assert await prom.firing() == set()

            system.broadcasters[0].kill(signal.SIGKILL)
            await system.broadcasters[0].ended()
            await sender.gift("lobby", "rose")
            await prom.until_firing({"PartitionWithoutOwner", "ServiceSilent"})
            await system.broadcasters[0].start_ready()
            await prom.until_quiet({"PartitionWithoutOwner", "ServiceSilent", "CanaryLoss"})

            system.edges[1].kill(signal.SIGSTOP)
            await prom.until_firing({"GatewayLost", "ServiceSilent", "CanaryLoss"})
            system.edges[1].kill(signal.SIGCONT)
            await prom.until_quiet({"GatewayLost", "ServiceSilent"})


async def test_a_pool_that_needs_more_than_it_may_have_says_so(kafka_bootstrap: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    settings = {"POLICY_FILE": str(policy), "MAX_CONNECTIONS": "10"}
    more = {"edges": 0, "autoscalers": 1, "settings": settings}
    async with watched(kafka_bootstrap, **more) as (_, prom, audience, stack):
        await audience.join(stack, 18)
        await prom.until_firing({"AutoscalerAtMax"})


async def test_a_consumer_that_hangs_is_replaced_and_said_and_nothing_is_missed(kafka_bootstrap: str) -> None:
    async with kafka_proxy(kafka_bootstrap) as proxy:
        more = {"edges": 2, "settings_of": {"edge": {"KAFKA__BOOTSTRAP": f"{HOST}:{proxy.port}"}}}
        async with watched(kafka_bootstrap, **more) as (system, prom, audience, stack):
            await audience.join(stack, 4)
            async with aiohttp.ClientSession() as http:
                sender = Sender(system.ingress_url, system.token("ann"), http)
                assert isinstance(await sender.gift("lobby", "rose"), Accepted)
                assert "StalledConsumer" not in await prom.firing()
                proxy.hangs = True
                ids = [sent.id for _ in range(5) if isinstance(sent := await sender.gift("lobby", "rose"), Accepted)]
                await prom.until_firing({"StalledConsumer"})
                proxy.hangs = False
                assert proxy.held
                assert len(ids) == 5
                await settled(lambda: all(set(ids) <= {each.message.id for each in seen} for seen in audience.seen))
                assert all([each.message.id for each in seen][-5:] == ids for seen in audience.seen), "in order, once"
                await prom.until_quiet({"StalledConsumer"})
