"""Hundreds of pulls over a long history: no turn of the loop is long, whatever they ask for.

The log is in memory, and turns are measured in time of this thread's processor, so a busy machine
changes nothing.
"""

import asyncio
import gc
import time
from collections.abc import Sequence

import msgspec

from edge import pulls
from edge.pull_answer import MAX_ANSWER_BYTES, MAX_MESSAGES, PullQuery
from edge.pulls import Pulls
from liveroom.bodies import Clear
from liveroom.kinds import Kind
from liveroom.wire import decode_pulled
from tests.edge.pull_log import Log, pulls_of

LONGEST_S = 0.01  # most are below 2 ms; answers that were made at once took 26 ms each, and more by the clear
ALL = PullQuery(-1, None, None, None, None)


async def test_no_turn_of_the_loop_is_long_while_hundreds_of_pulls_are_answered() -> None:
    log = Log()
    await log.start()
    for _ in range(20):
        await log.batch("r", 2000, 100)
    for number in range(2000):
        await log.batch("r", 20, 30)
        await log.batch(f"small-{number % 500}", 1, 10)
    desk, _ = pulls_of(log)
    questions = [pulls._Question("r", ALL._replace(before_seq=number)) for number in range(1, 80_000, 2000)]
    questions += [pulls._Question("r", ALL._replace(after_seq=number)) for number in range(0, 80_000, 2000)]
    questions += [pulls._Question("r", ALL._replace(after_rseq=number)) for number in range(0, 80_000, 2000)]
    questions += [pulls._Question(f"small-{number}", ALL) for number in range(50)]
    questions += [pulls._Question(f"invented-{number}", ALL) for number in range(50)]
    answers, longest_s = await measured(desk, [question for question in questions for _ in range(3)])
    assert max(len(answer) for answer in answers) < MAX_ANSWER_BYTES + 4096
    assert sum(len(answer) for answer in answers) > 10_000_000
    assert len(set(map(id, answers))) == len(questions), "one answer for all who ask the same"
    assert longest_s < LONGEST_S


async def measured(desk: Pulls, questions: Sequence[pulls._Question]) -> tuple[list[bytes], float]:
    """Ask all of this at once; return the answers, and the longest turn of the loop in seconds."""
    turns: list[float] = []

    async def measure() -> None:
        before_s = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now_s = time.thread_time()
            turns.append(now_s - before_s)
            before_s = now_s

    gc.disable()  # a collection looks at all that the tests before left, which is none of a gateway's
    measuring = asyncio.create_task(measure())
    await asyncio.sleep(0)
    answers = await asyncio.gather(*(desk._shared_answer(question, question.room) for question in questions))
    measuring.cancel()
    gc.enable()
    await desk.close()
    return answers, max(turns)


async def test_no_turn_is_long_whatever_the_history_holds() -> None:
    """Ten thousand lines of astral characters that deflate to almost nothing; as many clears, of
    messages that many pulls want; a text of line ends alone.
    """
    log = Log()
    await log.start()
    await log.write("r", [msgspec.json.encode({"text": "\U0001f680" * 200})] * 10_000)
    await log.write("r", [b"{}"] * 10_000)
    for first in range(1, 20_000, 1000):
        bodies = [msgspec.json.encode(Clear(id=f"i{seq}")) for seq in range(first, first + 1000, 2)]
        await log.write("r", bodies, Kind.CLEAR)
    await log.lines("r", b"\n" * 2_000_000)
    desk, _ = pulls_of(log)
    questions = [pulls._Question("r", ALL._replace(after_rseq=number)) for number in (0, 5000, 9990, 10_000, 15_000, 29_000)]
    questions += [pulls._Question("r", ALL._replace(before_seq=number)) for number in (500, 10_001, 11_111, 10**9)]
    answers, longest_s = await measured(desk, questions)
    assert all(decode_pulled(answer)[1] for answer in answers)
    assert any(len(decode_pulled(answer)[1]) == MAX_MESSAGES for answer in answers)
    assert longest_s < LONGEST_S
