"""A real Prometheus for a running system.

Owns its configuration, its process, and its list of targets as gateways start and stop. It is not
downloaded: `devstack.programs` finds it.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp

from dashboards.alerts import Windows, rule_file
from dashboards.scrape import SERVICES, prometheus, targets
from devstack.programs import PROMETHEUS, find
from devstack.system import System
from liveroom import clock
from liveroom.addresses import authority, url_of
from liveroom.child_process import spawn_tethered, stop_process
from liveroom.errors import ExplainedError
from liveroom.ports import HOST, free_ports
from liveroom.tasks import beside

REFRESH_S: Final = 1.0
READY_S: Final = 20.0
CLUSTER: Final = "local"


class PrometheusError(ExplainedError):
    """Prometheus is missing, or does not start; the message says what to do."""


def find_prometheus() -> str:
    """Return the program's path; raise PrometheusError where it is missing."""
    program = find(PROMETHEUS)
    if not program:
        raise PrometheusError("Prometheus is missing: install it (apt install prometheus), or name it in LIVEROOM_PROMETHEUS")
    return str(program)


@asynccontextmanager
async def run_prometheus(system: System, windows: Windows | None = None, every: str = "2s") -> AsyncIterator[str]:
    """Scrape all services of `system`, every `every`, while the block runs; yield the address.

    `windows` are the alerts'; None: the usual ones. Raises PrometheusError.
    """
    folder = system.folder / "prometheus"
    await asyncio.to_thread(_prepare, folder, windows or Windows(evaluation=every), every)
    async with prometheus_in(folder) as url, beside(_list_targets(system, folder)):
        yield url


@asynccontextmanager
async def prometheus_in(folder: Path) -> AsyncIterator[str]:
    """Run a Prometheus with the `prometheus.yml` of a folder while the block runs; yield its URL.

    Its data and its log are in that folder too. Raises PrometheusError.
    """
    program = find_prometheus()
    (port,) = free_ports(1)
    url = url_of("http", HOST, port)
    with await asyncio.to_thread((folder / "prometheus.log").open, "ab") as file:
        process = await spawn_tethered(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={authority(HOST, port)}",
                "--log.level=warn",
            ],
            stdout=file,
            stderr=file,
        )
    try:
        await _ready(url, folder)
        yield url
    finally:
        await stop_process(process)


def _prepare(folder: Path, windows: Windows, every: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    services = {
        service: {"file_sd_configs": [{"files": [str(folder / f"{service}.targets.json")], "refresh_interval": "1s"}]}
        for service in SERVICES
    }
    # JSON is YAML.
    config = prometheus(services, str(folder / "rules.yml"), every=every)
    (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    (folder / "rules.yml").write_text(json.dumps(rule_file(windows)), encoding="utf-8")


async def _ready(url: str, folder: Path) -> None:
    deadline = clock.monotonic_s() + READY_S
    async with aiohttp.ClientSession() as http:
        while clock.monotonic_s() < deadline:
            with suppress(aiohttp.ClientError, OSError):
                async with http.get(f"{url}/-/ready") as answer:
                    if answer.status == HTTPStatus.OK:
                        return
            await clock.sleep(0.1)
    output = await asyncio.to_thread((folder / "prometheus.log").read_text, "utf-8", "replace")
    raise PrometheusError(f"Prometheus does not become ready; its log ends: {output[-1000:]}")


async def _list_targets(system: System, folder: Path) -> None:
    while True:
        await asyncio.to_thread(_write_targets, _addresses(system), system.folder / "pool", folder)
        await clock.sleep(REFRESH_S)


def _addresses(system: System) -> dict[str, dict[str, str]]:
    """Return the internal addresses by service and process, whose names are those of their logs."""
    found: dict[str, dict[str, str]] = {service: {} for service in SERVICES}
    for service in system.services:
        if service.process is not None:
            found[service.name.rpartition("-")[0]][service.name] = authority(HOST, service.internal_port)
    return found


def _write_targets(found: dict[str, dict[str, str]], pool: Path, folder: Path) -> None:
    for file in sorted(pool.glob("*.json")):  # gateways that the autoscaler has started
        with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            found["edge"][file.stem] = f"{HOST}:{json.loads(file.read_bytes())['internal_port']}"
    for service, addresses in found.items():
        file = folder / f"{service}.targets.json"
        made = [target for name, address in addresses.items() for target in targets([address], CLUSTER, instance=name)]
        text = json.dumps(made)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            new = file.with_suffix(".new")
            new.write_text(text, encoding="utf-8")
            new.replace(file)
