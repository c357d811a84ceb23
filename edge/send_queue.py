"""What waits for slow viewers, and when a slow viewer is closed: limits of bytes for one viewer, of
bytes for all, and of age. Pure.

Owns the queued frames and the count of every unsent byte, including those that the transport holds.
Closes nobody itself: `put` returns a verdict, on which the member closes its own viewer, or the
gateway those with the largest queues; `too_old` lists the viewers that `edge.keepalive` closes.
"""

from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Final, Generic, TypeVar

from edge.prepared_batch import PreparedBatch

RELIEF: Final = 0.9  # of the limit for all: the largest queues are dropped until this much is left
T = TypeVar("T")


class Verdict(Enum):
    """The answer of a queue to one more frame. The frame is queued in any case."""

    TAKEN = "taken"
    TOO_MUCH = "too_much"  # more waits for this viewer than may for one
    TOO_MUCH_IN_ALL = "too_much_in_all"


class QueuedFrame:
    """One frame that waits for a slow viewer: a batch (whole, or its reliable part), or bytes."""

    __slots__ = ("at_s", "data", "is_whole", "prepared", "size")

    def __init__(self, data: bytes, prepared: PreparedBatch | None, at_s: float, *, is_whole: bool) -> None:
        self.size = len(data)
        self.data = data if prepared is None else b""
        self.prepared = prepared
        self.is_whole = is_whole
        self.at_s = at_s

    def make(self, form: int) -> bytes | None:
        """Return the frame as it is now, without messages that were cleared meanwhile.

        None: nothing is left of it.
        """
        if self.prepared is None:
            return self.data
        return self.prepared.make(form) if self.is_whole else self.prepared.reliable(form)


class SendQueue:
    """What waits for one slow viewer.

    `size`: all its bytes, including the `held` ones that the transport has, since `held_s`.
    `is_flowing`: frames are being given to the transport. It may call `resume_writing` from within
    `write`.
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
        """Return whether so much waits that the viewer receives reliable messages only."""
        return self.size > self._all.slow_bytes

    def put(self, frame: QueuedFrame) -> Verdict:
        """Add a frame behind the others; return whether a limit is exceeded."""
        self._frames.append(frame)
        self._count(frame.size)
        if self.size > self._all.max_bytes:
            return Verdict.TOO_MUCH
        return Verdict.TOO_MUCH_IN_ALL if self._all.size > self._all.max_total_bytes else Verdict.TAKEN

    def pop(self) -> QueuedFrame | None:
        """Take out and return the oldest frame; None where none waits."""
        if not self._frames:
            return None
        frame = self._frames.popleft()
        self._count(-frame.size)
        return frame

    def hold(self, held: int, since_s: float) -> None:
        """Note that the transport holds `held` bytes of a frame that has waited since `since_s`."""
        self._count(held - self.held)
        self.held = held
        self.held_s = since_s

    def waits_since(self) -> float:
        """Return since when the oldest unsent byte has waited."""
        return self.held_s if self.held or not self._frames else self._frames[0].at_s

    def _count(self, change: int) -> None:
        self.size += change
        self._all.size += change


class SendQueues(Generic[T]):
    """The queues of all slow viewers of a gateway. `size`: their bytes in all.

    Above `slow_bytes` a viewer receives reliable messages only. Above `max_bytes`, or `max_age_s`
    for its oldest byte, it must be closed. Above `max_total_bytes` for all viewers together, those
    with the largest queues must be closed.
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
        """Return the queue of a viewer; None where nothing waits."""
        return self._queues.get(viewer)

    def open(self, viewer: T, held: int, now_s: float) -> SendQueue:
        """Return a new queue for a viewer whose transport holds `held` bytes."""
        queue = self._queues[viewer] = SendQueue(self, held, now_s)
        return queue

    def drop(self, viewer: T) -> None:
        """Forget the queue of a viewer, if it has one."""
        queue = self._queues.pop(viewer, None)
        if queue is not None:
            self.size -= queue.size

    def too_old(self, now_s: float) -> list[T]:
        """Return the viewers whose oldest unsent byte has waited for more than `max_age_s`."""
        return [viewer for viewer, queue in self._queues.items() if now_s - queue.waits_since() > self.max_age_s]

    def in_the_way(self) -> Iterator[T]:
        """Yield the viewers to close when too much waits for all, largest queues first.

        The caller must drop each queue before it takes the next viewer.
        """
        if self.size <= self.max_total_bytes:
            return
        for viewer, _ in sorted(self._queues.items(), key=lambda item: item[1].size, reverse=True):
            if self.size <= self.max_total_bytes * RELIEF:
                return
            yield viewer
