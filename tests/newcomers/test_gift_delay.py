"""From the alert GiftDelay to its cause, by what the documents say and nothing else.

A system with a real Prometheus gets two faults. Each time the steps are those of the runbook that
the alert links to: the panel that it names is shown by the command that stands in the documents,
the first late stage chooses the row, and the log of the process that the panel names has what the
row says.
"""

import asyncio
import re
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from aiokafka import AIOKafkaProducer

from devstack.system import System
from liveroom import clock, metric_catalog
from liveroom.kinds import Kind, Role
from liveroom.records.uplink import Uplink, encode_uplink
from liveroom.topics import UPLINK, partition_of
from tests.broadcaster.ticks import item
from tests.dashboards.test_live import Prom, watched
from tests.docs.names import ROOT
from viewer.sender import Accepted, Sender

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
LATE_S = 12.0


def runbook(url: str) -> str:
    """The text under the heading that a link names, up to the next heading of its kind."""
    document, _, anchor = url.partition("#")
    sections = re.split(r"^## ", (ROOT / document).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return next(section for section in sections if section.partition("\n")[0].lower() == anchor)


async def shown(panel: str, prometheus: str) -> dict[str, float]:
    """What the command of docs/observability.md prints of a panel: values by series."""
    command = [sys.executable, "-m", "dashboards.show", panel, "--prometheus", prometheus]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return {found[2]: float(found[1]) for found in re.finditer(r"^ *([\d.e+-]+)  (.+)$", out.decode(), re.MULTILINE)}


async def follow(prom: Prom, folder: Path) -> tuple[str, str, list[str]]:
    """Go from the alert to its cause; return the stage, the process, and the row's log lines."""
    alert = await prom.alert("GiftDelay")
    assert re.search(r"^\d+ pushes of the gateway edge-\d in ", alert["annotations"]["description"])
    fired_s = clock.unix_s()
    while min(float(one["value"][1]) for one in await prom.query("timestamp(up)")) <= fired_s:  # noqa: ASYNC110 - the earlier stages are those of other processes
        await asyncio.sleep(0.2)
    text = runbook(alert["annotations"]["runbook_url"])
    panel = re.search(r"panel \*([^*]+)\*", text)
    assert panel is not None
    late = [series for series, value in (await shown(panel[1], prom.url)).items() if value > 0.5]
    rows = re.findall(r"^\| \*([^*]+)\*[^|]*\|[^|]*\| (.+) \|$", text, re.MULTILINE)
    stage, then = next(row for row in rows if any(series.startswith(row[0]) for series in late))
    process = next(series for series in late if series.startswith(stage)).rpartition(" ")[2]
    log = await asyncio.to_thread((folder / f"{process}.log").read_text)
    events = re.findall(r"`(\w+)`", then)
    return stage, process, [line for line in log.splitlines() if any(f'"{event}"' in line for event in events)]


async def test_gift_delay_leads_to_its_cause(kafka_bootstrap: str) -> None:
    async with watched(kafka_bootstrap, edges=2) as (system, prom, audience, stack):
        await audience.join(stack, 2)
        known = {metric_catalog.FANOUT_DELAY: system.edges, metric_catalog.UPLINK_AGE: system.broadcasters}
        for metric, services in known.items():  # a count that first appears at 1 is no increase
            while len(await prom.query(f"{metric.name}_count")) < len(services):  # noqa: ASYNC110 - asked over HTTP
                await asyncio.sleep(0.2)
        await write_old_gift(system)
        stage, process, lines = await follow(prom, system.folder)
        assert (stage, process) == ("before Kafka had it", "broadcaster-1")
        assert any('"sender_late"' in line and '"shop"' in line for line in lines)
        await prom.until_quiet({"GiftDelay"})

        await pause_broadcaster(system)
        stage, process, _ = await follow(prom, system.folder)
        assert (stage, process) == ("stood still", "broadcaster-1")
        silent = await prom.query('max_over_time(ALERTS{alertname="ServiceSilent",alertstate="firing"}[5m])')
        assert {one["metric"]["instance"] for one in silent} == {"broadcaster-1"}


async def pause_broadcaster(system: System) -> None:
    """Stop the only broadcaster while a gift with a 202 waits."""
    async with aiohttp.ClientSession() as http:
        sender = Sender(system.ingress_url, system.token("shop", Role.OPERATOR), http)
        assert isinstance(await sender.gift("lobby", "rose"), Accepted)
        system.broadcasters[0].kill(signal.SIGSTOP)
        assert isinstance(await sender.gift("lobby", "rose"), Accepted)
        await asyncio.sleep(LATE_S)  # what is late must have been away for as long
        system.broadcasters[0].kill(signal.SIGCONT)


async def write_old_gift(system: System) -> None:
    """Write to uplink as a service that takes the time of an order, not that of its writing."""
    at_ms = clock.unix_ms() - int(1000 * LATE_S)
    record = Uplink(1, "lobby", "order-1", "ann", at_ms, [item(Kind.GIFT)], via="shop")
    async with AIOKafkaProducer(bootstrap_servers=system.kafka_bootstrap) as producer:
        partition = partition_of("lobby", system.partitions)
        await producer.send_and_wait(system.prefix + UPLINK.name, encode_uplink(record), key=b"lobby", partition=partition)
