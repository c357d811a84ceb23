"""The system of the manifests on a real control plane.

Services run as pods, viewers are real, and the ledger judges.
"""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.own import write_overlay
from tests.e2e.audience import Audience, settled
from tests.kube.cluster import DEMO, Cluster
from tests.kube.nodes import Nodes
from tests.kube.plane import Plane
from viewer.ledger import Ledger
from viewer.sender import Accepted, Sender

pytestmark = [pytest.mark.kube, pytest.mark.kafka, pytest.mark.timeout(420)]
ENTERED_S = 120.0  # who finds no room waits for the next gateway, which takes what it takes on this machine
OWN = "own"  # that of deploy/README.md
OVERLAYS = [*sorted(path.name for path in DEMO.parent.iterdir()), OWN]


@pytest.fixture
async def cluster(plane: Plane, nodes: Nodes, kafka_bootstrap: str, tmp_path: Path) -> Cluster:
    """The demo, installed and open."""
    folder = tmp_path / "overlay"
    folder.mkdir()
    cluster = Cluster(plane, nodes, kafka_bootstrap, folder)
    await cluster.install()
    await cluster.open()
    return cluster


@dataclass
class Show:
    """Gifts that are given all the time, those who stay to see them, and the books."""

    cluster: Cluster
    http: aiohttp.ClientSession
    ledger: Ledger = field(default_factory=Ledger)
    given: int = 0
    is_over: bool = False

    @property
    def audience(self) -> Audience:
        return self._audience

    def __post_init__(self) -> None:
        self._audience = Audience(self.cluster, "lobby", self.http, self.ledger)

    async def give(self) -> None:
        sender = Sender(self.cluster.ingress_url, self.cluster.token("ann"), self.http, retries=200)
        while not self.is_over:
            answer = await sender.gift("lobby", "rose")
            assert isinstance(answer, Accepted), answer
            self.ledger.accepted("lobby", answer.id, time.monotonic(), reliable=True)
            self.given += 1
            await asyncio.sleep(0.05)


@asynccontextmanager
async def show(cluster: Cluster, staying: int = 10) -> AsyncIterator[Show]:
    """Run a show; at its end everyone who stayed must have got everything, once and in order."""
    async with aiohttp.ClientSession() as http, AsyncExitStack() as stay:
        running = Show(cluster, http)
        await running.audience.join(stay, staying, ENTERED_S)
        giving = asyncio.create_task(running.give())
        try:
            yield running
        finally:
            running.is_over = True
            await giving
        await settled(lambda: running.ledger.verdict(time.monotonic(), settled=True).is_clean, 20)
        verdict = running.ledger.verdict(time.monotonic(), settled=True)
        print(f"given {running.given}: {verdict}")
        assert verdict.is_clean, verdict
        assert verdict.accepted == running.given > 20


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_a_real_api_server_takes_the_manifests_without_a_warning(
    plane: Plane, definitions: list[Path], overlay: str, tmp_path: Path
) -> None:
    folder = tmp_path / OWN if overlay == OWN else DEMO.parent / overlay
    if overlay == OWN:
        await asyncio.to_thread(write_overlay, folder)
    text = (await plane.kubectl("kustomize", str(folder)))[1]
    for file in definitions:
        code, _, said = await plane.kubectl("apply", "--server-side", "-f", str(file))
        assert code == 0, said
    await plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    (space,) = [one for one in text.split("\n---\n") if re.search("^kind: Namespace$", one, re.MULTILINE)]
    await plane.kubectl("apply", "-f", "-", given=space)
    code, out, said = await plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", given=text)
    assert (code, said) == (0, "")
    await plane.kubectl("label", "namespace", "--all", "pod-security.kubernetes.io/warn=restricted")
    _, _, said = await plane.kubectl(
        "apply", "--dry-run=server", "-f", "-", given=text.replace("audit: restricted", "warn: restricted")
    )
    port = 'hostPort (container "service" uses hostPort 8010)'
    assert said == f'Warning: would violate PodSecurity "restricted:latest": {port}\n', "but for that port all is restricted"
    assert out.count("(server dry run)") == len(re.findall(r"^kind: ", text, re.MULTILINE))


async def test_the_pool_grows_with_the_crowd_and_shrinks_without_losing_a_message(cluster: Cluster) -> None:
    async with show(cluster) as running:
        before = await cluster.ready("edge", 2)
        async with AsyncExitStack() as crowd:
            for _ in range(12):
                await running.audience.join(crowd, 5, ENTERED_S)
                await asyncio.sleep(0.4)
            async with asyncio.timeout(120):
                while len(await cluster.serving()) < 5:  # noqa: ASYNC110 - it is asked over HTTP
                    await asyncio.sleep(0.2)
            grown = await cluster.serving()
            assert set(before) < set(grown)
            for number in range(10, 70):
                running.ledger.left(f"lobby-v{number}")
        await cluster.ready("edge", 2)
    events = await cluster.must("get", "events", "--output", "custom-columns=R:.reason,M:.message", "--no-headers")
    ours = [line for line in events.splitlines() if line.startswith(("Scaled", "Wrong")) and "from" in line]
    print("\n".join(ours))
    assert any(line.startswith("ScaledOut") for line in ours)
    assert any(line.startswith("ScaledIn") for line in ours)
    assert "WrongPodsRemoved" not in events


