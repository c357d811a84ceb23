"""Every file of text names its encoding: the locale of the machine decides nothing."""

import ast
import json
import os
import re
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from autoscaler.policy import read_policy
from ingress.__main__ import read_word_files
from liveroom.given_file import GivenFileError
from liveroom.settings import IngressSettings, SchedulerSettings
from liveroom.ticket_keys import make_private_key, read_private_keys, read_public_keys, write_private_keys, write_public_keys
from liveroom.tokens import read_keys
from scheduler.__main__ import read_zones

ROOT = Path(__file__).parents[1]
PLACE_OF_ENCODING = {"read_text": 0, "write_text": 1}


def _is_nameless(call: ast.Call) -> bool:
    """Return whether a call opens a text without naming its encoding."""
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    function = call.func
    if isinstance(function, ast.Attribute) and function.attr == "to_thread" and isinstance(call.args[0], ast.Attribute):
        called = call.args[0]
        return called.attr in PLACE_OF_ENCODING and len(call.args) - 1 <= PLACE_OF_ENCODING[called.attr]
    if isinstance(function, ast.Attribute) and function.attr in PLACE_OF_ENCODING:
        return len(call.args) <= PLACE_OF_ENCODING[function.attr]
    is_text = any(keyword.arg in {"text", "universal_newlines"} for keyword in call.keywords)
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "subprocess":
        return is_text
    if isinstance(function, ast.Name) and function.id == "open":
        modes = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    elif isinstance(function, ast.Attribute) and function.attr in {"open", "fdopen"}:
        modes = [arg for arg in call.args[:2] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        if isinstance(function.value, ast.Name) and function.value.id == "os" and function.attr == "open":
            return False
        if not modes and call.args:
            return False  # not a file's: it takes other arguments
        if not modes and ast.unparse(function.value).split(".")[-1] not in {"path", "file"}:
            return False
    else:
        return False
    mode = modes[0].value if modes and isinstance(modes[0], ast.Constant) else "r"
    return isinstance(mode, str) and "b" not in mode


def test_no_code_opens_a_text_in_the_encoding_of_the_locale() -> None:
    nameless = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:80]}"
        for folder in sorted(ROOT.iterdir())
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in {"tests", "build"}
        for path in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _is_nameless(node)
    ]
    assert nameless == []


READ = """
import sys
from collections.abc import Callable
from base64 import urlsafe_b64encode
from pathlib import Path
from ingress.__main__ import read_word_files
from liveroom.settings import IngressSettings, SchedulerSettings
from scheduler.__main__ import read_zones
for folder in map(Path, sys.argv[1:]):
    words, zones = folder / "words.txt", folder / "zones.txt"
    library = read_word_files(IngressSettings.model_construct(word_files=[words]))
    networks = read_zones(SchedulerSettings.model_construct(zones_file=zones))
    print(library.may_match("\\u50bb\\u5e3d"), networks.find("10.1.2.3"))
"""
WORDS = "# список 词表\nrefuse 傻帽\n"
ZONES = "# 区域\n10.0.0.0/8 east\n"
ENCODED: dict[str, Callable[[str], bytes]] = {
    "utf-8": lambda text: text.encode(),
    "utf-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16 of the other order": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "other ends of lines": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
}


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_word_and_zone_files_are_read_with_a_byte_order_mark_and_in_any_locale(tmp_path: Path, locale: str) -> None:
    folders = []
    for name, encoded in ENCODED.items():
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        (folders[-1] / "words.txt").write_bytes(encoded(WORDS))
        (folders[-1] / "zones.txt").write_bytes(encoded(ZONES))
    environment = os.environ | {"LC_ALL": locale, "LANG": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", READ, *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.stdout.decode().splitlines() == ["True east"] * len(ENCODED), done.stderr.decode()


def test_a_file_in_another_encoding_is_named_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes("refuse 坏话\n".encode("gbk"))
    with pytest.raises(ValueError, match=rf"\A{re.escape(str(file))}: not UTF-8: .* at byte 7\Z"):
        read_word_files(IngressSettings.model_construct(word_files=(file,)))
    with pytest.raises(ValueError, match=rf"\A{re.escape(str(file))}: not UTF-8: .* at byte 7\Z"):
        read_zones(SchedulerSettings.model_construct(zones_file=file))


def test_a_line_that_cannot_be_used_is_named_with_its_file(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("mask darn\n", encoding="utf-8-sig")
    bad.write_text("mask darn\nforbid x\n", encoding="utf-8-sig")
    with pytest.raises(GivenFileError, match=rf"\A{re.escape(str(bad))}: line 2: 'forbid'"):
        read_word_files(IngressSettings.model_construct(word_files=(good, bad)))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a mark"])
def test_key_sets_and_policies_are_read_with_a_byte_order_mark(mark: bytes) -> None:
    key = {"kty": "oct", "kid": "k", "k": urlsafe_b64encode(b"s" * 32).decode().rstrip("=")}
    assert [each.id for each in read_keys(mark + json.dumps({"keys": [key]}).encode())] == ["k"]
    pair = [make_private_key("t", b"s" * 32)]
    assert list(read_public_keys(mark + write_public_keys(pair).encode())) == [(2, "t")]
    assert [each.id for each in read_private_keys(mark + write_private_keys(pair).encode())] == ["t"]
    assert read_policy(mark + b"min = 2\nmax = 3\n").min == 2
