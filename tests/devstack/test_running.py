"""How other commands find a running system, and which addresses and keys they use."""

import os
import stat
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from cli.endpoints import (
    Endpoints,
    UsageError,
    check_room,
    find_endpoints,
    find_kafka,
    make_user,
    need_ingress,
    need_scheduler,
)
from devstack.running import Running, RuntimeFolderError, announced, find_running, start_of_this_process_s
from devstack.stack import Steps, run_stack
from liveroom.chance import SystemChance
from liveroom.kinds import Role
from liveroom.tickets import User
from tests.tokens import verify_user

KEY = "k" * 64


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEROOM_RUNTIME_DIR", str(tmp_path / "run"))
    for name in ("KAFKA_BOOTSTRAP", "LIVEROOM_KAFKA__BOOTSTRAP"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "run"


def running(pid: int = 0, started_s: float | None = None) -> Running:
    return Running(
        what="demo",
        pid=pid or os.getpid(),
        started_s=start_of_this_process_s() if started_s is None else started_s,
        ingress="http://127.0.0.1:1",
        scheduler="http://127.0.0.1:2",
        page="http://127.0.0.1:3",
        token_key=KEY,
        kafka="127.0.0.1:4",
        prefix="x.",
        partitions=8,
        rooms=["r"],
        logs="/logs",
    )


def test_a_running_system_is_found_while_it_runs_and_its_file_is_for_this_user_alone(folder: Path) -> None:
    assert find_running() == []
    with announced(running()):
        assert find_running() == [running()]
        (file,) = folder.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert find_running() == []


def test_the_file_of_a_killed_one_is_removed(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "1.json").write_bytes(msgspec.json.encode(running(started_s=1.0)))  # another process has its id now
    (folder / "2.json").write_bytes(msgspec.json.encode(running(pid=2**22 + 1)))
    assert find_running() == []
    assert list(folder.iterdir()) == []


def test_a_file_that_cannot_be_read_is_passed_over(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "1.json").write_text("{")
    assert find_running() == []


def test_a_folder_that_others_can_write_to_is_refused(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(RuntimeFolderError), announced(running()):
        pass
    assert find_endpoints() == Endpoints("", "", "", "")


def test_a_folder_that_cannot_be_made_is_refused(folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(RuntimeFolderError, match="set LIVEROOM_RUNTIME_DIR"), announced(running()):
        pass


async def test_a_start_refuses_such_a_folder_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_RUNTIME_DIR", "/dev/null")
    said = StringIO()
    options: dict[str, Any] = {"rooms": [], "edges": 1, "partitions": 1, "page_port": 0}
    with pytest.raises(RuntimeFolderError):
        async with run_stack("up", Steps(Console(file=said)), SystemChance(), **options):
            pass
    assert said.getvalue() == ""


def test_a_link_in_its_place_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RuntimeFolderError):
        find_running()


def test_options_come_before_a_running_system_whose_key_stays_with_it() -> None:
    with announced(running()):
        assert find_endpoints() == Endpoints("http://127.0.0.1:1", "http://127.0.0.1:2", KEY, "")
        assert find_endpoints(ingress="http://127.0.0.1:1/").token_key == KEY
        assert find_endpoints(ingress="https://other/") == Endpoints("https://other", "", "", "")


def test_what_is_missing_is_said() -> None:
    nothing = find_endpoints()
    for need in (need_ingress, need_scheduler):
        with pytest.raises(UsageError, match="liveroom demo"):
            need(nothing)
    with pytest.raises(UsageError, match="--token-key"):
        nothing.token_for(User("ann"))
    with pytest.raises(UsageError, match="32 bytes"):
        find_endpoints(token_key="short")


def test_a_token_is_made_with_the_key_or_taken_as_it_is() -> None:
    made = find_endpoints(token_key=KEY).token_for(make_user("ann", "moderator", "Ann", 3))
    user = verify_user(made, KEY.encode())
    assert user.issued_s is not None
    assert user == User("ann", Role.MODERATOR, 3, "Ann", issued_s=user.issued_s)
    assert find_endpoints(token="ready-made").token_for(User("ann")) == "ready-made"


@pytest.mark.parametrize("room", ["", "a b", "r" * 65, "raum/1", "äh"])
def test_what_is_no_room_is_refused(room: str) -> None:
    with pytest.raises(UsageError):
        check_room(room)


def test_a_cluster_is_taken_from_options_environment_or_a_running_system(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_kafka() is None
    with announced(running()):
        found = find_kafka()
        assert found is not None
        assert (found.bootstrap, found.prefix, found.partitions) == ("127.0.0.1:4", "x.", 8)
        given = find_kafka("other:9", "y.", 3)
        assert given is not None
        assert (given.bootstrap, given.prefix, given.partitions) == ("other:9", "y.", 3)
        monkeypatch.setenv("KAFKA_BOOTSTRAP", "third:9")
        third = find_kafka()
        assert third is not None
        assert (third.bootstrap, third.prefix) == ("third:9", "")