async def test_a_rolling_restart_of_all_gateways_is_no_hole_for_viewers(cluster: Cluster) -> None:
    before = await cluster.ready("edge", 2)
    async with show(cluster) as running:
        await cluster.must("rollout", "restart", "deployment/edge")
        await cluster.must("rollout", "status", "deployment/edge", "--timeout=150s")
        assert running.given > 100
    after = await cluster.ready("edge", 2)
    assert not set(before) & set(after), "all are new"


async def test_an_api_server_that_is_away_for_a_minute_stops_scaling_and_nothing_else(cluster: Cluster) -> None:
    async with show(cluster) as running:
        leader = await cluster.leader(running.http)
        process = cluster.nodes.named(leader).processes["service"]
        await cluster.plane.stop("kube-apiserver")
        stopped_s = time.monotonic()
        async with AsyncExitStack() as crowd:
            for _ in range(5):  # more than two gateways hold at their target
                await running.audience.join(crowd, 5, ENTERED_S)
                await asyncio.sleep(1)
            await asyncio.sleep(60 - (time.monotonic() - stopped_s))
            pool = await cluster.pool(running.http, leader)
            assert pool["leading"]
            assert pool["last"]["desired"] > pool["last"]["actual"] == 2
            assert not pool["last"]["done"]
            await cluster.plane.start("kube-apiserver")
            back_s = time.monotonic()
            while await cluster.replicas() < 3:  # it is asked over HTTP
                assert time.monotonic() - back_s < 15
                await asyncio.sleep(0.2)
            print(f"goes on {time.monotonic() - back_s:.1f} s after the API server is back")
            assert process.returncode is None, "the process lives"
            for number in range(10, 35):
                running.ledger.left(f"lobby-v{number}")


async def test_a_gateway_that_does_not_say_how_it_is_never_scales_the_pool_down(cluster: Cluster) -> None:
    async with aiohttp.ClientSession() as http, AsyncExitStack() as crowd:
        audience = Audience(cluster, "lobby", http, Ledger())
        for _ in range(6):
            await audience.join(crowd, 6, ENTERED_S)
            await asyncio.sleep(0.3)
        async with asyncio.timeout(120):
            while len(names := await cluster.serving()) < 3:  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.2)
        leader = await cluster.leader(http)
        hanging = cluster.nodes.named(names[0]).processes["service"]
        hanging.send_signal(signal.SIGSTOP)
        await asyncio.sleep(10)  # what was decided before is done
        replicas = await cluster.replicas()
        assert replicas > 2
        await crowd.aclose()
        await asyncio.sleep(12)  # three times what it would take
        last = (await cluster.pool(http, leader))["last"]
        assert (last["reason"], await cluster.replicas()) == ("unknown", replicas), last
        hanging.send_signal(signal.SIGCONT)
        await cluster.ready("edge", 2)


async def test_of_two_autoscalers_one_leads_and_the_other_takes_over(cluster: Cluster) -> None:
    async with aiohttp.ClientSession() as http:
        pods = [pod["metadata"]["name"] for pod in await cluster.pods("autoscaler")]
        leader = await cluster.leader(http)
        (other,) = set(pods) - {leader}
        before = set(await cluster.serving())
        cluster.nodes.named(leader).processes["service"].send_signal(signal.SIGSTOP)
        stopped_s = time.monotonic()
        async with asyncio.timeout(120):  # it works only once the API server has answered it, which a busy machine delays
            while not (await cluster.pool(http, other))["leading"]:  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.1)
        print(f"taken over after {time.monotonic() - stopped_s:.1f} s")
        async with AsyncExitStack() as crowd:
            audience = Audience(cluster, "lobby", http, Ledger())
            for _ in range(5):
                await audience.join(crowd, 5, ENTERED_S)
            cluster.nodes.named(leader).processes["service"].send_signal(signal.SIGCONT)  # it thinks for a moment that it leads
            async with asyncio.timeout(120):
                while len(await cluster.serving()) < 3:  # noqa: ASYNC110 - it is asked over HTTP
                    await asyncio.sleep(0.2)
            assert before < set(await cluster.serving()), "nobody went"
            assert await cluster.leader(http) in pods


async def test_the_pod_that_an_operator_drains_goes_and_another_one_takes_its_place(cluster: Cluster) -> None:
    async with show(cluster) as running:
        before = set(await cluster.ready("edge", 2))
        leader = await cluster.leader(running.http)
        (other,) = {pod["metadata"]["name"] for pod in await cluster.pods("autoscaler")} - {leader}
        asked = min(before)
        told = await cluster.pool(running.http, other, "drain", {"gateway": asked, "why": "a test"})
        assert told["leader"] == leader, told
        async with asyncio.timeout(120):
            while len(now := set(await cluster.serving())) != 2 or asked in now or await cluster.replicas() != 2:  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.2)
        assert len(now & before) == 1
        most = await cluster.pool(running.http, other, "add", {"least": 3, "for_s": 60})
        assert most["floor"]["least"] == 3, most
        await cluster.ready("edge", 3)
        await cluster.pool(running.http, other, "add", {"least": 0})
        await cluster.ready("edge", 2)
    events = await cluster.must("get", "events", "--output", "custom-columns=R:.reason,M:.message", "--no-headers")
    assert "WrongPodsRemoved" not in events


async def test_gateways_tell_viewers_their_nodes_address_and_zone(cluster: Cluster) -> None:
    for name in await cluster.ready("edge", 2):
        run = cluster.nodes.named(name)
        text = await asyncio.to_thread((run.folder / "run" / "edge.toml").read_text)
        assert f'public_url = "ws://{run.address}:8010/v1/live"' in text
        assert re.search(r'^zone = "zone-[01]"$', text, re.MULTILINE)
