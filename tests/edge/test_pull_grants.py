"""Who may pull."""

import pytest

from edge import pull_grants
from edge.pull_grants import PullGrant, PullGrants
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role

GRANT = PullGrant("u", Role.VIEWER, ())


def refusal(grants: PullGrants, token: str, room: str = "lobby") -> Code | None:
    try:
        grants.find(token).check(room)
    except ProblemError as problem:
        return problem.code
    return None


def test_a_token_is_good_while_the_connection_lasts_and_for_a_while_after_it() -> None:
    grants = PullGrants()
    assert refusal(grants, "a") is Code.TOKEN_INVALID
    grants.grant("a", GRANT)
    grants.expire(1e9)
    assert grants.find("a") == GRANT
    grants.end("a", until_s=2e9)
    grants.expire(2e9 - 1)
    assert refusal(grants, "a") is None
    grants.expire(2e9)
    assert refusal(grants, "a") is Code.TOKEN_INVALID


def test_of_too_many_that_went_the_oldest_lose_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_grants, "MAX_FORMER", 2)
    grants = PullGrants()
    for token in "abc":
        grants.grant(token, GRANT)
        grants.end(token, until_s=100)
    assert [refusal(grants, token) for token in "abc"] == [Code.TOKEN_INVALID, None, None]


def test_a_grant_is_for_the_rooms_of_its_ticket() -> None:
    grants = PullGrants()
    grants.grant("any", GRANT)
    grants.grant("some", GRANT._replace(ticket_rooms=("lobby", "stage")))
    assert [refusal(grants, "any", room) for room in ("lobby", "attic", "no/room")] == [None, None, Code.ROOM_INVALID]
    assert [refusal(grants, "some", room) for room in ("stage", "attic")] == [None, Code.FORBIDDEN]
