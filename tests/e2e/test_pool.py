"""The pool on this machine: it grows with the crowd, shrinks without losing a message, and survives
the loss of its own parts.
"""

import asyncio
import os
import re
import secrets
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import psutil
import pytest

from autoscaler.advisory import SERVICE
from autoscaler.externalscaler import externalscaler_pb2 as messages
from devstack.builds import ROOT
from devstack.system import System
from liveroom.kinds import Role
from liveroom.ports import free_ports
from tests.e2e.audience import Audience, knows_gateways, settled
from viewer.ledger import Ledger
from viewer.sender import Accepted, Sender

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
POLICY = """
min = 2
max = 6
down_window_s = 4
down_after_up_s = 4
step_down = 0.5
warm_up_s = 3
ahead_s = 1
"""
ROOM_FOR = 20  # viewers of one gateway


class Pool:
    """A system whose gateways an autoscaler starts."""

    def __init__(self, system: System, http: aiohttp.ClientSession) -> None:
        self.system = system
        self.http = http

    async def ask(self, path: str = "pool", method: str = "GET", autoscaler: int = 0, role: Role = Role.OPERATOR) -> Any:
        headers = {"Authorization": f"Bearer {self.system.token('op', role)}"}
        url = f"{self.system.autoscalers[autoscaler].url}/v1/{path}"
        async with self.http.request(method, url, headers=headers) as answer:
            return await answer.json(content_type=None)

    async def serving(self, autoscaler: int = 0) -> dict[str, int]:
        """The gateways that serve, with their viewers."""
        gateways = (await self.ask(autoscaler=autoscaler))["gateways"]
        return {each["id"]: each["connections"] for each in gateways if each["state"] == "serving" and each["age_s"] < 3}

    async def follower(self) -> int:
        """Wait until one of two autoscalers leads; return the number of the other one."""
        async with asyncio.timeout(20):
            while True:
                leading = [(await self.ask(autoscaler=number))["leading"] for number in (0, 1)]
                if sorted(leading) == [False, True]:
                    return leading.index(False)
                await asyncio.sleep(0.2)

    async def until(self, least: int, most: int, timeout_s: float = 40, autoscaler: int = 0) -> dict[str, int]:
        """Wait until so many serve."""
        async with asyncio.timeout(timeout_s):
            while not least <= len(await self.serving(autoscaler)) <= most:  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.3)
        return await self.serving(autoscaler)

    async def holds(self, viewers: int, timeout_s: float = 10) -> None:
        """Wait until the gateways that serve have so many viewers."""
        async with asyncio.timeout(timeout_s):
            while sum((await self.serving()).values()) != viewers:  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.3)

    async def command(self, *words: str, name: str = "pool", autoscaler: int = 0, code: int = 0) -> str:
        """Run a command as an operator does; return what it prints."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from cli.commands import app; app()",
            *(name, *words, "--user", "op", "--autoscaler", self.system.autoscalers[autoscaler].url),
            stdout=PIPE,
            stderr=STDOUT,
            cwd=ROOT,
            env=os.environ
            | {
                "LIVEROOM_TOKEN_KEY": self.system.token_key,
                "LIVEROOM_SCHEDULER_URL": self.system.scheduler_url,
                "COLUMNS": "160",
            },
        )
        output = (await process.communicate())[0].decode()
        assert process.returncode == code, output
        return output

    def processes(self) -> list[psutil.Process]:
        """The gateways' processes."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "environ"])
            if (process.info["cmdline"] or [])[1:] == ["-P", "-m", "edge"]  # and not its watchdog
            and (process.info["environ"] or {}).get("LIVEROOM_KAFKA__PREFIX") == self.system.prefix
        ]


@asynccontextmanager
async def pooled(bootstrap: str, tmp_path: Path, autoscalers: int = 1) -> AsyncIterator[Pool]:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    async with (
        System(
            bootstrap,
            prefix=f"p{secrets.token_hex(4)}.",
            partitions=2,
            edges=0,
            autoscalers=autoscalers,
            settings={"MAX_CONNECTIONS": str(ROOM_FOR), "POLICY_FILE": str(policy), "KAFKA__SESSION_TIMEOUT_S": "3"},
        ) as system,
        aiohttp.ClientSession() as http,
    ):
        pool = Pool(system, http)
        await knows_gateways(system, 2)
        yield pool
    assert pool.processes() == [], "nothing is left of the pool"


