"""Judges a run: compares what was accepted with what each viewer received. Pure.

docs/ledger.md lists its promises. Senders report to it (`accepted`, `refused`, `unknown`), and so
do the sessions of viewers (`observe`). It keeps a few numbers and the missing messages per viewer
and room, and ids for a window, so it can run for hours.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from liveroom.wire import Left
from viewer.effects import Counts, Delivered, Effect, Lost, Progress, Renumbered, Told

WINDOW_IDS: Final = 400_000
LATE_S: Final = 10.0


class Verdict(NamedTuple):
    """The result of a run.

    `lost`: reliable messages that a viewer did not get, connected or not, or that no viewer got in
    time. `late`: those of the lost that no viewer has received yet. `pulled`: deliveries that
    filled a hole. `wrong_likes`: rooms whose total differs from what was accepted.
    """

    accepted: int
    refused: int
    unknown: int
    delivered: int
    pulled: int
    lost: int
    late: int
    doubled: int
    disordered: int
    renumbered: int
    wrong_likes: int

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled, out of order, renumbered or miscounted."""
        return not (self.lost or self.doubled or self.disordered or self.renumbered or self.wrong_likes)

    def __str__(self) -> str:
        line = f"accepted {self.accepted:,}, lost {self.lost:,}, doubled {self.doubled:,}"
        for name in ("pulled", "disordered", "renumbered", "wrong_likes", "unknown"):
            if count := getattr(self, name):
                line += f", {name.replace('_', ' ')} {count:,}"
        return line


class _Place:
    """One viewer in one room, across connections.

    `missing`: numbers up to `rseq` that have not arrived yet.
    """

    __slots__ = ("epoch", "missing", "rseq", "seq")

    def __init__(self, epoch: int, rseq: int) -> None:
        self.epoch = epoch
        self.seq = 0
        self.rseq = rseq
        self.missing: set[int] = set()

    def come_to(self, rseq: int) -> None:
        """Advance to a number: it is missing, like those before it, until it arrives."""
        self.missing.update(range(self.rseq + 1, rseq + 1))
        self.rseq = max(self.rseq, rseq)


class _Numbered(NamedTuple):
    """The number of a user's message, under an id that other users may have chosen too."""

    user: str
    epoch: int
    seq: int


class _Room:
    """A room: the newest number that any viewer knows of, and its likes."""

    __slots__ = ("likes", "likes_accepted", "likes_unknown", "rseq")

    def __init__(self) -> None:
        self.rseq = 0
        self.likes = 0
        self.likes_accepted = 0
        self.likes_unknown = 0


