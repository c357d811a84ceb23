"""The last release reads today's records of rules, clears and rooms.

It passes over what it does not know, and the rules that it knows hold.
"""

import json
import subprocess
from typing import Any

import msgspec

from liveroom.bodies import Clear
from liveroom.kinds import Kind
from liveroom.records.codec import encode_json
from liveroom.records.control import LATER_MODES, Moderation, RuleKind, record_of
from liveroom.records.snapshot import RoomSettings, Tombstone
from liveroom.wire import Notice, encode_frame
from tests.upgrade.tagged import build_of, last_release

READER = """
import json, sys
import msgspec
from liveroom.bodies import Clear
from liveroom.moderation import Rules
from liveroom.records.codec import JsonReader
from liveroom.records.control import Moderation, RuleKind
from liveroom.records.snapshot import RoomSettings, Tombstone
from liveroom.wire import decode_server_frame
given = json.load(sys.stdin)
rules = Rules()
for text in given["rules"]:
    rules.apply(JsonReader(Moderation).read(text.encode()))
clear = msgspec.json.decode(given["clear"], type=Clear)
stone = msgspec.json.decode(given["tombstone"], type=Tombstone)
room = msgspec.json.decode(given["settings"], type=RoomSettings)
notice = decode_server_frame(given["notice"].encode())
print(json.dumps({
    "muted": [rule.name for rule in rules.all_of(RuleKind.MUTE, "r", 10)],
    "banned": rules.banned("r", "troll", 10) is not None,
    "modes": sorted(rules.modes),
    "clear": [clear.id, clear.user], "tombstone": [stone.ids, stone.user], "slow_s": room.slow_s, "notice": notice.kind,
}))
"""


def as_read_by_the_last_release(given: dict[str, Any]) -> Any:
    build = build_of(last_release())
    done = subprocess.run(
        [build.python, "-c", READER], cwd=build.folder, input=json.dumps(given), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rule(kind: RuleKind, name: str, **more: Any) -> Moderation:
    return Moderation(1, "r", 1, kind, name, "mod", id="i", **more)


def test_the_last_release_passes_over_what_it_does_not_know() -> None:
    rules = [
        *(rule(RuleKind.MODE, name, value=name == "restricted", by_role="streamer") for name in sorted(LATER_MODES)),
        rule(RuleKind.HOST, "star", until_ms=10**13, value="emperor", by_role="emperor"),
        rule(RuleKind.MUTE, "rude", until_ms=-1, by_role="operator", is_automatic=True, repeats=7),
        rule(RuleKind.BAN, "troll", until_ms=-1, by_role="streamer"),
    ]
    read = as_read_by_the_last_release(
        {
            "rules": [encode_json(record_of(each)).decode() for each in rules],
            "clear": msgspec.json.encode(Clear(id="m1", sender="troll")).decode(),
            "tombstone": msgspec.json.encode(Tombstone(5, 3, ["m1"], sender="troll")).decode(),
            "settings": msgspec.json.encode(RoomSettings(slow_s=3, guests=False, restricted=True)).decode(),
            "notice": encode_frame(Notice("r", Kind.KICK, "n", 1, by_role="streamer")).decode(),
        }
    )
    assert read == {
        "muted": ["rude"],
        "banned": True,
        "modes": [],
        "clear": ["m1", ""],
        "tombstone": [["m1"], ""],
        "slow_s": 3.0,
        "notice": "kick",
    }