async def test_the_pool_grows_with_the_crowd_and_shrinks_without_losing_a_message(kafka_bootstrap: str, tmp_path: Path) -> None:
    async with pooled(kafka_bootstrap, tmp_path) as pool:
        ledger = Ledger()
        audience = Audience(pool.system, "lobby", pool.http, ledger)
        sender = Sender(pool.system.ingress_url, pool.system.token("ann"), pool.http)
        ended = asyncio.Event()
        given = 0

        async def give() -> None:
            nonlocal given
            while not ended.is_set():
                answer = await sender.gift("lobby", "rose")
                assert isinstance(answer, Accepted)
                given += 1
                await asyncio.sleep(0.02)

        giving = asyncio.create_task(give())
        async with AsyncExitStack() as stay:
            await audience.join(stay, 10)
            async with AsyncExitStack() as crowd:
                for _ in range(12):
                    await audience.join(crowd, 5)
                    await asyncio.sleep(0.3)
                grown = await pool.until(5, 6)
                assert len(grown) > 4
                await pool.holds(70)
                reasons = [each["reason"] for each in (await pool.ask("decisions"))["decisions"]]
                assert {"connections", "trend", "joins"} & set(reasons)
            shrunk = await pool.until(2, 2, 90)
            assert len(shrunk) == 2
            await pool.holds(10)
            ended.set()
            await giving
            await settled(lambda: all(len(seen) >= given for seen in audience.seen[:10]))
            assert given > 500
            for seen in audience.seen[:10]:
                rseqs = [delivered.message.rseq for delivered in seen if delivered.message.rseq]
                assert sorted(rseqs) == list(range(rseqs[0], given + 1)), "no hole, nothing twice"
        async with asyncio.timeout(20):
            while len(pool.processes()) > 2:  # noqa: ASYNC110 - processes are looked at
                await asyncio.sleep(0.2)


async def test_a_gateway_that_is_killed_is_started_again(kafka_bootstrap: str, tmp_path: Path) -> None:
    async with pooled(kafka_bootstrap, tmp_path) as pool:
        victim = pool.processes()[0]
        before = {process.pid for process in pool.processes()}
        victim.send_signal(signal.SIGKILL)
        async with asyncio.timeout(20):
            while len({process.pid for process in pool.processes()} - before) < 1:  # noqa: ASYNC110 - processes are looked at
                await asyncio.sleep(0.2)
        await pool.until(2, 2)


async def test_without_its_autoscaler_nothing_moves_and_the_next_one_goes_on(kafka_bootstrap: str, tmp_path: Path) -> None:
    async with pooled(kafka_bootstrap, tmp_path, autoscalers=2) as pool:
        leader = 1 - await pool.follower()
        before = {process.pid for process in pool.processes()}
        pool.system.autoscalers[leader].kill(signal.SIGKILL)
        await asyncio.sleep(2)
        assert {process.pid for process in pool.processes()} == before, "the gateways go on"
        other = 1 - leader
        async with asyncio.timeout(30):
            while not (await pool.ask(autoscaler=other))["leading"]:  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.2)
        await pool.until(2, 2, autoscaler=other)
        assert {process.pid for process in pool.processes()} == before, "and are taken over as they are"
        pool.processes()[0].send_signal(signal.SIGKILL)
        async with asyncio.timeout(20):
            while len({process.pid for process in pool.processes()} - before) < 1:  # noqa: ASYNC110 - processes are looked at
                await asyncio.sleep(0.2)


async def test_operators_pause_it_and_nobody_else(kafka_bootstrap: str, tmp_path: Path) -> None:
    async with pooled(kafka_bootstrap, tmp_path) as pool:
        for role in set(Role) - {Role.OPERATOR}:
            assert (await pool.ask(role=role))["code"] == "forbidden"
            assert (await pool.ask("pool/pause", "POST", role=role))["code"] == "forbidden"
        shown = await pool.command("pause")
        assert "PAUSED by op" in shown
        assert (await pool.ask())["paused_by"] == "op"
        pool.system.autoscalers[0].kill(signal.SIGKILL)
        await pool.system.autoscalers[0].ended()
        await pool.system.autoscalers[0].start_ready()
        await pool.until(2, 2)
        (tmp_path / "policy.toml").write_text(POLICY.replace("min = 2", "min = 4"))
        async with asyncio.timeout(20):
            while (decisions := (await pool.ask("decisions"))["decisions"])[:1] == [] or decisions[0]["desired"] != 4:  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.2)
        await asyncio.sleep(2)
        assert len(pool.processes()) == 2, "it is paused still"
        last = decisions[0]
        assert (last["desired"], last["reason"], last["done"]) == (4, "minimum", False)
        assert "PAUSED" not in await pool.command("resume")
        await pool.until(4, 4)
        shown = await pool.command("show")
        assert all(name in shown for name in ("autoscaler-1 leads", "pool-4", "serving", "minimum"))
        assert "minimum" in await pool.command("decisions")
        assert "4 of 4 gateways report" in await pool.command("--once", name="top")


