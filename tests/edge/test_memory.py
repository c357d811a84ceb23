"""A member whose transport gives no descriptor lives by its transport alone: a whole session."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from edge.drain import drain
from edge.member import NO_FD
from liveroom.chance import Chance
from liveroom.closecodes import Close
from tests.edge.harness import line, settings_of
from tests.edge.memory import DEFLATED, MemoryEdge, in_memory

BIG = "x" * 2000


@pytest.fixture
async def edge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MemoryEdge]:
    monkeypatch.setattr("edge.joins.SNAPSHOT_WAIT_S", 0.0)
    async with in_memory(settings_of(**getattr(request, "param", {}))) as made:
        yield made


@pytest.mark.parametrize("extensions", [pytest.param("", id="plain"), pytest.param(DEFLATED, id="deflated")])
@pytest.mark.parametrize("edge", [{"slow_unsent_bytes": 8192, "max_unsent_bytes": 32_768}], indirect=True)
async def test_a_viewer_in_memory_enters_pulls_resumes_is_closed_as_slow_and_drained(edge: MemoryEdge, extensions: str) -> None:
    viewer = await edge.viewer(extensions=extensions)
    (hello,) = viewer.frames()
    assert {member.fd for member in edge.gateway.members} == {NO_FD}

    viewer.say(t="join", room="r")
    edge.keepalive.turn()
    assert [came["t"] for came in viewer.frames()] == ["joined"]
    await edge.deliver("r", [line(seq, BIG) for seq in (1, 2)], reliable=True)
    await edge.deliver("r", [line(3)], 3, reliable=True)
    assert [came["seqs"] for came in viewer.frames()] == [[1, 2], [3]]

    status, pulled = await edge.request("GET", "/v1/rooms/r/messages?epoch=3&after_seq=1", hello["pull"])
    assert (status, [message["seq"] for message in json.loads(pulled)["messages"]]) == (200, [2, 3])

    back = await edge.viewer(extensions=extensions)
    back.say(t="join", room="r", epoch=3, seq=1, rseq=0)
    _, joined, missed, newest = back.frames()
    assert (joined["t"], joined["resumed"], missed["seqs"], newest["seqs"]) == ("joined", True, [1, 2], [3])

    chance = Chance(1)  # its text hardly deflates
    back.transport.reads = False
    for seq in range(4, 104):
        await edge.deliver("r", [line(seq, chance.token_hex(500))], seq, reliable=True)
    assert [came["seqs"] for came in viewer.frames()] == [[seq] for seq in range(4, 104)]
    (slow,) = [member for member in edge.gateway.members if member.close_code]
    assert slow.close_code == Close.SLOW
    back.transport.read_on()
    last = back.frames()[-1]
    assert (back.code, last["seqs"] < [103]) == (Close.SLOW, True)
    await asyncio.sleep(0)
    assert (len(edge.gateway.members), edge.gateway.queues.size, len(edge.gateway.queues)) == (1, 0, 0)

    await drain(edge.gateway)
    assert [came["t"] for came in viewer.frames()] == ["move"]
    assert viewer.code == Close.SERVICE_RESTART
    assert not edge.gateway.members


@pytest.mark.parametrize("edge", [{"slow_unsent_bytes": 8192, "max_unsent_bytes": 1_000_000}], indirect=True)
async def test_a_viewer_in_memory_that_reads_again_gets_what_waited_in_order(edge: MemoryEdge) -> None:
    viewer = await edge.viewer()
    viewer.say(t="join", room="r")
    edge.keepalive.turn()
    viewer.frames()
    viewer.transport.reads = False
    for seq in range(1, 51):
        await edge.deliver("r", [line(seq, BIG)], seq, reliable=seq % 10 == 0)
    viewer.transport.read_on()
    seqs = [seq for came in viewer.frames() for seq in came.get("seqs", [])]
    assert seqs == sorted(seqs)
    assert {10, 20, 30, 40, 50} <= set(seqs) < set(range(1, 51))
    await edge.deliver("r", [line(51)], 51)
    assert [came["seqs"] for came in viewer.frames()] == [[51]]
    assert edge.gateway.queues.size == 0


@pytest.mark.parametrize("edge", [{"max_unsent_bytes": 32_768}], indirect=True)
async def test_a_viewer_of_events_in_memory_enters_and_is_closed_as_slow(edge: MemoryEdge) -> None:
    stream = await edge.events()

    def events() -> list[str]:
        text = stream.received.decode()
        stream.received.clear()
        return text.removesuffix("\n\n").split("\n\n")

    (hello,) = events()
    token = json.loads(hello.removeprefix("data: "))["pull"]
    assert await edge.request("POST", "/v1/events", token, b'{"t":"join","room":"r"}') == (204, b"")
    edge.keepalive.turn()
    assert [json.loads(event.removeprefix("data: "))["t"] for event in events()] == ["joined"]
    await edge.deliver("r", [line(1), line(2)])
    (batch,) = events()
    assert [json.loads(text.removeprefix("data: ")).get("seq") for text in batch.split("\n")] == [[1, 2], 1, 2]
    stream.reads = False
    for seq in range(3, 40):
        await edge.deliver("r", [line(seq, BIG)], seq, reliable=True)
    stream.read_on()
    assert events()[-1] == f"event: close\ndata: {Close.SLOW.value} too slow"
    await asyncio.sleep(0)
    assert (len(edge.gateway.members), edge.gateway.queues.size) == (0, 0)
