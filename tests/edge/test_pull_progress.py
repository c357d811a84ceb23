"""Pulls over a log in memory, with reads that stop as early as they may: every pull gets everything
from where it began, goes forward with each answer, and ends, whatever others ask meanwhile.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import structlog
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edge import pull_answer, pull_queue, pull_reads, pulls
from edge.pull_answer import PullQuery
from edge.pulls import Pulls
from liveroom import broadcast_log, metric_catalog
from liveroom.records.codec import BadRecord
from liveroom.service import Runtime
from liveroom.topics import BROADCAST
from liveroom.wire import Pulled, decode_pulled
from tests.edge.pull_log import EPOCH, Log, pulls_of

ROOMS = ["a", "b"]
BODY = b'{"text":"hi"}'
MOST_ASKS = 200


class Wish(NamedTuple):
    """A pull that begins at a record, and what it asks for."""

    room: str
    start: int
    is_reliable: bool


WISHES = st.builds(Wish, st.sampled_from(ROOMS), st.integers(-1, 50), st.booleans())


async def ask(desk: Pulls, query: PullQuery, room: str, user: str) -> tuple[Pulled, list[int]]:
    """Pull once; return the answer and the numbers of its messages."""
    body = await desk._shared_answer(pulls._Question(room, query), user)
    pulled, messages = decode_pulled(body)
    return pulled, [message.seq for message in messages]


async def follow(desk: Pulls, wish: Wish, user: str) -> tuple[list[int], int]:
    """Pull on and on; return the numbers that came, and how many pulls it took."""
    number, got = 0, list[int]()
    pos, asks, more = wish.start, 0, True
    while more:
        query = PullQuery(pos, EPOCH, number if wish.is_reliable else None, None if wish.is_reliable else number, None)
        pulled, seqs = await ask(desk, query, wish.room, user)
        asks += 1
        assert asks < MOST_ASKS, "it never ends"
        got += seqs
        before = pos, number
        pos = int(pulled.pos.partition(".")[2])
        number, more = pulled.rseq if wish.is_reliable else pulled.seq, pulled.more
        assert (pos, number) >= before, "it goes back"
        assert pos >= before[0], "it goes back"
        assert not more or (pos, number) > before, "it stays where it is"
        assert not pulled.gone
    return got, asks


async def written(sizes: Sequence[tuple[str, int]]) -> tuple[Log, list[tuple[int, str, int]]]:
    """A log with a batch of so many messages for each of these rooms, and (offset, room, number) of
    each message.
    """
    log, messages, last = Log(), list[tuple[int, str, int]](), dict.fromkeys(ROOMS, 0)
    await log.start()
    for room, size in sizes:
        offset = await log.write(room, [BODY] * size)
        messages += [(offset, room, last[room] + number) for number in range(1, size + 1)]
        last[room] += size
    return log, messages


async def live(sizes: Sequence[tuple[str, int]], rounds: Sequence[Sequence[Wish]], step: int) -> None:
    log, messages = await written(sizes)
    desk, _ = pulls_of(log)
    users = [f"u{number}" for number in range(4)]
    for wishes in rounds:
        ends = await asyncio.gather(*(follow(desk, wish, users[number % 4]) for number, wish in enumerate(wishes)))
        for wish, (got, asks) in zip(wishes, ends, strict=True):
            assert got == [number for offset, room, number in messages if room == wish.room and offset >= wish.start]
            assert asks <= -(-log.end // step) + len(got) // pull_answer.MAX_MESSAGES + 2
    await desk.close()


@settings(max_examples=40, phases=[Phase.explicit, Phase.generate])  # to shrink takes minutes
@given(
    st.lists(st.tuples(st.sampled_from(ROOMS), st.integers(1, 4)), min_size=1, max_size=50),
    st.lists(st.lists(WISHES, min_size=1, max_size=10), min_size=1, max_size=3),
    st.integers(1, 7),
    st.integers(1, 30),
)
def test_every_pull_goes_forward_with_each_answer_and_gets_everything_whatever_others_ask(
    sizes: list[tuple[str, int]], rounds: list[list[Wish]], step: int, near: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pull_reads, "READ_S", 0.0)
        patch.setattr(broadcast_log, "READ_RECORDS", step)
        patch.setattr(pull_queue, "NEAR", near)
        patch.setattr(pull_answer, "MAX_MESSAGES", 5)
        asyncio.run(live(sizes, rounds, step))


async def test_a_pull_from_far_back_neither_holds_up_nor_sets_back_one_from_nearby(monkeypatch: pytest.MonkeyPatch) -> None:
    """One guest pulls from the beginning again and again, where reads stop before others begin."""
    monkeypatch.setattr(pull_reads, "READ_S", 0.0)
    monkeypatch.setattr(broadcast_log, "READ_RECORDS", 20)
    monkeypatch.setattr(pull_queue, "NEAR", 50)
    log, messages = await written([("a", 1)] * 400)
    desk, _ = pulls_of(log)

    async def pull_from_far() -> None:
        while True:
            await asyncio.gather(*(ask(desk, PullQuery(start, EPOCH, 0, None, None), "a", "guest") for start in range(8)))

    guest = asyncio.create_task(pull_from_far())
    await asyncio.sleep(0)
    for back in (10, 20, 30):
        got, asks = await follow(desk, Wish("a", log.end - back, is_reliable=False), "honest")
        assert got == [number for _, _, number in messages[-back:]]
        assert asks <= 3
    guest.cancel()
    await desk.close()


async def test_a_position_that_the_log_has_not_reached_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read there waited for its time-out, and held up others."""

    async def fails(*_: object, **__: object) -> None:
        raise AssertionError("it was read")

    log, _ = await written([("a", 1)])
    desk, _ = pulls_of(log)
    monkeypatch.setattr(pulls, "read_rooms", fails)
    pulled, got = await ask(desk, PullQuery(10**9, EPOCH, 7, None, None), "a", "u")
    assert (got, pulled.rseq, pulled.pos, pulled.more, pulled.gone) == ([], 7, f"0.{10**9}", False, False)


