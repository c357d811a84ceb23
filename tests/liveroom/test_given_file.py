"""Files that operators write: one bad line is one clear error with the file and the line."""

import asyncio
import base64
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import structlog

from autoscaler.__main__ import read_policy_file
from autoscaler.drivers.local import _read as read_gateways
from autoscaler.policy import Policy, read_policy
from cli.simulate.command import simulate
from devstack.running import find_running
from ingress.words import read_library
from liveroom.files import Watched
from liveroom.given_file import GivenFileError, read_given_file
from liveroom.networks import read_networks
from liveroom.settings import AutoscalerSettings, SchedulerSettings
from liveroom.tasks import end_tasks
from liveroom.ticket_keys import read_private_keys, read_public_keys
from liveroom.tokens import read_keys

TOKEN_KEY = "t" * 32
SECRET = "the secret of the file, which nobody may see"
KEY = {"kty": "oct", "kid": "k1", "k": base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("=")}


@pytest.mark.parametrize(
    ("parse", "content", "why"),
    [
        pytest.param(read_policy, b"min = 2\nmax = \n", "Invalid value (at line 2, column 7)", id="a policy that is no TOML"),
        pytest.param(
            read_policy, b"min = 2\nstep_down = nan\n", "line 2: Expected `float` > 0.0 - at `$.step_down`", id="a share of nan"
        ),
        pytest.param(
            read_policy,
            b"min = 2\nup_window_s = 1e999\n",
            "line 2: Expected `float` <= 86400.0 - at `$.up_window_s`",
            id="a time",
        ),
        pytest.param(read_policy, b"min = 2\nmaks = 3\n", "line 2: Object contains unknown field `maks`", id="a name"),
        pytest.param(
            read_policy,
            b"[targets]\nbytes = 0.5\ncpu = 3\n",
            "line 3: Expected `float` <= 1.0 - at `$.targets.cpu`",
            id="a share within a table",
        ),
        pytest.param(
            read_policy,
            b"[[events]]\nname = 'x'\nat = 2026-01-01\nviewers = 3\n",
            "line 3: Expected `datetime`, got `date` - at `$.events[0].at`",
            id="an event's time",
        ),
        pytest.param(read_policy, b"min = 2\n# \xb5\xaf\n", "not UTF-8: invalid start byte in line 2, at byte 10", id="GBK"),
        pytest.param(read_policy, b"a = " + b"[" * 5000, "maximum recursion depth exceeded", id="arrays within arrays"),
        pytest.param(read_library, b"mask a\nforbid b\n", "line 2: 'forbid' is not a valid WordAction", id="a word's action"),
        pytest.param(read_library, b"mask a\nmask\n", "line 2: a word has 1 to 64 characters", id="no word"),
        pytest.param(
            read_networks,
            "10.0.0.0/8 east # \u2028 x\n10.1.0.0/8 west\n".encode(),
            "line 2: 10.1.0.0/8 has host bits set",
            id="a zone",
        ),
        pytest.param(
            read_networks, b"10.0.0.0/8\n", "line 1: a network and its name, as in: 10.0.0.0/8 east", id="a zone without a name"
        ),
        pytest.param(
            read_keys,
            b'{"keys": [\n{"kty": "oct", "kid": "k1",}\n]}',
            "line 2: not a JWK Set: JSON is malformed: trailing comma in object",
            id="keys that are no JSON",
        ),
        pytest.param(read_keys, json.dumps({"keys": [KEY | {"alg": "none"}]}).encode(), None, id="a key of another kind"),
        pytest.param(read_keys, json.dumps({"keys": [KEY, KEY]}).encode(), "two keys have one kid", id="a key twice"),
        pytest.param(read_keys, json.dumps({"keys": [KEY | {"k": "c2VjcmV0"}]}).encode(), None, id="a short key"),
        pytest.param(read_private_keys, b'{\n"keys": [,]}', None, id="private keys that are no JSON"),
        pytest.param(read_public_keys, b"[" * 200_000, None, id="public keys within arrays"),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a mark"])
def test_a_bad_line_is_one_line_with_the_file_and_the_place(
    tmp_path: Path, parse: Callable[[str], object], content: bytes, why: str | None, mark: bytes
) -> None:
    file = tmp_path / "given"
    file.write_bytes(mark + content)
    with pytest.raises(GivenFileError) as found:
        read_given_file(file, parse)
    told = str(found.value)
    assert told.startswith(f"{file}: ")
    assert "\n" not in told
    assert SECRET not in told
    assert str(KEY["k"]) not in told
    if why is not None and not (mark and "at byte" in why):
        assert told == f"{file}: {why}"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(json.dumps({"k1": [SECRET]}).encode(), id="a list in a key's place"),
        pytest.param(f'{{"k1": "{SECRET}",}}'.encode(), id="a comma too many"),
        pytest.param(json.dumps({SECRET: "k1"}).encode(), id="a key and its id swapped"),
        pytest.param(json.dumps({"a key id that is too long": SECRET}).encode(), id="a bad key id"),
        pytest.param(json.dumps({"k1": SECRET[:8]}).encode(), id="a short key"),
        pytest.param(b"[" * 200_000, id="arrays within arrays"),
        pytest.param(f'{{"k1": "{SECRET}\xff'.encode("latin-1"), id="bytes that are no text"),
    ],
)
def test_an_error_of_a_file_with_secrets_shows_none_of_them(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ticket_keys.json"
    file.write_bytes(content)
    settings = SchedulerSettings(token_key=TOKEN_KEY, ticket_keys_file=file)
    with pytest.raises(GivenFileError) as found:
        settings.read_ticket_signers()
    assert str(found.value).startswith(f"{file}: ")
    assert SECRET[:8] not in str(found.value)
    assert "\n" not in str(found.value)


def test_a_huge_file_is_refused_before_it_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liveroom.given_file.MAX_FILE_BYTES", 1024 * 1024)
    file = tmp_path / "words.txt"
    with file.open("wb") as opened:
        opened.truncate(1 << 40)
    with pytest.raises(GivenFileError, match=r"words\.txt is larger than 1 MiB"):
        read_given_file(file, read_library)


@pytest.mark.parametrize("path", ["missing", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(OSError, match=str(tmp_path / path)):
        read_given_file(tmp_path / path, read_library)


def test_the_service_and_the_simulator_name_the_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("min = 2\nmax = 1\n", encoding="utf-8")
    with pytest.raises(GivenFileError, match=rf"\A{file}: min 2 is above max 1\Z"):
        read_policy_file(AutoscalerSettings(token_key=TOKEN_KEY, policy_file=file))
    assert simulate(["flash"], file, 1, None) == 2
    assert f"{file}: min 2 is above max 1" in capsys.readouterr().err


def change(file: Path, text: str) -> None:
    """Put a text in a file's place, all at once."""
    new = file.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(file)


async def test_a_changed_file_that_nests_too_deep_leaves_what_was_read_before_and_the_watch_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("min = 2\n", encoding="utf-8")
    settings = AutoscalerSettings(token_key=TOKEN_KEY, policy_file=file)
    watched = Watched([file], partial(read_policy_file, settings))
    assert (await watched.first()).min == 2
    used: asyncio.Queue[Policy] = asyncio.Queue()
    with structlog.testing.capture_logs() as logs:
        watching = asyncio.create_task(watched.watch(used.put_nowait))
        change(file, "min = " + "[" * 5000)
        async with asyncio.timeout(60):
            while not logs and not watching.done():  # noqa: ASYNC110 - the log is all there is to look at
                await asyncio.sleep(0.05)
        assert [each["event"] for each in logs] == ["file_not_usable"]
        change(file, "min = 14\n")
        async with asyncio.timeout(60):
            assert (await used.get()).min == 14
        await end_tasks(watching)


@pytest.mark.parametrize("content", [b"\xff", b"{", b"[" * 200_000, b'"\xff"', b""], ids=repr)
def test_a_damaged_file_of_another_run_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    (folder / "1.json").write_bytes(content)
    assert read_gateways(folder) == {}
    monkeypatch.setenv("LIVEROOM_RUNTIME_DIR", str(folder))
    assert list(find_running()) == []
