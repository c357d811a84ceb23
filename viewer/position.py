"""How far a viewer is in one room: whether it is in, numbers, holes, and the pulls that fill them.
Pure.

`viewer.session` owns one per room and explains the rules. Methods append effects to the list that
the caller hands in. Time is seconds of a monotonic clock; `uniform` is a random number in [0, 1).
"""

from typing import Final, NamedTuple

import msgspec

from liveroom.wire import BatchHeader, Card, Joined, Message, Pulled, ReceivedBatch
from viewer.effects import Counts, Delivered, Effect, Hole, Lost, Progress, Pull, Renumbered
from viewer.problem import MAX_RETRY_AFTER_S

MAX_BACKOFF_S: Final = 30.0
PULL_AGAIN_S: Final = 0.5
JOIN_AGAIN_S: Final = 1.0
MAX_GONE: Final = 8  # answers in a row by which the log has nothing of the oldest hole any more
_MAX_DOUBLINGS: Final = 16
_MAX_BACK_MS: Final = 60_000  # totals that are older by more come from a clock that was set


class Missing(NamedTuple):
    """A hole: reliable messages that may still come, and the cursor from just before them."""

    after_rseq: int
    to_rseq: int
    pos: str


class Position:
    """A viewer's numbers in one room.

    `is_in`: whether the gateway has let it in, on this connection. `is_aside`: the next entries are
    asked for without this room, to find out which one of several is refused. `join_at` is when to
    join again after a refusal, None where no join is due; `not_before` is the time before which no
    connection joins, by the last refusal. `refusals` counts those in a row.

    `likes` is the highest total of the epoch `likes_epoch`, which is None before the first one.
    `totals_at` is when the newest totals at this position were packed, in milliseconds of Unix
    time.

    `pos` is the gateway's cursor that belongs to the newest numbers. `missing` lists the holes,
    oldest first. `asked` is the number after which the pull under way asks, None while there is
    none. `pull_at` is when the next pull may start, and `refused_until` is when the gateway takes
    the next one, by its last refusal. `pulls` counts those in a row that brought nothing, and
    `gone` those of them by which the log has nothing more to give.
    """

    __slots__ = (
        "asked",
        "epoch",
        "gone",
        "is_aside",
        "is_in",
        "join_at",
        "likes",
        "likes_epoch",
        "missing",
        "not_before",
        "pos",
        "pull_at",
        "pulls",
        "refusals",
        "refused_until",
        "room",
        "rseq",
        "seq",
        "totals_at",
    )

    def __init__(self, room: str) -> None:
        self.room = room
        self.epoch: int | None = None
        self.seq = 0
        self.rseq = 0
        self.pos = ""
        self.missing: list[Missing] = []
        self.asked: int | None = None
        self.pull_at = 0.0
        self.refused_until = 0.0
        self.pulls = 0
        self.gone = 0
        self.is_in = self.is_aside = False
        self.join_at: float | None = None
        self.not_before = 0.0
        self.refusals = 0
        self.likes = 0
        self.likes_epoch: int | None = None
        self.totals_at = 0

    # ---- what the gateway sends
    def join_refused(self, now: float, uniform: float, retry_after_s: float) -> None:
        """Note that the gateway does not let the viewer in for now, or no longer.

        The next join waits at least `retry_after_s`.
        """
        after_s = min(max(retry_after_s, 0.0), MAX_RETRY_AFTER_S)
        self.is_in, self.not_before = False, now + after_s
        self.join_at = back_off(now, uniform, JOIN_AGAIN_S, self.refusals, after_s)
        self.refusals += 1

    def joined(self, frame: Joined, effects: list[Effect]) -> None:
        """Take the numbers that a join was answered with."""
        self.is_in, self.join_at, self.not_before, self.refusals = True, None, 0.0, 0
        if frame.epoch is None or frame.seq is None or frame.rseq is None or frame.resumed:
            return
        if self.epoch is not None and frame.epoch < self.epoch:
            return  # the gateway is behind
        if self.epoch != frame.epoch:
            self._begin(frame.epoch, frame.seq, frame.rseq, effects)
        else:
            self._skip(frame.rseq, effects)
            effects.append(Progress(self.room, frame.epoch, frame.rseq, first=False))
        if frame.seq >= self.seq:
            self.seq, self.pos = frame.seq, frame.pos or self.pos

    def received(self, batch: ReceivedBatch, effects: list[Effect]) -> tuple[int, int]:
        """Take a batch: deliver what is new in it and note holes.

        Returns how many messages it left out by thinning and how many were duplicates.
        """
        header = batch.header
        epoch, (first, last) = header.epoch, header.seq
        if self.epoch is not None and epoch < self.epoch:
            return 0, 0  # the gateway is behind
        if self.epoch != epoch:
            reliable = sum(message.rseq > 0 for message in batch.messages)
            self._begin(epoch, first - 1, header.rseq - reliable, effects)
        before, thinned = self.seq, 0
        in_order, duplicates = self._deliver(batch, effects)
        self._skip(header.rseq, effects)
        if last >= before:
            thinned = max(0, last - max(before, first - 1) - in_order)
            self.seq, self.pos = last, header.pos or self.pos
        effects.append(Progress(self.room, epoch, header.rseq, first=False))
        if last > before or (first > last == before and not 0 < self.totals_at - header.at <= _MAX_BACK_MS):
            self._count(header, effects)
        return thinned, duplicates

    def _count(self, header: BatchHeader, effects: list[Effect]) -> None:
        """Report the totals of a batch behind this position; likes only ever grow."""
        likes = self._grown(header.epoch, header.likes)
        if likes is None and header.viewers is None:
            return
        self.totals_at = header.at
        effects.append(Counts(self.room, likes, header.viewers))

    def _grown(self, epoch: int, likes: int | None) -> int | None:
        """Keep a total of likes; return None where a higher one of its epoch is known."""
        if likes is None or (epoch == self.likes_epoch and likes < self.likes):
            return None
        self.likes_epoch, self.likes = epoch, likes
        return likes

    def newer(self, card: Card | None) -> Card | None:
        """Return a snapshot without likes that are too low; None where it is behind the viewer."""
        if card is None or card.epoch is None:
            return card
        if self.epoch is not None and (card.epoch, card.seq or 0) < (self.epoch, self.seq):
            return None
        if card.likes is not None and self._grown(card.epoch, card.likes) is None:
            return msgspec.structs.replace(card, likes=self.likes)
        return card

    def _deliver(self, batch: ReceivedBatch, effects: list[Effect]) -> tuple[int, int]:
        """Deliver what is new; return how many messages came in order and how many twice."""
        in_order = duplicates = 0
        for message in batch.messages:
            if self.missing and self._fill(message.rseq):
                effects.append(Delivered(self.room, batch.header.epoch, message, late=True))
            elif message.seq <= self.seq or 0 < message.rseq <= self.rseq:
                duplicates += 1
            else:
                self.seq = message.seq
                if message.rseq:
                    self._skip(message.rseq - 1, effects)
                    self.rseq = message.rseq
                effects.append(Delivered(self.room, batch.header.epoch, message))
                in_order += 1
        return in_order, duplicates

    def _begin(self, epoch: int, seq: int, rseq: int, effects: list[Effect]) -> None:
        """Start the numbers of an epoch; the holes of the one before are lost."""
        if self.epoch is not None:
            self.lose(self.rseq, effects)
            effects.append(Renumbered(self.room, epoch))
        self.epoch, self.seq, self.rseq, self.pos, self.asked = epoch, seq, rseq, "", None
        self.totals_at = 0
        effects.append(Progress(self.room, epoch, rseq, first=True))

    def _skip(self, to_rseq: int, effects: list[Effect]) -> None:
        """Go on to `to_rseq`: the numbers up to it are a hole."""
        if self.epoch is None or to_rseq <= self.rseq:
            return
        if not self.missing:
            self.pull_at, self.pulls, self.gone = self.refused_until, 0, 0
        self.missing.append(Missing(self.rseq, to_rseq, self.pos))
        effects.append(Hole(self.room, self.epoch, self.rseq, to_rseq))
        self.rseq = to_rseq

    # ---- pulls
    def pull(self, token: str, now: float, effects: list[Effect]) -> None:
        """Ask for the oldest hole once `pull_at` has come.

        Call it only while there is a hole and no pull under way. `token` is the gateway's; it is
        empty where the gateway grants no pulls, and then every hole is lost.
        """
        if not token:
            self.lose(self.rseq, effects)
        elif now >= self.pull_at:
            after_rseq, _, pos = self.missing[0]
            self.asked = after_rseq
            params = {"epoch": str(self.epoch), "after_rseq": str(after_rseq)}
            effects.append(Pull(self.room, token, {"pos": pos} | params if pos else params))

    def pulled(self, answer: Pulled, messages: list[Message], now: float, uniform: float, effects: list[Effect]) -> None:
        """Take the answer to the pull under way."""
        epoch = self.epoch
        if epoch is None or self.asked is None:
            return
        if answer.epoch is None or answer.epoch < epoch:
            self.pull_failed(now, uniform, 0.0)  # the gateway is behind
            return
        asked, self.asked = self.asked, None
        if answer.epoch > epoch:
            self.lose(self.rseq, effects)
            return
        before = len(effects)
        effects += [Delivered(self.room, epoch, message, late=True) for message in messages if self._fill(message.rseq)]
        self.lose(answer.rseq, effects)  # the gateway searched up to there: what is still missing never comes
        moved = self._move_cursor(asked, answer)
        if len(effects) > before or (answer.more and moved):
            self.pulls = self.gone = 0
            self.pull_at = now if answer.more else now + uniform * PULL_AGAIN_S
        elif answer.gone:
            self._give_up(now, uniform, effects)
        else:
            self._back_off(now, uniform, 0.0)

    def pull_failed(self, now: float, uniform: float, retry_after_s: float) -> None:
        """Note that the pull under way was not answered, or refused for the moment.

        That loses nothing. The next pull waits at least `retry_after_s`.
        """
        self.asked = None
        self._back_off(now, uniform, retry_after_s)
        if retry_after_s:
            self.refused_until = self.pull_at

    def pull_refused(self, now: float, uniform: float, effects: list[Effect]) -> None:
        """Note that the pull under way was refused for a reason that waiting does not end."""
        self.asked = None
        self._give_up(now, uniform, effects)

    def disconnected(self) -> None:
        """Forget the pull under way and its history: the connection has ended.

        The delays that refusals asked for go on.
        """
        self.asked, self.pull_at, self.pulls, self.gone = None, self.refused_until, 0, 0
        self.is_in = False

    def may_join(self, now: float) -> bool:
        """Return whether a new connection joins the room at once; if so, no other join is due."""
        if now < self.not_before:
            return False
        self.join_at = None
        return True

    def slept(self, seconds: float) -> None:
        """Note that time went on for so long while the clock of `now` stood still."""
        self.not_before -= seconds
        self.refused_until -= seconds
        self.pull_at -= seconds
        if self.join_at is not None:
            self.join_at -= seconds

    def lose(self, to_rseq: int, effects: list[Effect]) -> None:
        """Give up every missing message up to `to_rseq`."""
        if self.epoch is None:
            return
        left: list[Missing] = []
        for hole in self.missing:
            if hole.after_rseq < to_rseq:
                effects.append(Lost(self.room, self.epoch, hole.after_rseq, min(hole.to_rseq, to_rseq)))
            if hole.to_rseq > to_rseq:
                left.append(hole._replace(after_rseq=max(hole.after_rseq, to_rseq)))
        self.missing = left

    def _move_cursor(self, asked: int, answer: Pulled) -> bool:
        """Let the next pull start where this one ended; return whether it does.

        It does not where it asks for a later hole, which has a nearer cursor.
        """
        if not self.missing or not answer.pos:
            return False
        oldest = self.missing[0]
        if oldest.pos == answer.pos or oldest.after_rseq > max(asked, answer.rseq):
            return False
        self.missing[0] = oldest._replace(pos=answer.pos)
        return True

    def _give_up(self, now: float, uniform: float, effects: list[Effect]) -> None:
        """Delay the next pull; lose the oldest hole after `MAX_GONE` of these in a row."""
        self._back_off(now, uniform, 0.0)
        self.gone += 1
        if self.gone == MAX_GONE:
            self.pulls, self.gone, self.pull_at = 0, 0, now
            if self.missing:
                self.lose(self.missing[0].to_rseq, effects)

    def _back_off(self, now: float, uniform: float, after_s: float) -> None:
        """Delay the next pull by `after_s` and full jitter."""
        self.pull_at = back_off(now, uniform, PULL_AGAIN_S, self.pulls, after_s)
        self.pulls += 1

    def _fill(self, rseq: int) -> bool:
        """Take a number out of the holes; return whether it was in one."""
        for index, (after_rseq, to_rseq, pos) in enumerate(self.missing):
            if after_rseq < rseq <= to_rseq:
                parts = [Missing(after_rseq, rseq - 1, pos), Missing(rseq, to_rseq, pos)]
                self.missing[index : index + 1] = [part for part in parts if part.to_rseq > part.after_rseq]
                return True
        return False


def back_off(now: float, uniform: float, first_s: float, times: int, after_s: float) -> float:
    """Return when to try again after `times` in vain: after `after_s` and full jitter.

    The jitter doubles each time, and is at least as wide as that delay: all users of an address may
    have got the same one.
    """
    limit: float = min(MAX_BACKOFF_S, first_s * 2 ** min(times, _MAX_DOUBLINGS))
    return now + after_s + uniform * max(limit, min(after_s, MAX_BACKOFF_S))
