"""The process harness, with small children in the services' place."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from devstack.builds import ROOT
from devstack.processes import Death, Service, ServiceDiedError, ServiceError
from devstack.system import System
from liveroom.kinds import Role
from liveroom.ports import free_ports
from tests.ended import has_ended
from tests.tokens import verify_user

CHILD = dedent(
    """
    import http.server, os, pathlib, signal, sys, time

    name = os.environ["LIVEROOM_INSTANCE"]
    journal = pathlib.Path(os.environ["LIVEROOM_JOURNAL"])

    def end(*_):
        with journal.open("a") as file:
            file.write(f"end {name}\\n")
        os._exit(int(os.environ.get("LIVEROOM_EXIT", "0")))

    if os.environ.get("LIVEROOM_STUBBORN"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, end)
    if os.environ.get("LIVEROOM_BROKEN"):
        sys.exit("cannot: no such luck")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            if self.path == "/metrics":
                self.wfile.write(b'# TYPE x gauge\\nx{b="2",a="1"} 3\\n')

        def log_message(self, *_):
            pass

    http.server.HTTPServer(("127.0.0.1", int(os.environ["LIVEROOM_INTERNAL_PORT"])), Handler).serve_forever()
    """
)


WAITING = dedent(
    """
    import http.server, os

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked += 1
            self.send_response(503 if self.server.asked < 20 else 200)
            self.end_headers()
            self.wfile.write(b"kafka: no leader\\nlistening: not yet\\n")

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", int(os.environ["LIVEROOM_INTERNAL_PORT"])), Handler)
    server.asked = 0
    server.serve_forever()
    """
)


@pytest.fixture
def child(tmp_path: Path) -> list[str]:
    script = tmp_path / "child.py"
    script.write_text(CHILD, encoding="utf-8")
    return [sys.executable, str(script)]


@pytest.fixture
def deaths() -> list[Death]:
    return []


@pytest.fixture
async def service(tmp_path: Path, child: list[str], deaths: list[Death]) -> AsyncIterator[Service]:
    environment = {"LIVEROOM_JOURNAL": str(tmp_path / "journal")}
    service = Service("edge-1", "edge", tmp_path, environment, command=child, on_death=deaths.append)
    yield service
    await service.stop(grace_s=0)


async def test_a_service_is_started_awaited_and_stopped_in_order(service: Service, deaths: list[Death]) -> None:
    await service.start_ready()
    assert service.running
    assert service.pid
    assert await service.stop() == 0
    assert service.returncode == 0
    assert not deaths


async def test_metrics_are_read_with_their_labels_in_order(service: Service) -> None:
    await service.start_ready()
    assert await service.metrics() == {'x{a="1",b="2"}': 3.0}


async def test_an_unasked_death_is_noticed(service: Service, deaths: list[Death]) -> None:
    await service.start_ready()
    assert service.pid
    os.kill(service.pid, signal.SIGKILL)
    await service.ended()
    await _until(lambda: bool(deaths))
    assert deaths[0].service == "edge-1"
    assert "SIGKILL unexpectedly" in deaths[0].why


async def test_a_kill_through_the_harness_is_no_death_and_the_service_starts_again_on_its_ports(
    service: Service, deaths: list[Death]
) -> None:
    await service.start_ready()
    ports, pid = (service.port, service.internal_port), service.pid
    service.kill()
    assert await service.ended() == -signal.SIGKILL
    await service.start_ready()
    assert (service.port, service.internal_port) == ports
    assert service.pid != pid
    assert not deaths


async def test_a_paused_service_can_be_stopped(service: Service, deaths: list[Death]) -> None:
    await service.start_ready()
    service.kill(signal.SIGSTOP)
    assert service.running
    assert await service.stop() == 0
    assert not deaths


async def test_one_that_ends_before_it_is_ready_is_told_with_its_log(service: Service) -> None:
    service.environment = {**service.environment, "LIVEROOM_BROKEN": "1"}
    with pytest.raises(ServiceError, match=r"exit code 1 before it was ready(.|\n)*no such luck"):
        await service.start_ready()


async def test_one_that_is_never_ready_is_told(service: Service, child: list[str]) -> None:
    service.command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(ServiceError, match="not ready after 0 s"):
        await service.start_ready(timeout_s=0.2)


async def test_what_a_long_start_waits_for_is_told_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devstack.processes.REPORT_S", 0.2)
    service.command = [sys.executable, "-c", WAITING]
    told: list[str] = []
    await service.start_ready(on_wait=told.append)
    assert told[-1] == "kafka: no leader; listening: not yet"
    assert len(told) == len(set(told))


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        pytest.param({"LIVEROOM_STUBBORN": "1"}, "did not end within", id="ignores SIGTERM"),
        pytest.param({"LIVEROOM_EXIT": "3"}, "exit code 3 on SIGTERM", id="fails while it stops"),
    ],
)
async def test_a_stop_that_is_not_in_order_is_a_death(
    service: Service, deaths: list[Death], environment: dict[str, str], why: str
) -> None:
    service.environment = {**service.environment, **environment}
    await service.start_ready()
    await service.stop(grace_s=0.5)
    assert why in deaths[0].why
    assert not service.running


async def test_a_killed_parent_leaves_no_orphan(tmp_path: Path, child: list[str]) -> None:
    parent = dedent(
        f"""
        import asyncio, pathlib
        from devstack.processes import Service

        async def run():
            folder = pathlib.Path({str(tmp_path)!r})
            service = Service("edge-1", "edge", folder, {{"LIVEROOM_JOURNAL": str(folder / "journal")}}, command={child!r})
            await service.start_ready()
            print(service.pid, flush=True)
            await asyncio.sleep(60)

        asyncio.run(run())
        """
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", parent, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout
    pid = int(await process.stdout.readline())
    assert psutil.pid_exists(pid)
    process.kill()
    await process.wait()
    await _until(lambda: has_ended(pid))


class _Trivial(System):
    """A system whose services are the small child."""

    child: list[str]

    def _service(self, module: str, number: int) -> Service:
        service = super()._service(module, number)
        service.command = self.child
        return service


@pytest.fixture
def system(tmp_path: Path, child: list[str], monkeypatch: pytest.MonkeyPatch) -> _Trivial:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    system = _Trivial("127.0.0.1:1", edges=2, settings={"JOURNAL": str(tmp_path / "journal")})
    system.child = child
    return system


async def test_a_system_stops_ingress_then_broadcaster_then_edges_then_scheduler(system: _Trivial, tmp_path: Path) -> None:
    async with system:
        assert [service.name for service in system.services] == [
            "ingress-1",
            "broadcaster-1",
            "edge-1",
            "edge-2",
            "scheduler-1",
        ]
        extra = await system.add_edge()
        assert extra.name == "edge-3"
    ends = (tmp_path / "journal").read_text().split("\n")[:-1]
    assert [ends[0], ends[1], ends[-1]] == ["end ingress-1", "end broadcaster-1", "end scheduler-1"]
    assert sorted(ends[2:-1]) == ["end edge-1", "end edge-2", "end edge-3"]
    assert not system.folder.exists()


async def test_a_system_tells_of_an_unasked_death_and_keeps_its_logs(system: _Trivial) -> None:
    await system.start()
    pid = system.broadcasters[0].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ServiceDiedError, match="broadcaster-1 was ended by SIGKILL unexpectedly"):
        await system.watch()
    await system.stop()
    with pytest.raises(ServiceDiedError):
        system.check()
    assert (system.folder / "broadcaster-1.log").exists()


async def test_a_failure_in_the_block_keeps_the_logs(system: _Trivial) -> None:
    with pytest.raises(KeyError):
        async with system:
            raise KeyError
    assert (system.folder / "ingress-1.log").exists()
    assert not any(service.running for service in system.services)


async def test_a_system_whose_service_does_not_start_stops_the_others(system: _Trivial) -> None:
    system._settings_of = {"edge": {"BROKEN": "1"}}
    with pytest.raises(ServiceError, match="edge-"):
        await system.start()
    assert not any(service.running for service in system.services)


async def test_services_get_their_settings(system: _Trivial) -> None:
    system._settings_of = {"edge": {"LIVEROOM_MAX_CONNECTIONS": "7", "DRAIN_S": "0"}}
    environment = system._settings_for("edge")
    assert environment["LIVEROOM_MAX_CONNECTIONS"] == "7"
    assert environment["LIVEROOM_DRAIN_S"] == "0"
    assert "LIVEROOM_MAX_CONNECTIONS" not in system._settings_for("ingress")
    assert environment["LIVEROOM_KAFKA__BOOTSTRAP"] == "127.0.0.1:1"


def test_a_token_of_the_system_is_good_for_its_key(system: _Trivial) -> None:
    user = verify_user(system.token("ann", Role.MODERATOR, level=3), system.token_key.encode())
    assert (user.id, user.role, user.level) == ("ann", Role.MODERATOR, 3)


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


async def _until(holds: Callable[[], bool], within_s: float = 10) -> None:

    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.02)
