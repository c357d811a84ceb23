"""The documents say what the code does: generated parts are up to date, schemas are valid, examples
can be read.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from liveroom import wire
from tests import later
from tests.docs.blocks import bodies
from tests.liveroom import golden

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SCHEMAS = {path.name: json.loads(path.read_bytes()) for path in sorted((DOCS / "schemas").glob("*.json"))}


def valid(value: Any, schema: str) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMAS[schema]).is_valid(value))


def test_what_is_generated_in_docs_is_up_to_date() -> None:
    command = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one_and_its_patterns_are_those_of_javascript(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    assert r"\Z" not in json.dumps(SCHEMAS[name])


@pytest.mark.parametrize("sample", [pytest.param(sample, id=sample.file) for sample in golden.ALL[:2]])
def test_the_uplink_schema_takes_what_we_write(sample: golden.Golden) -> None:
    assert valid(json.loads(sample.value), "uplink.json")


@pytest.mark.parametrize(
    "changed",
    [
        {"v": 2},
        {"room": ""},
        {"room": "a b"},
        {"user": "u" * 192},
        {"user": "auth0|1"},
        {"level": 256},
        {"items": []},
        {"items": [{"kind": "x"}]},
    ],
    ids=str,
)
def test_the_uplink_schema_refuses_what_we_refuse(changed: dict[str, Any]) -> None:
    assert not valid(json.loads(golden.ALL[0].value) | changed, "uplink.json")


def test_examples_of_uplink_records_are_valid() -> None:
    found = bodies("docs/records.md", "json")
    assert found
    assert all(valid(json.loads(example), "uplink.json") for example in found)


def test_examples_of_frames_are_read_by_the_code_and_valid_by_the_schemas() -> None:
    lines = [line for example in bodies("docs/viewer-protocol.md", "json") for line in example.splitlines()]
    seen = set()
    for line in lines:
        value = json.loads(line)
        kind = value.get("t", "message")
        if kind in {"join", "leave"} or (kind == "hb" and "at" not in value):
            assert wire.encode_frame(wire.decode_client_frame(line))
            assert valid(value, "client-frame.json"), line
        elif "messages" in value:
            pulled, messages = wire.decode_pulled(line.encode())
            assert valid(value, "pulled.json"), line
            assert all(valid(message, "message.json") for message in value["messages"])
            assert pulled.rseq == max(message.rseq for message in messages)
            kind = "pulled"
        elif kind == "message":
            assert valid(value, "message.json"), line
        else:
            assert wire.decode_server_frame(line.encode())
            assert valid(value, "server-frame.json"), line
        seen.add(kind)
    told = {"hello", "joined", "card", "batch", "message", "notice", "move", "error", "left", "hb", "pulled"}
    assert seen == told | {"join", "leave"}


def test_the_schemas_of_what_viewers_get_take_what_a_later_version_adds() -> None:
    for frame in later.FRAMES:
        head, *lines = map(json.loads, frame.split("\n"))
        assert valid(head, "server-frame.json"), head
        assert all(valid(line, "message.json") for line in lines)
    answer = {"room": "r", "epoch": 1, "messages": later.MESSAGES, **later.MORE}
    assert valid(answer, "pulled.json")
    assert valid({"t": "join", "room": "r", **later.MORE}, "client-frame.json")


def test_the_batch_of_the_viewer_protocol_is_one() -> None:
    (example,) = (found for found in bodies("docs/viewer-protocol.md", "json") if found.startswith('{"t":"batch"'))
    batch = wire.decode_server_frame(example.encode())
    assert isinstance(batch, wire.ReceivedBatch)
    seqs = [message.seq for message in batch.messages]
    assert seqs == list(range(batch.header.seq[0], batch.header.seq[1] + 1))
    assert max(message.rseq for message in batch.messages) == batch.header.rseq
