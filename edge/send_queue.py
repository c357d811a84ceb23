"""What waits for viewers who read too slowly, and its limits: bytes for one viewer, bytes for all,
and age. Pure.

Owns the queued frames and the accounting of every unsent byte, those that the transport holds
included. Refuses nothing by itself: `put` returns a verdict, and the member ends who is over its
own limit, the gateway who is in the way of all.
"""

from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Final, Generic, TypeVar

from edge.prepared_batch import PreparedBatch

RELIEF: Final = 0.9  # of the limit for all: down to it the largest queues are given up
T = TypeVar("T")


class Verdict(Enum):
    """What a queue says to one more frame. It has taken it all the same."""

    TAKEN = "taken"
    TOO_MUCH = "too_much"  # more waits for this viewer than may for one
    TOO_MUCH_IN_ALL = "too_much_in_all"


class QueuedFrame:
    """One frame that waits for a slow viewer: a batch (`prepared`, all of it or the reliable part),
    or bytes.
    """

    __slots__ = ("at_s", "data", "is_whole", "prepared", "size")

    def __init__(self, data: bytes, prepared: PreparedBatch | None, at_s: float, *, is_whole: bool) -> None:
        self.size = len(data)
        self.data = data if prepared is None else b""
        self.prepared = prepared
        self.is_whole = is_whole
        self.at_s = at_s

    def make(self, form: int) -> bytes | None:
        """Return the frame as it is now: what was cleared meanwhile is not in it."""
        if self.prepared is None:
            return self.data
        return self.prepared.make(form) if self.is_whole else self.prepared.reliable(form)


class SendQueue:
    """What waits for one slow viewer. `size`: all its bytes, with what the transport holds (`held`,
    since `held_s`).

    `is_flowing`: frames are being given to the transport. With TLS it says from within `write` that
    it can take more.
    """

    __slots__ = ("_all", "_frames", "held", "held_s", "is_flowing", "size")

    def __init__(self, queues: "SendQueues[T]", held: int, now_s: float) -> None:
        self._all = queues
        self._frames: deque[QueuedFrame] = deque()
        self.is_flowing = False
        self.size = self.held = 0
        self.held_s = now_s
        self.hold(held, now_s)

    @property
    def is_slow(self) -> bool:
        """Whether so much waits that the viewer gets reliable messages only."""
        return self.size > self._all.slow_bytes

    def put(self, frame: QueuedFrame) -> Verdict:
        """Take a frame behind the others."""
        self._frames.append(frame)
        self._count(frame.size)
        if self.size > self._all.max_bytes:
            return Verdict.TOO_MUCH
        return Verdict.TOO_MUCH_IN_ALL if self._all.size > self._all.max_total_bytes else Verdict.TAKEN

    def pop(self) -> QueuedFrame | None:
        """Return the oldest frame; None where no more wait."""
        if not self._frames:
            return None
        frame = self._frames.popleft()
        self._count(-frame.size)
        return frame

    def hold(self, held: int, since_s: float) -> None:
        """Note what the transport holds from now on, of a frame that has waited since `since_s`; 0:
        it holds nothing.
        """
        self._count(held - self.held)
        self.held = held
        self.held_s = since_s

    def waits_since(self) -> float:
        """Return since when the oldest unsent byte waits."""
        return self.held_s if self.held or not self._frames else self._frames[0].at_s

    def _count(self, change: int) -> None:
        self.size += change
        self._all.size += change


class SendQueues(Generic[T]):
    """The queues of all slow viewers of a gateway. `size`: their bytes in all.

    `slow_bytes`: more than that for one viewer, and it gets reliable messages only; `max_bytes`,
    `max_age_s`: more than that, and it is to be closed; `max_total_bytes`: more than that for all,
    and the largest queues are to be given up.
    """

    def __init__(self, slow_bytes: int, max_bytes: int, max_total_bytes: int, max_age_s: float) -> None:
        self.slow_bytes = slow_bytes
        self.max_bytes = max_bytes
        self.max_total_bytes = max_total_bytes
        self.max_age_s = max_age_s
        self.size = 0
        self._queues: dict[T, SendQueue] = {}

    def __len__(self) -> int:
        return len(self._queues)

    def __contains__(self, viewer: T) -> bool:
        return viewer in self._queues

    def get(self, viewer: T) -> SendQueue | None:
        """Return what waits for a viewer; None where nothing does."""
        return self._queues.get(viewer)

    def open(self, viewer: T, held: int, now_s: float) -> SendQueue:
        """Return a new queue for a viewer whose transport holds so many bytes."""
        queue = self._queues[viewer] = SendQueue(self, held, now_s)
        return queue

    def drop(self, viewer: T) -> None:
        """Forget what waits for a viewer."""
        queue = self._queues.pop(viewer, None)
        if queue is not None:
            self.size -= queue.size

    def too_old(self, now_s: float) -> list[T]:
        """Return the viewers whose oldest unsent byte has waited for too long."""
        return [viewer for viewer, queue in self._queues.items() if now_s - queue.waits_since() > self.max_age_s]

    def in_the_way(self) -> Iterator[T]:
        """Give the viewers whose queues go when too much waits for all, largest first.

        The caller drops each as it comes.
        """
        if self.size <= self.max_total_bytes:
            return
        for viewer, _ in sorted(self._queues.items(), key=lambda item: item[1].size, reverse=True):
            if self.size <= self.max_total_bytes * RELIEF:
                return
            yield viewer
