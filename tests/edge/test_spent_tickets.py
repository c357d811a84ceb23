"""A ticket opens two connections at a gateway and no more, over WebSocket and events together."""

import asyncio
from collections import Counter

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus

from edge.spent_tickets import USES, SpentTickets
from liveroom.errors import Code, ProblemError
from liveroom.tickets import ENTRY, Ticket, User
from tests.edge.harness import Edge, next_frame

TTL_MS = 60_000


def ticket(nonce: str, expires_ms: int = TTL_MS) -> Ticket:
    return Ticket(ENTRY, User("u"), expires_ms, nonce)


def is_good(spent: SpentTickets, one: Ticket) -> bool:
    try:
        spent.check(one)
    except ProblemError:
        return False
    return True


def test_a_ticket_has_two_uses() -> None:
    spent = SpentTickets()
    assert is_good(spent, ticket("a"))
    spent.spend(ticket("a"), 0)
    assert is_good(spent, ticket("a"))
    spent.spend(ticket("a"), 0)
    with pytest.raises(ProblemError) as refused:
        spent.check(ticket("a"))
    assert refused.value.code is Code.TICKET_USED
    assert is_good(spent, ticket("b")), "another one has its own"


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 200)), max_size=400))
def test_a_used_ticket_is_known_until_it_expires(uses: list[tuple[int, int]]) -> None:
    spent = SpentTickets()
    now_ms = 0
    used: Counter[int] = Counter()
    for nonce, passed_ms in uses:
        now_ms += passed_ms
        if used[nonce] < USES:
            spent.spend(ticket(str(nonce)), now_ms)
            used[nonce] += 1
        assert now_ms >= TTL_MS or is_good(spent, ticket(str(nonce))) == (used[nonce] < USES)


def test_tickets_that_expired_are_forgotten_and_never_more_than_the_cap_is_kept() -> None:
    spent = SpentTickets(most=5000)
    for number in range(100_000):
        spent.spend(ticket(str(number), number + TTL_MS), number)
        assert len(spent) <= 5000
    for number in range(200_000, 205_000):
        spent.spend(ticket(str(number), number + TTL_MS), 1_000_000)
    assert len(spent) <= 5000


async def test_one_ticket_opens_two_connections_and_the_third_is_told_to_ask_again(edge: Edge) -> None:
    one = edge.ticket()
    async with edge.connect(one) as first, edge.connect(one) as second:
        assert [(await next_frame(socket))["t"] for socket in (first, second)] == ["hello", "hello"]
        with pytest.raises(InvalidStatus) as refused:
            await edge.connect(one)
        assert refused.value.response.status_code == 401
        assert b'"ticket_used"' in bytes(refused.value.response.body or b"")
        async with edge.connect(edge.ticket()) as other:
            assert (await next_frame(other))["t"] == "hello"
    with pytest.raises(InvalidStatus):
        await edge.connect(one)


async def test_events_and_websocket_share_the_uses_of_a_ticket(edge: Edge) -> None:
    one = edge.ticket()
    url = f"{edge.http}/v1/events"
    async with (
        edge.connect(one) as socket,
        aiohttp.ClientSession() as http,
        http.get(url, params={"ticket": one}, ssl=edge.trusting or True) as events,
    ):
        assert (await next_frame(socket))["t"] == "hello"
        assert events.status == 200
        async with http.get(url, params={"ticket": one}, ssl=edge.trusting or True) as third:
            assert (third.status, (await third.json(content_type=None))["code"]) == (401, "ticket_used")


async def test_a_refused_upgrade_uses_nothing(edge: Edge) -> None:
    one = edge.ticket()
    for _ in range(5):
        with pytest.raises(InvalidStatus) as refused:
            await edge.connect(one, additional_headers={"Origin": "https://b.example"})
        assert refused.value.response.status_code == 403
    async with edge.connect(one) as first, edge.connect(one) as second:
        assert [(await next_frame(socket))["t"] for socket in (first, second)] == ["hello", "hello"]


async def test_one_ticket_in_a_loop_from_many_connections_opens_two(edge: Edge) -> None:
    one = edge.ticket()

    async def attack() -> int:
        try:
            socket = await edge.connect(one)
        except InvalidStatus as refused:
            return refused.response.status_code
        await socket.close()
        return 101

    outcomes = Counter(await asyncio.gather(*(attack() for _ in range(100))))
    assert outcomes == {101: 2, 401: 98}