async def test_operators_drain_a_gateway_and_add_some_by_any_autoscaler(kafka_bootstrap: str, tmp_path: Path) -> None:
    async with pooled(kafka_bootstrap, tmp_path, autoscalers=2) as pool, AsyncExitStack() as stay:
        other = await pool.follower()
        audience = Audience(pool.system, "lobby", pool.http, Ledger())
        await audience.join(stay, 8)
        sender = Sender(pool.system.ingress_url, pool.system.token("ann"), pool.http)
        for number in range(10):
            assert isinstance(await sender.gift("lobby", f"rose{number}"), Accepted)

        assert "no gateway of this name" in await pool.command("drain", "pool-9", autoscaler=other, code=2)
        before = set(await pool.serving())
        shown = await pool.command("drain", "pool-1", "--why", "its canary loses gifts", autoscaler=other)
        assert re.search(r"autoscaler-[12] leads", shown), shown
        async with asyncio.timeout(60):
            while len(now := await pool.serving(other)) != 2 or "pool-1" in now or sum(now.values()) != 8:  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.3)
        assert len(set(now) - before) == 1, "another one took its place"
        async with asyncio.timeout(30):
            while len(pool.processes()) > 2:  # noqa: ASYNC110 - processes are looked at
                await asyncio.sleep(0.2)
        for number in range(10, 20):
            assert isinstance(await sender.gift("lobby", f"rose{number}"), Accepted)
        await settled(lambda: all(len(seen) >= 20 for seen in audience.seen))
        for seen in audience.seen:
            assert sorted(delivered.message.rseq for delivered in seen) == list(range(1, 21)), "no hole, nothing twice"

        assert "max is 6" in await pool.command("add", "9", autoscaler=other, code=2)
        assert "at least 4 gateways until" in await pool.command("add", "2", "--for", "10m", autoscaler=other)
        await pool.until(4, 4, autoscaler=other)
        other = await pool.follower()  # the lead may have changed hands meanwhile
        shown = await pool.command(autoscaler=other)
        words = (f"autoscaler-{other + 1} answers", "by op", "operator", "drains pool-1")
        assert all(word in shown for word in words), shown
        assert "at least" not in await pool.command("add", "0", autoscaler=other)
        await pool.until(2, 2, autoscaler=other)


@pytest.mark.usefixtures("grpc_channels")
async def test_where_it_only_advises_keda_is_told_what_the_audience_takes_and_nothing_moves(kafka_bootstrap: str) -> None:
    [port] = free_ports(1)
    settings = {"DRIVER": "advisory", "ADVISORY_PORT": str(port), "MAX_CONNECTIONS": str(ROOM_FOR)}
    async with (
        System(
            kafka_bootstrap, prefix=f"p{secrets.token_hex(4)}.", partitions=2, edges=2, autoscalers=1, settings=settings
        ) as system,
        aiohttp.ClientSession() as http,
        AsyncExitStack() as crowd,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        await knows_gateways(system, 2)
        await Audience(system, "lobby", http, Ledger()).join(crowd, 21)
        question = messages.GetMetricsRequest(metricName="gateways").SerializeToString()
        ask = channel.unary_unary(f"/{SERVICE}/GetMetrics", response_deserializer=messages.GetMetricsResponse.FromString)
        async with asyncio.timeout(15):
            while True:
                with suppress(grpc.aio.AioRpcError):  # it says nothing before it has heard all
                    answer = await ask(question, wait_for_ready=True)
                    if answer.metricValues[0].metricValue == 150:  # 21 viewers, 0.7 of 20 each
                        break
                await asyncio.sleep(0.3)
        system.edges[0].kill(signal.SIGSTOP)
        await asyncio.sleep(4)
        with pytest.raises(grpc.aio.AioRpcError, match="gateways that do not report: 1"):
            await ask(question)
        system.edges[0].kill(signal.SIGCONT)
        assert (await system.autoscalers[0].metrics())["liveroom_autoscaler_leading"] == 0
