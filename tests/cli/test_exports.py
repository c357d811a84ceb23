"""What `liveroom up --env` prints, and what commands say of variables that nothing reads."""

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.commands import app
from devstack.running import Running, announced, start_of_this_process_s
from liveroom.variables import BESIDE_SETTINGS

KEY = "k" * 64


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_RUNTIME_DIR", str(tmp_path / "run"))


def running(**more: object) -> Running:
    known: dict[str, Any] = {
        "ingress": "http://127.0.0.1:8001",
        "scheduler": "http://127.0.0.1:8002",
        "page": "http://127.0.0.1:8700",
    }
    known |= {"token_key": KEY, "kafka": "127.0.0.1:9092", "prefix": "", "partitions": 16, "rooms": [], "logs": "/logs"}
    return Running(what="up", pid=os.getpid(), started_s=start_of_this_process_s(), **(known | more))


def evaluated(text: str, **before: str) -> dict[str, str]:
    """Return the environment of a shell that has evaluated a text."""
    done = subprocess.run(
        ["sh", "-euc", 'eval "$1"; env -0', "sh", text],
        env={"PATH": os.environ["PATH"]} | before,
        capture_output=True,
        check=True,
    )
    return dict(line.split("=", 1) for line in done.stdout.decode().split("\0") if line)


def test_a_shell_that_evaluates_it_knows_the_running_system() -> None:
    internal = {"ingress-1": "http://127.0.0.1:9001", "edge-2": "http://127.0.0.1:9011"}
    with announced(running(prefix="it's $HOME.", internal=internal, owns_kafka=True)):
        result = CliRunner().invoke(app, ["up", "--env"])
    assert result.exit_code == 0
    found = evaluated(result.stdout, LIVEROOM_AUTOSCALER_URL="http://of-another", LIVEROOM_TOKEN="of-another")
    assert {name: found[name] for name in found if name.startswith(("LIVEROOM_", "KAFKA_"))} == {
        "LIVEROOM_INGRESS_URL": "http://127.0.0.1:8001",
        "LIVEROOM_SCHEDULER_URL": "http://127.0.0.1:8002",
        "LIVEROOM_PAGE_URL": "http://127.0.0.1:8700",
        "LIVEROOM_TOKEN_KEY": KEY,
        "LIVEROOM_INGRESS_INTERNAL_URL": "http://127.0.0.1:9001",
        "KAFKA_BOOTSTRAP": "127.0.0.1:9092",
        "LIVEROOM_KAFKA__PREFIX": "it's $HOME.",
        "LIVEROOM_KAFKA__PARTITIONS": "16",
        "LIVEROOM_UP_KAFKA": "127.0.0.1:9092",
    }


def test_every_exported_name_is_known_to_services_and_commands() -> None:
    with announced(running()):
        result = CliRunner().invoke(app, ["up", "--env"])
    names = {line.split()[1].partition("=")[0] for line in result.stdout.splitlines()}
    settings = {"LIVEROOM_DEBUG_KEY", "LIVEROOM_LOG_KEY", "LIVEROOM_KAFKA__PREFIX", "LIVEROOM_KAFKA__PARTITIONS"}
    settings.add("KAFKA_BOOTSTRAP")
    assert names - settings <= BESIDE_SETTINGS


def test_without_a_running_system_nothing_is_exported() -> None:
    result = CliRunner().invoke(app, ["up", "--env"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "liveroom up" in result.stderr


@pytest.mark.parametrize("name", ["LIVEROOM_INGRES_URL", "LIVEROOM_KAFKA__BOOTSTRP", "LIVEROOM_FOO"])
def test_every_command_names_a_variable_that_nothing_reads(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    result = CliRunner().invoke(app, ["token", "--user", "ann", "--token-key", KEY])
    assert result.exit_code == 0
    assert result.stderr.startswith(f"liveroom: {name} is no setting of this version")


def test_a_port_that_is_taken_is_named_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 20_001))
        taken.listen()
        result = CliRunner().invoke(app, ["up", "--ports", "20000"])
    assert result.exit_code == 2
    assert "20001 (ingress-1)" in result.stderr
    assert "--ports 20100" in result.stderr
