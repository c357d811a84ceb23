"""`liveroom keys`: the files of ticket keys, from the first key to the end of a rotation."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.commands import app
from cli.keys import PRIVATE_FILE, PUBLIC_FILE, USERS_KEY_ID, USERS_PRIVATE_FILE, USERS_PUBLIC_FILE
from liveroom.ticket_keys import read_private_keys, read_public_keys
from liveroom.tokens import read_keys

runner = CliRunner()


def keys(*arguments: str | Path) -> tuple[int, str]:
    done = runner.invoke(app, ["keys", *map(str, arguments)])
    return done.exit_code, done.output


def ids(folder: Path) -> tuple[list[str], set[str]]:
    """The ids of the private keys, in their order, and those of the public keys."""
    private = read_private_keys((folder / PRIVATE_FILE).read_bytes())
    return [key.id for key in private], {key_id for _, key_id in read_public_keys((folder / PUBLIC_FILE).read_bytes())}


def test_a_key_is_made_for_its_owner_s_eyes_only(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert keys(folder)[0] == 0
    assert ids(folder) == (["k1"], {"k1"})
    assert (folder / PRIVATE_FILE).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in folder.iterdir()) == [PUBLIC_FILE, PRIVATE_FILE]


def test_keys_that_are_there_are_not_replaced(tmp_path: Path) -> None:
    keys(tmp_path)
    before = (tmp_path / PRIVATE_FILE).read_bytes()
    code, said = keys(tmp_path)
    assert (code, "is there already" in said) == (2, True)
    assert (tmp_path / PRIVATE_FILE).read_bytes() == before


@pytest.mark.parametrize("name", [PRIVATE_FILE, PUBLIC_FILE, USERS_PRIVATE_FILE, USERS_PUBLIC_FILE])
def test_a_file_of_the_same_name_that_is_there_alone_is_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("of another program")
    arguments = ("--tokens",) if name in {USERS_PRIVATE_FILE, USERS_PUBLIC_FILE} else ()
    code, said = keys(tmp_path, *arguments)
    assert (code, f"{tmp_path / name} is there already" in said) == (2, True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "of another program")]


def test_a_rotation_adds_a_key_then_signs_with_it_then_removes_the_old_one(tmp_path: Path) -> None:
    keys(tmp_path)
    assert keys(tmp_path, "--add")[0] == 0
    assert ids(tmp_path) == (["k1", "k2"], {"k1", "k2"})
    assert keys(tmp_path, "--first", "k2")[0] == 0
    assert ids(tmp_path) == (["k2", "k1"], {"k1", "k2"})
    assert (tmp_path / PRIVATE_FILE).stat().st_mode & 0o777 == 0o600
    assert keys(tmp_path, "--remove", "k1")[0] == 0
    assert ids(tmp_path) == (["k2"], {"k2"})
    assert keys(tmp_path, "--add")[0] == 0
    assert ids(tmp_path)[0] == ["k2", "k3"], "an id is not used again for another key"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(("--remove", "k1"), "k1 signs; put another key first", id="the key that signs"),
        pytest.param(("--first", "k7"), "there is no key k7; there are k1", id="an unknown key"),
        pytest.param(("--add", "--remove", "k1"), "one of", id="two things at a time"),
    ],
)
def test_what_would_leave_tickets_without_a_key_is_refused(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    keys(tmp_path)
    code, output = keys(tmp_path, *arguments)
    assert (code, said in output) == (2, True)
    assert ids(tmp_path) == (["k1"], {"k1"})


@pytest.mark.parametrize("arguments", [("--add",), ("--first", "k1"), ("--remove", "k1")])
def test_a_folder_without_keys_has_none_to_rotate(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code, said = keys(tmp_path, *arguments)
    assert (code, f"{tmp_path} has no ticket keys: there is no {PRIVATE_FILE}" in said) == (2, True)
    assert "Errno" not in said


def test_a_key_of_user_tokens_is_made_for_its_owner_s_eyes_only_and_not_replaced(tmp_path: Path) -> None:
    code, said = keys(tmp_path, "--tokens")
    private, public = tmp_path / USERS_PRIVATE_FILE, tmp_path / USERS_PUBLIC_FILE
    assert (code, str(private) in said, str(public) in said) == (0, True, True)
    assert private.stat().st_mode & 0o777 == 0o600
    assert [(key.id, key.algorithm) for key in read_keys(public.read_bytes())] == [(USERS_KEY_ID, "RS256")]
    before = private.read_bytes()
    assert keys(tmp_path, "--tokens")[0] == 2
    assert private.read_bytes() == before
    assert keys(tmp_path)[0] == 0, "keys of tickets may lie beside it"
    assert keys(tmp_path, "--tokens", "--add")[0] == 2