def bad(runtime: Runtime) -> float:
    counter = runtime.metrics.counter(metric_catalog.BAD_RECORDS, BROADCAST.name, BadRecord.UNDECODABLE.value)
    truncated = runtime.metrics.counter(metric_catalog.BAD_RECORDS, BROADCAST.name, BadRecord.TRUNCATED.value)
    return float(counter._value.get() + truncated._value.get())


@pytest.mark.parametrize("way", ["a part that does not inflate", "a record that cannot be decoded"])
async def test_messages_that_cannot_be_read_are_told_as_gone_and_their_record_is_counted_once(way: str) -> None:
    log = Log()
    await log.start()
    first = await log.write("a", [BODY] * 20)
    if way == "a part that does not inflate":
        broken = await log.write("a", [BODY] * 20, behind=b"\x00\x00\xff\xff\xff")
    else:
        broken = await log.damaged("a", 20)
    await log.write("a", [BODY] * 20)
    desk, runtime = pulls_of(log)
    with structlog.testing.capture_logs() as logged:
        for number in range(3):
            pulled, got = await ask(desk, PullQuery(first, EPOCH, number, None, None), "a", "u")
            assert (pulled.gone, pulled.rseq, pulled.more) == (True, 60, False), "complete up to there: the rest never comes"
            assert got == [*range(number + 1, 21), *range(41, 61)]
        pulled, _ = await ask(desk, PullQuery(broken + 1, EPOCH, 40, None, None), "a", "u")
        assert not pulled.gone
    assert bad(runtime) == 1
    assert [(line["event"], line["offset"]) for line in logged if line["event"] == "bad_record"] == [("bad_record", broken)]
    await desk.close()
