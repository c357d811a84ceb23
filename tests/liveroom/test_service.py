"""The runtime, as a real process: internal port, readiness, signals, exit codes and log lines."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from liveroom import __version__
from liveroom.service import Runtime

ROOT = Path(__file__).parents[2]


def environment(does: str, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LIVEROOM_")}
    return clean | {"TINY": does, "LIVEROOM_MUST": "1", "LIVEROOM_INSTANCE": "t1"} | more


def run(does: str, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run the test service to its end."""
    command = [sys.executable, "-m", "tests.liveroom.tiny", *arguments]
    return subprocess.run(
        command, check=False, cwd=ROOT, env=environment(does, **more), capture_output=True, text=True, timeout=60
    )


@dataclass
class Running:
    """The test service while it runs; reads its log as it comes."""

    process: "subprocess.Popen[str]"
    log: list[dict[str, Any]] = field(default_factory=list)

    def until(self, event: str) -> dict[str, Any]:
        """Read log lines up to one event; every line must be JSON."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == event:
                return self.log[-1]
        raise AssertionError(f"ended without {event}: {self.log}")

    def get(self, path: str) -> tuple[int, str]:
        """Ask the internal port."""
        port = next(line["internal_port"] for line in self.log if "internal_port" in line)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@contextlib.contextmanager
def running(does: str, **more: str) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.liveroom.tiny"],
        cwd=ROOT,
        env=environment(does, **more),
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            service = Running(process)
            service.until("tiny")
            yield service
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_service_in_order_with_0(number: signal.Signals) -> None:
    with running("wait") as service:
        service.process.send_signal(number)
        service.until("stopped")
        assert service.process.wait(10) == 0
        assert [line["event"] for line in service.log] == ["started", "tiny", "said by a library", "stopped"]


def test_a_service_lives_before_it_is_ready_and_says_what_it_waits_for() -> None:
    with running("wait") as service:
        assert service.get("/livez") == (200, "ok\n")
        assert service.get("/readyz") == (503, "second: not yet\n")
        assert service.get("/nothing")[0] == 404


def test_a_service_is_ready_once_every_condition_holds() -> None:
    with running("ready") as service:
        service.until("ready")
        service.until("ready")
        assert service.get("/readyz") == (200, "ok\n")


def test_metrics_can_be_read_by_prometheus() -> None:
    with running("wait") as service:
        deadline = time.monotonic() + 10
        lag = 0.0
        while lag < 1 and time.monotonic() < deadline:
            status, text = service.get("/metrics")
            assert status == 200
            families = {family.name: family for family in text_string_to_metric_families(text)}
            samples = {sample.name: sample.value for sample in families["liveroom_loop_lag_seconds"].samples}
            lag = samples["liveroom_loop_lag_seconds_count"]
        assert lag >= 1
        assert families["liveroom_build_info"].samples[0].labels == {"service": "edge", "version": __version__}
        assert {"liveroom_gc_pause_seconds", "process_resident_memory_bytes", "python_gc_collections"} <= set(families)


def test_log_lines_are_json_with_service_instance_level_and_time() -> None:
    with running("wait") as service:
        service.until("said by a library")
        for line in service.log:
            assert {"event", "level", "timestamp", "service", "instance"} <= set(line)
            assert (line["service"], line["instance"]) == ("edge", "t1")
        assert service.log[-1]["logger"] == "foreign"
        assert service.log[-1]["level"] == "warning"


@pytest.mark.parametrize(
    ("does", "said"),
    [pytest.param("fail", "RuntimeError", id="itself"), pytest.param("group", "OSError: deep inside", id="in a task")],
)
def test_a_failure_ends_a_service_with_1_and_one_line_that_says_why(does: str, said: str) -> None:
    done = run(does)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    failures = [line for line in lines if line["level"] == "critical"]
    assert (done.returncode, len(failures), done.stdout) == (1, 1, "")
    assert (failures[0]["event"], failures[0]["error"]) == ("service_failed", said)
    assert failures[0]["exception"].startswith("Traceback")
    assert failures[0]["exception"].endswith(f"\n{said}")


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_ends_a_start_for_good_is_one_line_without_a_traceback(form: str) -> None:
    done = run("refuse", LIVEROOM_LOG_FORMAT=form)
    said = [line for line in done.stderr.splitlines() if "cannot_start" in line]
    assert (done.returncode, len(said), done.stderr.count("Traceback")) == (1, 1, 0), done.stderr
    assert "the password is wrong" in said[0]
    assert done.stderr.splitlines()[-1] == said[0]


def test_a_taken_internal_port_ends_a_service_with_1_and_its_address() -> None:
    with running("wait") as service:
        port = str(service.log[0]["internal_port"])
        done = run("wait", LIVEROOM_INTERNAL_PORT=port)
    last = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, last["event"]) == (1, "cannot_start")
    assert port in last["error"]


@pytest.mark.parametrize("module", ["autoscaler", "edge", "ingress", "scheduler"])
def test_a_file_of_keys_that_is_not_there_ends_a_service_with_1_and_one_line(module: str, tmp_path: Path) -> None:
    files = {"LIVEROOM_TOKEN_KEYS_FILE": str(tmp_path / "nowhere"), "LIVEROOM_TICKET_KEYS_FILE": str(tmp_path / "nowhere")}
    ports = {"LIVEROOM_PORT": "0", "LIVEROOM_INTERNAL_PORT": "0", "LIVEROOM_LOG_FORMAT": "json", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module]
    done = subprocess.run(command, check=False, env=os.environ | files | ports, capture_output=True, text=True, timeout=60)
    last = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, last["event"]) == (1, "cannot_start")
    assert "nowhere" in last["error"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        pytest.param({"LIVEROOM_MUST": "0"}, "LIVEROOM_MUST: Input should be greater than or equal to 1", id="out of range"),
        pytest.param(
            {"LIVEROOM_KAFKA__PARTITIONS": "x"}, "LIVEROOM_KAFKA__PARTITIONS: Input should be a valid integer", id="nested"
        ),
        pytest.param({"LIVEROOM_CONFIG": "/nowhere"}, "LIVEROOM_CONFIG names /nowhere, which is not a file", id="no file"),
        pytest.param({"LIVEROOM_SECRETS": "/nowhere"}, "does not exist", id="no folder of secrets"),
        pytest.param(
            {"LIVEROOM_ORIGINS": "[broken"},
            'LIVEROOM_ORIGINS: Expecting value at character 1. Written as JSON, such as: ["https://live.example.org',
            id="not JSON",
        ),
    ],
)
def test_bad_settings_end_a_service_with_2_and_words(more: dict[str, str], said: str) -> None:
    done = run("wait", **more)
    assert done.returncode == 2
    assert done.stderr.startswith("edge: settings are not usable\n")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_service_names_a_setting_that_nobody_knows_and_goes_on() -> None:
    with running("wait", LIVEROOM_KAFKA__PARTITION="3", LIVEROOM_OF_TOMORROW="hush") as service:
        found = [line for line in service.log if line["event"] == "unknown_setting"]
    assert [(line["name"], line["nearest"], line["level"]) for line in found] == [
        ("LIVEROOM_KAFKA__PARTITION", "LIVEROOM_KAFKA__PARTITIONS", "warning"),
        ("LIVEROOM_OF_TOMORROW", None, "warning"),
    ]
    assert "hush" not in json.dumps(service.log)


def test_help_lists_every_setting_with_its_default() -> None:
    done = run("wait", "--help")
    assert done.returncode == 0
    for name in ("LIVEROOM_MUST", "LIVEROOM_KAFKA__BOOTSTRAP", "LIVEROOM_LOG_LEVEL"):
        assert name in done.stdout
    assert "  LIVEROOM_MUST (required)\n      something that is needed\n" in done.stdout
    assert "  LIVEROOM_LOG_LEVEL info\n" in done.stdout


def test_readiness_is_lost_again_with_a_reason() -> None:
    async def told() -> list[bool]:
        runtime = Runtime("edge", "kafka")
        said = [runtime.is_ready]
        runtime.ready("kafka")
        said.append(runtime.is_ready)
        runtime.unready("kafka", "no broker answers")
        said.append(runtime.is_ready)
        runtime.ready("kafka")
        runtime.stopping.set()
        return [*said, runtime.is_ready]

    import asyncio

    assert asyncio.run(told()) == [False, True, False, False]


@pytest.mark.parametrize(
    ("module", "waits_for"),
    [
        pytest.param("autoscaler", "kafka: no connection to the broker at 127.0.0.1:1", id="autoscaler"),
        pytest.param("broadcaster", "kafka: no connection to the broker at 127.0.0.1:1", id="broadcaster"),
        pytest.param("edge", "kafka: no connection to the broker at 127.0.0.1:1", id="edge"),
        pytest.param("ingress", "kafka: no connection to the broker at 127.0.0.1:1", id="ingress"),
        pytest.param("scheduler", "kafka: no connection to the broker at 127.0.0.1:1", id="scheduler"),
        pytest.param("viewer.canary", "entered: http://127.0.0.1:1/v1/gateways: Cannot connect", id="canary"),
    ],
)
def test_a_start_that_waits_says_for_what_and_ends_at_once_when_told_to(module: str, waits_for: str, tmp_path: Path) -> None:
    environment = os.environ | {
        "LIVEROOM_TICKET_KEYS": json.dumps({"k1": "a" * 32}),
        "LIVEROOM_TOKEN_KEY": "a" * 32,
        "LIVEROOM_KAFKA__BOOTSTRAP": "127.0.0.1:1",
        "LIVEROOM_INGRESS_URL": "http://127.0.0.1:1",
        "LIVEROOM_SCHEDULER_URL": "http://127.0.0.1:1",
        "LIVEROOM_LOCAL_FOLDER": str(tmp_path),
        "LIVEROOM_PORT": "0",
        "LIVEROOM_INTERNAL_PORT": "0",
        "LIVEROOM_LOG_FORMAT": "json",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", module]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        service = Running(process)
        try:
            service.until("waiting")
            status, text = service.get("/readyz")
            assert (status, waits_for in text) == (503, True), text
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            service.until("stopped")
            assert process.wait(10) == 0
            assert time.monotonic() - began < 3
        finally:
            process.kill()
    assert sum(line["event"] == "waiting" for line in service.log) == 1, service.log


def test_a_rate_of_a_kind_that_is_none_is_named_with_the_nearest_kind() -> None:
    environment = os.environ | {
        "LIVEROOM_RATES": json.dumps({"danmku": {"user_per_s": 1}}),
        "LIVEROOM_TOKEN_KEY": "a" * 32,
        "LIVEROOM_KAFKA__BOOTSTRAP": "127.0.0.1:1",
        "LIVEROOM_PORT": "0",
        "LIVEROOM_INTERNAL_PORT": "0",
        "LIVEROOM_LOG_FORMAT": "json",
        "PYTHONPATH": str(ROOT),
    }
    with subprocess.Popen([sys.executable, "-m", "ingress"], env=environment, stderr=subprocess.PIPE, text=True) as process:
        service = Running(process)
        try:
            found = service.until("unknown_setting")
        finally:
            process.kill()
    assert (found["name"], found["nearest"]) == ("LIVEROOM_RATES, danmku", "danmaku")
