"""Nobody undoes what a better has set: each cell of the table in docs/moderation.md, by hand."""

from typing import Any, NamedTuple

import pytest

from ingress.moderation import SYSTEM, CommandContext, ModerationService
from ingress.permissions import Command
from liveroom import clock
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.moderation import FOR_GOOD
from liveroom.records.codec import JsonReader, encode_json
from liveroom.records.control import Moderation, RuleKind, record_of, rule_of
from liveroom.registry import Metrics
from tests.ingress.harness import Served, headers_of, problem_of, served

MODERATOR, STREAMER, OPERATOR = Role.MODERATOR, Role.STREAMER, Role.OPERATOR
LATER, UNKNOWN, AUTOMATIC = "emperor", "no role", "the system"
MAY_UNDO = {
    (MODERATOR, MODERATOR): True,
    (MODERATOR, STREAMER): False,
    (MODERATOR, OPERATOR): False,
    (MODERATOR, LATER): False,
    (MODERATOR, UNKNOWN): True,
    (MODERATOR, AUTOMATIC): True,
    (STREAMER, MODERATOR): True,
    (STREAMER, STREAMER): True,
    (STREAMER, OPERATOR): False,
    (STREAMER, LATER): False,
    (STREAMER, UNKNOWN): True,
    (STREAMER, AUTOMATIC): True,
    (OPERATOR, MODERATOR): True,
    (OPERATOR, STREAMER): True,
    (OPERATOR, OPERATOR): True,
    (OPERATOR, LATER): True,
    (OPERATOR, UNKNOWN): True,
    (OPERATOR, AUTOMATIC): True,
}


class Change(NamedTuple):
    """A rule in force, and a request that changes or lifts it."""

    kind: RuleKind
    name: str
    held: dict[str, Any]
    method: str
    path: str
    body: dict[str, Any] | None
    roles: frozenset[Role] = frozenset({MODERATOR, STREAMER, OPERATOR})


MUTE, BAN, WORD, MODE = RuleKind.MUTE, RuleKind.BAN, RuleKind.WORD, RuleKind.MODE
CHANGES = {
    "lift a mute": Change(MUTE, "u", {"until_ms": FOR_GOOD}, "DELETE", "/mutes/u", None),
    "shorten a mute": Change(MUTE, "u", {"until_ms": FOR_GOOD}, "POST", "/mutes", {"user": "u", "for_s": 1}),
    "replace a mute by an endless one": Change(MUTE, "u", {"until_ms": 2**42}, "POST", "/mutes", {"user": "u"}),
    "lift a ban": Change(BAN, "u", {"until_ms": FOR_GOOD}, "DELETE", "/bans/u", None),
    "shorten a ban": Change(BAN, "u", {"until_ms": FOR_GOOD}, "POST", "/bans", {"user": "u", "for_s": 1}),
    "replace a ban by an endless one": Change(BAN, "u", {"until_ms": 2**42}, "POST", "/bans", {"user": "u"}),
    "remove a word": Change(WORD, "darn", {"value": "refuse"}, "DELETE", "/words/darn", None),
    "change a word": Change(WORD, "darn", {"value": "refuse"}, "PUT", "/words/darn", {"action": "count"}),
    "end a mode": Change(MODE, "muted_all", {"value": True}, "PATCH", "/modes", {"muted_all": False}),
    "change a mode": Change(MODE, "slow_s", {"value": 60}, "PATCH", "/modes", {"slow_s": 1}),
    "let guests in": Change(MODE, "guests", {"value": False}, "PATCH", "/modes", {"guests": True}),
    "end the restriction": Change(MODE, "restricted", {"value": True}, "PATCH", "/modes", {"restricted": False}),
    "exempt users of a mute of all": Change(MODE, "muted_all", {"value": True}, "PATCH", "/modes", {"allow": ["friend"]}),
    "one mode of two": Change(MODE, "slow_s", {"value": 60}, "PATCH", "/modes", {"no_media": True, "slow_s": 1}),
    "reopen": Change(MODE, "dissolved", {"value": True}, "POST", "/reopen", {}, frozenset({STREAMER, OPERATOR})),
}


def rule_by(change: Change, set_by: str, room: str) -> Moderation:
    by_role = {UNKNOWN: None, AUTOMATIC: SYSTEM.role.value}.get(set_by, str(set_by))
    rule = Moderation(
        1, room, 5, change.kind, change.name, "x", by_role=by_role, is_automatic=set_by == AUTOMATIC, **change.held
    )
    return rule_of(JsonReader(Moderation).read(encode_json(record_of(rule))))


async def ask(ingress: Served, change: Change, role: Role, room: str, **more: str) -> int:
    headers = headers_of(role, user="host", rooms=(room,)) | more
    url = f"/v1/rooms/{room}{change.path}"
    async with ingress.http.request(change.method, url, json=change.body, headers=headers) as answer:
        if answer.status != 202:
            assert (await answer.json(content_type=None))["code"] == Code.FORBIDDEN.value
        return answer.status


@pytest.mark.parametrize(("cell", "may"), MAY_UNDO.items(), ids=["-".join(cell) for cell in MAY_UNDO])
async def test_nobody_undoes_what_a_better_has_set(cell: tuple[Role, str], may: bool) -> None:
    role, set_by = cell
    async with served() as ingress:
        for number, (about, change) in enumerate(CHANGES.items()):
            room = f"r{number}"
            rule = rule_by(change, set_by, room)
            ingress.rules.apply(rule)
            is_allowed = may and role in change.roles
            assert await ask(ingress, change, role, room) == (202 if is_allowed else 403), about
            if not is_allowed:
                assert ingress.rules.rule(change.kind, room, change.name, clock.unix_ms()) == rule, about
                written = [
                    key for _, key, _ in ingress.writer.written if key.startswith(f"{room}/".encode()) and b"/host/" not in key
                ]
                assert written == [], f"{about}: and nothing was written, not even of another mode"


async def test_a_request_that_comes_again_is_answered_as_before_though_a_better_has_acted_since() -> None:
    async with served() as ingress:
        mute = CHANGES["shorten a mute"]
        again = {"Idempotency-Key": "one"}
        assert await ask(ingress, mute, MODERATOR, "r1", **again) == 202
        better = rule_by(mute, STREAMER, "r1")
        ingress.rules.apply(better)
        assert await ask(ingress, mute, MODERATOR, "r1", **again) == 202
        assert ingress.rules.muted("r1", "u", clock.unix_ms()) == better


async def test_the_system_does_not_replace_a_longer_mute_by_a_host() -> None:
    async with served() as ingress:
        by_host = rule_by(CHANGES["lift a mute"], MODERATOR, "r1")
        ingress.rules.apply(by_host)
        moderation = ModerationService(ingress.writer, ingress.rules, Metrics("ingress"))
        with pytest.raises(ProblemError):
            await moderation.sanction(Command.MUTE, CommandContext("r1", SYSTEM, "words:1"), "u", 2**42)
        assert ingress.rules.muted("r1", "u", clock.unix_ms()) == by_host
        assert ingress.writer.written == []


@pytest.mark.parametrize("path", ["mutes/nobody", "bans/nobody", "words/nothing"])
async def test_to_lift_what_does_not_hold_is_refused_and_leaves_no_record(path: str) -> None:
    async with served() as ingress:
        for role in (MODERATOR, OPERATOR):
            async with ingress.http.delete(f"/v1/rooms/r1/{path}", headers=headers_of(role, user="host")) as answer:
                await problem_of(answer, Code.NOT_FOUND)
        assert [key for _, key, _ in ingress.writer.written if b"/host/" not in key] == []
