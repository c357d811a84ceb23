"""Who may pull, and how often."""

import pytest

from edge import pull_grants
from edge.pull_grants import PULLS_BURST, PullGrant, PullGrants
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role

GRANT = PullGrant("u", Role.VIEWER, ())


def refusal(grants: PullGrants, token: str, now_s: float, room: str = "lobby") -> Code | None:
    try:
        grants.use(token, room, now_s)
    except ProblemError as problem:
        return problem.code
    return None


def test_a_token_is_good_while_the_connection_lasts_and_for_a_while_after_it() -> None:
    grants = PullGrants()
    assert refusal(grants, "a", 0) is Code.TOKEN_INVALID
    grants.grant("a", GRANT)
    grants.expire(1e9)
    assert grants.use("a", "lobby", 1e9) == GRANT
    grants.end("a", until_s=2e9)
    grants.expire(2e9 - 1)
    assert refusal(grants, "a", 2e9 - 1) is None
    grants.expire(2e9)
    assert refusal(grants, "a", 2e9) is Code.TOKEN_INVALID


def test_each_token_pulls_so_often_and_no_other_one_pays_for_it() -> None:
    grants = PullGrants()
    grants.grant("a", GRANT)
    grants.grant("b", GRANT)
    refusals = [refusal(grants, "a", 0) for _ in range(int(PULLS_BURST) + 1)]
    assert refusals == [None] * int(PULLS_BURST) + [Code.RATE_USER]
    assert refusal(grants, "b", 0) is None
    assert refusal(grants, "a", 1) is None


def test_of_too_many_that_went_the_oldest_lose_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_grants, "MAX_FORMER", 2)
    grants = PullGrants()
    for token in "abc":
        grants.grant(token, GRANT)
        grants.end(token, until_s=100)
    assert [refusal(grants, token, 0) for token in "abc"] == [Code.TOKEN_INVALID, None, None]


def test_a_grant_is_for_the_rooms_of_its_ticket() -> None:
    grants = PullGrants()
    grants.grant("any", GRANT)
    grants.grant("some", GRANT._replace(ticket_rooms=("lobby", "stage")))
    assert [refusal(grants, "any", 0, room) for room in ("lobby", "attic", "no/room")] == [None, None, Code.ROOM_INVALID]
    assert [refusal(grants, "some", 0, room) for room in ("stage", "attic")] == [None, Code.FORBIDDEN]