class Ledger:
    """The ledger of one run. It remembers the numbers of the last `window_ids` messages."""

    def __init__(self, window_ids: int = WINDOW_IDS) -> None:
        self._window = window_ids
        self._numbers: OrderedDict[tuple[str, str], tuple[_Numbered, ...]] = OrderedDict()
        self._awaited: dict[tuple[str, str, str], float] = {}
        self._rooms: dict[str, _Room] = {}
        self._places: dict[tuple[str, str], _Place] = {}
        self._accepted = self._refused = self._unknown = 0
        self._delivered = self._pulled = self._lost = self._doubled = self._disordered = self._renumbered = 0

    # ---- senders
    def accepted(
        self, room: str, id_: str, now_s: float, *, reliable: bool, user: str = "", likes: int = 0, items: int = 1
    ) -> None:
        """Take note of an accepted interaction; `items` is the number in a package.

        `user`: the sender's id, since ids are unique for one user only. A caller whose ids are
        unique in the room may leave it out.
        """
        self._accepted += items
        self._room(room).likes_accepted += likes
        if reliable and not likes:
            for item in [id_] if items == 1 else [f"{id_}#{index}" for index in range(items)]:
                if not any(user in {"", known.user} for known in self._numbers.get((room, item), ())):
                    self._awaited[room, user, item] = now_s

    def refused(self) -> None:
        """Take note of a refused interaction."""
        self._refused += 1

    def unknown(self, room: str, *, likes: int = 0) -> None:
        """Take note of an interaction with an unknown outcome: it may be delivered or not."""
        self._unknown += 1
        self._room(room).likes_unknown += likes

    # ---- viewers
    def observe(self, viewer: str, effect: Effect) -> None:
        """Take an effect of a viewer's session."""
        match effect:
            case Delivered():
                self._deliver(viewer, effect)
            case Progress():
                self._progress(viewer, effect)
            case Lost():
                self._lose(viewer, effect)
            case Counts(likes=int(likes)):
                self._room(effect.room).likes = max(self._room(effect.room).likes, likes)
            case Told(what=Left(room=room)):
                self._places.pop((viewer, room), None)
            case Renumbered():
                self._renumbered += 1
            case _:
                pass

    def left(self, viewer: str) -> None:
        """Take note that a viewer left for good: nothing more is due to it."""
        for key in [key for key in self._places if key[0] == viewer]:
            del self._places[key]

    def verdict(self, now_s: float, *, settled: bool = False) -> Verdict:
        """Return the result so far.

        `settled`: everything had time to arrive, so whatever is still due is lost.
        """
        late = sum(settled or now_s - at > LATE_S for at in self._awaited.values())
        behind = 0
        wrong_likes = 0
        if settled:
            for (_, name), place in self._places.items():
                behind += max(0, self._rooms[name].rseq - place.rseq) + len(place.missing)
            for room in self._rooms.values():
                wrong_likes += not room.likes_accepted <= room.likes <= room.likes_accepted + room.likes_unknown
        return Verdict(
            accepted=self._accepted,
            refused=self._refused,
            unknown=self._unknown,
            delivered=self._delivered,
            pulled=self._pulled,
            lost=self._lost + late + behind,
            late=late,
            doubled=self._doubled,
            disordered=self._disordered,
            renumbered=self._renumbered,
            wrong_likes=wrong_likes,
        )

    # ---- rules
    def _room(self, name: str) -> _Room:
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = _Room()
        return room

    def _progress(self, viewer: str, effect: Progress) -> None:
        room = self._room(effect.room)
        room.rseq = max(room.rseq, effect.rseq)
        place = self._places.get((viewer, effect.room))
        if place is not None and place.epoch == effect.epoch:
            place.come_to(effect.rseq)
        elif effect.first:
            if place is not None:
                self._lost += len(place.missing)
            self._places[viewer, effect.room] = _Place(effect.epoch, effect.rseq)

    def _lose(self, viewer: str, effect: Lost) -> None:
        self._lost += effect.to_rseq - effect.after_rseq
        place = self._places.get((viewer, effect.room))
        if place is not None and place.epoch == effect.epoch:
            place.come_to(effect.to_rseq)
            place.missing.difference_update(range(effect.after_rseq + 1, effect.to_rseq + 1))

    def _number(self, effect: Delivered) -> None:
        """Check that an id of a user has one number for all viewers."""
        room, message = effect.room, effect.message
        numbered = _Numbered(message.user, effect.epoch, message.seq)
        known = self._numbers.get((room, message.id), ())
        if numbered in known:
            return
        if any(one.user == message.user for one in known):
            self._doubled += 1
            return
        self._numbers[room, message.id] = (*known, numbered)
        self._awaited.pop((room, message.user, message.id), None)
        self._awaited.pop((room, "", message.id), None)
        if len(self._numbers) > self._window:
            self._numbers.popitem(last=False)

    def _deliver(self, viewer: str, effect: Delivered) -> None:
        message = effect.message
        self._delivered += 1
        self._pulled += effect.late
        self._number(effect)
        place = self._places.get((viewer, effect.room))
        if place is None:
            return
        if effect.late:
            if message.rseq in place.missing:
                place.missing.remove(message.rseq)
            else:
                self._doubled += 1
            return
        if message.seq == place.seq:
            self._doubled += 1
        elif message.seq < place.seq:
            self._disordered += 1
        place.seq = message.seq
        if message.rseq:
            if message.rseq <= place.rseq:
                self._doubled += 1
            else:
                place.come_to(message.rseq - 1)
                place.rseq = message.rseq
