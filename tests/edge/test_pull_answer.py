"""The answer to a pull: what it opens of a room's history, and how much one answer holds."""

import tracemalloc
from collections.abc import Iterator
from typing import TypeVar

import msgspec
import pytest

from edge import prepared_batch
from edge.prepared_batch import PreparedBatch
from edge.pull_answer import MAX_ANSWER_BYTES, MAX_MESSAGES, PullQuery, answer
from edge.pull_slices import LogSlice, Part
from liveroom.bodies import Clear
from liveroom.kinds import Kind
from liveroom.turns import run_at_once
from liveroom.wire import BatchHeader, Message, Pulled, encode_message, pack_payload, text_pieces

T = TypeVar("T")
EPOCH = 7
ALL = PullQuery(-1, None, None, None, None)


class History:
    """A room's batches, as a gateway has them."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.seq = 0
        self.rseq = 0

    def batch(self, *kinds: Kind, text: str = "", clear: Clear | None = None) -> None:
        first = self.seq + 1
        reliable: list[bytes] = []
        chatter: list[bytes] = []
        for kind in kinds:
            self.seq += 1
            is_reliable = kind is not Kind.DANMAKU
            self.rseq += is_reliable
            data = msgspec.Raw(msgspec.json.encode(clear if kind is Kind.CLEAR else {"text": text}))
            rseq = self.rseq if is_reliable else 0
            line = encode_message(Message(self.seq, kind, f"i{self.seq}", f"u{self.seq % 3}", 1, rseq, data=data))
            (reliable if is_reliable else chatter).append(line)
        packed = pack_payload(BatchHeader("r", EPOCH, (first, self.seq), self.rseq, at=1), reliable, chatter)
        prepared = PreparedBatch(
            packed.data,
            packed.reliable_size,
            is_deflated=packed.deflated,
            has_clear=Kind.CLEAR in kinds,
            first=first,
            last=self.seq,
            rseq=self.rseq,
            offset=len(self.parts),
        )
        self.parts.append(Part(EPOCH, prepared))

    def ask(self, query: PullQuery, *, is_cut: bool = False) -> Pulled:
        log_slice = LogSlice(-1, len(self.parts), self.parts, cut=int(is_cut), at_s=0.0)
        return run_at_once(answer("r", 0, query, log_slice, is_whole=True))


def numbers(pulled: Pulled) -> list[int]:
    return [msgspec.json.decode(raw)["seq"] for raw in pulled.messages]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the payloads that were opened."""
    sizes: list[int] = []
    pieces = text_pieces

    def counted(payload: bytes, *, deflated: bool) -> Iterator[bytes]:
        sizes.append(len(payload))
        return pieces(payload, deflated=deflated)

    monkeypatch.setattr(prepared_batch, "text_pieces", counted)
    return sizes


def talk(batches: int, *kinds: Kind, text: str = "") -> History:
    history = History()
    for _ in range(batches):
        history.batch(*kinds, text=text)
    return history


def test_only_batches_whose_numbers_may_hold_wanted_messages_are_opened(opened: list[int]) -> None:
    history = talk(200, *[Kind.DANMAKU] * 10)
    assert numbers(history.ask(ALL._replace(after_seq=1975))) == list(range(1976, 2001))
    assert len(opened) == 3
    opened.clear()
    assert numbers(history.ask(ALL._replace(before_seq=1))) == []
    assert numbers(history.ask(ALL._replace(after_seq=2000))) == []
    assert history.ask(ALL._replace(after_rseq=0)).messages == []
    assert opened == []


def test_what_is_wanted_of_reliable_messages_is_read_without_the_chatter_behind_them(opened: list[int]) -> None:
    history = talk(5, Kind.GIFT, *[Kind.DANMAKU] * 50, text="x" * 50)
    assert len(history.ask(ALL._replace(after_rseq=0)).messages) == 5
    assert opened == [part.prepared.reliable_size for part in history.parts]


def test_messages_before_a_number_are_the_newest_and_the_walk_stops_when_the_answer_is_full(opened: list[int]) -> None:
    history = talk(1000, *[Kind.DANMAKU] * 10)
    pulled = history.ask(ALL._replace(before_seq=9000), is_cut=True)
    assert numbers(pulled) == list(range(9000 - MAX_MESSAGES, 9000))
    assert len(opened) == MAX_MESSAGES // 10 + 1
    assert not pulled.gone, "the answer is full of what was asked for"
    assert (pulled.seq, pulled.pos, pulled.more) == (10_000, "0.1000", False)
    pulled = history.ask(ALL._replace(before_seq=50), is_cut=True)
    assert (numbers(pulled), pulled.gone) == (list(range(1, 50)), True)


