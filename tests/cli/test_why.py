"""`liveroom why`: what the logs say about a request or a user, in words."""

import json
import os
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.commands import app
from devstack.running import Running, announced, start_of_this_process_s
from liveroom.refusals import user_mark

KEY = "k" * 32
REFUSED = {
    "event": "refused",
    "code": "rate_user",
    "route": "POST /v1/rooms/{room}/danmaku",
    "room": "lobby",
    "user": user_mark(KEY.encode(), "ann"),
    "request_id": "i1",
    "detail": None,
    "service": "ingress",
    "instance": "ingress-1",
    "level": "info",
    "timestamp": "2026-11-28T01:00:02Z",
}
CLOSED = {
    "event": "closed",
    "code": 4008,
    "reason": "too slow",
    "rooms": ["lobby"],
    "user": REFUSED["user"],
    "request_id": "i2",
    "service": "edge",
    "instance": "edge-1",
    "level": "info",
    "timestamp": "2026-11-28T01:00:01Z",
}
FAILED = {"event": "request_failed", "request_id": "i3", "exception": "Traceback\nValueError", "timestamp": "t"}


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("LIVEROOM_LOG_KEY", raising=False)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    (folder / "pool").mkdir(parents=True)
    (folder / "ingress-1.log").write_text(f"no JSON\n{json.dumps(REFUSED)}\n{json.dumps(FAILED)}\n")
    (folder / "pool" / "edge-1.log").write_text(f"{json.dumps(CLOSED)}\n")
    return folder


def running(logs: Path) -> AbstractContextManager[None]:
    return announced(
        Running(
            what="up",
            pid=os.getpid(),
            started_s=start_of_this_process_s(),
            ingress="",
            scheduler="",
            page="",
            token_key="t" * 32,
            kafka="",
            prefix="",
            partitions=1,
            rooms=[],
            logs=str(logs),
            log_key=KEY,
        )
    )


def test_a_request_is_explained_from_the_logs_of_a_running_system(logs: Path) -> None:
    with running(logs):
        result = CliRunner().invoke(app, ["why", "i1"])
    assert result.exit_code == 0, result.output
    first, *told = result.stdout.splitlines()
    assert first.startswith("2026-11-28T01:00:02Z  ingress-1 (ingress)  refused  code=rate_user route=")
    assert "room=lobby" in first
    assert any("rate_user: You are sending too fast" in line for line in told)
    assert any(line.strip().startswith("To do: ") and "docs/settings.md" in line for line in told)


def test_a_user_is_followed_through_all_services_in_the_order_of_time(logs: Path) -> None:
    with running(logs):
        result = CliRunner().invoke(app, ["why", "--user", "ann"])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if line.startswith("2026")]
    assert ["closed" in lines[0], "refused" in lines[1]] == [True, True]
    assert "The viewer connects again." in result.stdout


def test_lines_come_from_files_and_from_standard_input_behind_the_names_of_pods(logs: Path) -> None:
    files = ["--log", str(logs / "ingress-1.log"), "--log", "-"]
    result = CliRunner().invoke(app, ["why", "i2", *files], input=f"[pod/edge-1/service] {json.dumps(CLOSED)}\n")
    assert (result.exit_code, result.stdout.count("closed")) == (0, 1)
    result = CliRunner().invoke(app, ["why", "i3", *files], input="")
    assert "    ValueError" in result.stdout.splitlines()


def test_a_line_that_only_looks_like_it_is_not_shown_and_none_is_exit_code_1(logs: Path) -> None:
    result = CliRunner().invoke(app, ["why", "lobb", "--log", str(logs / "ingress-1.log")])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "refusals_not_logged" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param([], "name a request's id", id="nothing"),
        pytest.param(["i1"], "no logs", id="no logs"),
        pytest.param(["--user", "ann", "--log", "-"], "LIVEROOM_LOG_KEY", id="no key"),
        pytest.param(["i1", "--log", "nowhere.log"], "nowhere.log cannot be read", id="no file"),
    ],
)
def test_what_is_missing_is_one_line(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["why", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