def test_no_answer_has_more_bytes_than_one_answer_may_have() -> None:
    history = talk(20, *[Kind.DANMAKU] * 100, text="x" * 1000)
    for query in (ALL, ALL._replace(after_seq=10), ALL._replace(before_seq=1500)):
        assert MAX_ANSWER_BYTES // 2 < sum(len(raw) for raw in history.ask(query).messages) <= MAX_ANSWER_BYTES


@pytest.mark.parametrize("after", ["after_seq", "after_rseq"])
def test_a_batch_that_fits_into_no_answer_comes_in_parts_and_complete(after: str) -> None:
    history = talk(2, *[Kind.GIFT, Kind.GIFT, Kind.DANMAKU] * 1000)
    got: list[int] = []
    number, answers, more = 0, 0, True
    while more:
        pulled = history.ask(ALL._replace(**{after: number}))
        got += numbers(pulled)
        number, more, answers = pulled.seq if after == "after_seq" else pulled.rseq, pulled.more, answers + 1
        assert len(pulled.messages) <= MAX_MESSAGES
    wanted = [seq for seq in range(1, 6001) if after == "after_seq" or seq % 3]
    assert got == wanted
    assert answers == len(wanted) // MAX_MESSAGES


def test_thousands_of_clears_cost_as_much_as_their_number(opened: list[int]) -> None:
    history = talk(100, *[Kind.DANMAKU] * 10)
    for seq in range(1, 501):
        history.batch(Kind.CLEAR, clear=Clear(id=f"i{seq}"))
    query = ALL._replace(before_seq=1001)
    assert numbers(history.ask(query)) == list(range(501, 1001))
    assert len(opened) == 600
    opened.clear()
    history.ask(query)
    assert len(opened) == 100, "clears are read once"


def test_a_broken_batch_and_a_broken_clear_are_left_out_and_the_others_come() -> None:
    history = talk(3, *[Kind.GIFT] * 20, text="x" * 100)
    history.parts[1].prepared.payload += b"\x00\x00\xff\xff" + b"\xff"  # all of its messages, and then no deflate
    history.batch(Kind.CLEAR, clear=Clear(id="i1"))
    broken = history.parts[-1].prepared
    broken.payload = broken.payload.replace(b'{"id":"i1"}', b'{"id":12345}')
    pulled = history.ask(ALL._replace(after_seq=0))
    assert (numbers(pulled), pulled.gone) == ([*range(1, 21), *range(41, 62)], True)
    assert not history.ask(ALL._replace(after_seq=40)).gone


def test_a_batch_that_is_missing_in_the_middle_is_told_as_gone_to_whom_it_concerns() -> None:
    history = talk(10, Kind.GIFT, Kind.DANMAKU)
    del history.parts[4]  # 9 and 10, of which 9 is the fifth reliable one
    concerned = [{"after_seq": 0}, {"after_seq": 9}, {"after_rseq": 4}, {"before_seq": 11}, {"before_seq": 10**6}]
    others = [{"after_seq": 10}, {"after_rseq": 6}, {"before_seq": 9}]
    assert [history.ask(ALL._replace(**query)).gone for query in concerned] == [True] * 5
    assert [history.ask(ALL._replace(**query)).gone for query in others] == [False] * 3


def test_an_answer_never_names_a_place_before_its_query() -> None:
    history = talk(3, Kind.GIFT)
    steps = answer("r", 0, ALL._replace(offset=50, after_rseq=0), LogSlice(-1, 3, history.parts, 0, 0.0), is_whole=False)
    assert run_at_once(steps).pos == "0.50"


def test_a_step_of_the_work_opens_no_more_than_a_piece_of_a_large_batch() -> None:
    history = talk(1, *[Kind.DANMAKU] * 4000, text="x" * 200)
    steps = answer("r", 0, ALL._replace(before_seq=4001), LogSlice(-1, 1, history.parts, cut=0, at_s=0.0), is_whole=True)
    tracemalloc.start()
    try:
        count, before, largest = 0, tracemalloc.get_traced_memory()[0], 0
        for _ in steps:
            count, now = count + 1, tracemalloc.get_traced_memory()[0]
            before, largest = now, max(largest, now - before)
    finally:
        tracemalloc.stop()
    assert count > 20
    assert largest < 512 * 1024
