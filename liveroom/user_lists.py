"""The users of one room at each of its gateways, packed into 8 bytes an entry. Pure.

Owns who is where, and how many distinct users that makes: a user at several gateways is one.
An entry is 52 bits of the user's hash and 12 bits of the gateway's number, in sorted order, so all
entries of a user stand together. Among 100,000 users two share those 52 bits with a probability of
about 1 in 900,000, among a million of about 1 in 9,000; they then count as one.

A room of 100,000 users is counted, and its lists are replaced, in pieces of about 1,000 entries.
Called by `liveroom.audience`.
"""

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from itertools import islice
from typing import Final

HASH_BYTES: Final = 8
MAX_GATEWAYS: Final = 4096  # numbers of gateways: 12 bits
PART_USERS: Final = 2048  # in one part of a list: its record has about 22 KB
FEW: Final = 100
ADD_COST: Final = 20  # entries that are gone through as fast as one is added
_HASH_BITS: Final = 64
_GATEWAY: Final = MAX_GATEWAYS - 1
_GATEWAY_BITS: Final = 12
_USER: Final = ~_GATEWAY
_BUCKET: Final = 1024


class _Bucket:
    """The entries from `start` on, up to the next bucket's. `users` is what it had when counted."""

    __slots__ = ("entries", "is_dirty", "start", "users")

    def __init__(self, start: int, entries: "array[int]", users: int = 0) -> None:
        self.start = start
        self.entries = entries
        self.users = users
        self.is_dirty = True


def _start(bucket: _Bucket) -> int:
    return bucket.start


class UserLists:
    """The users of one room, by gateway. Gateways have numbers below `MAX_GATEWAYS`.

    None counts before `count_only`.
    """

    __slots__ = ("_buckets", "_counted", "_cursor", "_sizes")

    def __init__(self) -> None:
        self._buckets = [_Bucket(0, array("Q"))]
        self._cursor = 0
        self._counted: frozenset[int] = frozenset()
        self._sizes: dict[int, int] = {}  # entries of each gateway

    def __len__(self) -> int:
        return sum(len(bucket.entries) for bucket in self._buckets)

    def count_only(self, gateways: Iterable[int]) -> None:
        """Count the entries of these gateways from now on, and no others."""
        counted = frozenset(gateways)
        if counted != self._counted:
            self._counted, self._cursor = counted, 0
            for bucket in self._buckets:
                bucket.is_dirty = True

    def size(self, gateway: int) -> int:
        """Return how many users are listed at a gateway."""
        return self._sizes.get(gateway, 0)

    def _resize(self, gateway: int, by: int) -> None:
        size = self._sizes[gateway] = self._sizes.get(gateway, 0) + by
        if not size:
            del self._sizes[gateway]

    def add(self, user: int, gateway: int) -> bool:
        """Note that a user (a hash) is at a gateway; return whether that is new."""
        entry = user & _USER | gateway
        at = self._at(entry)
        bucket = self._buckets[at]
        entries = bucket.entries
        place = bisect_left(entries, entry)
        if place < len(entries) and entries[place] == entry:
            return False
        entries.insert(place, entry)
        bucket.is_dirty = True
        self._resize(gateway, 1)
        if len(entries) > 2 * _BUCKET:
            self._split(at)
        return True

    def remove(self, user: int, gateway: int) -> bool:
        """Note that a user is no more at a gateway; return whether it was there."""
        entry = user & _USER | gateway
        bucket = self._buckets[self._at(entry)]
        entries = bucket.entries
        place = bisect_left(entries, entry)
        if place == len(entries) or entries[place] != entry:
            return False
        del entries[place]
        bucket.is_dirty = True
        self._resize(gateway, -1)
        return True

    def change(self, came: Iterable[int], left: Iterable[int], gateway: int) -> None:
        """Note which users came to a gateway and left it."""
        for user in left:
            self.remove(user, gateway)
        for user in came:
            self.add(user, gateway)

    def replace(self, users: Iterable[int], gateway: int, part: int = 0, parts: int = 1) -> Iterator[int]:
        """Take a part of a gateway's list in place of what is known of it there.

        A list has `parts` parts, a power of two, of equal ranges of hashes. Users of another range
        are passed over. Yields after each bucket the number of entries that were gone through.
        """
        width = (1 << _HASH_BITS) // parts
        first, end = part * width, (part + 1) * width
        coming = sorted({user & _USER | gateway for user in users if first <= user < end})
        if not self.size(gateway) and len(coming) <= FEW:  # nothing to replace: the other entries need no look
            for entry in coming:
                self.add(entry, gateway)
            yield len(coming) * ADD_COST
            return
        taken, start = 0, first
        while start < end:
            at = self._at(start)  # the buckets may be others after a yield
            stop = min(end, self._buckets[at + 1].start) if at + 1 < len(self._buckets) else end
            until = bisect_left(coming, stop, taken)
            cost = len(self._buckets[at].entries) + 1
            self._replace(at, start, stop, coming[taken:until], gateway)
            taken, start = until, stop
            yield cost

    def _replace(self, at: int, start: int, stop: int, coming: list[int], gateway: int) -> None:
        """Replace a gateway's entries between `start` and `stop`, in one bucket."""
        bucket = self._buckets[at]
        entries = bucket.entries
        low, high = bisect_left(entries, start), bisect_left(entries, stop)
        before = entries[low:high]
        others = [entry for entry in before if entry & _GATEWAY != gateway]
        after = array("Q", sorted(others + coming))
        if after != before:
            entries[low:high] = after
            bucket.is_dirty = True
            self._resize(gateway, len(after) - len(before))
            if len(entries) > 2 * _BUCKET:
                self._split(at)

    def keep(self, gateways: Callable[[], Collection[int | None]]) -> Iterator[int]:
        """Take out the entries of all other gateways.

        `gateways` returns those that are kept; it is called before each bucket, since others may
        come meanwhile. Yields like `replace`, and ends as soon as no entries are left to take out.
        """
        start, end = 0, 1 << _HASH_BITS
        while start < end:
            kept = gateways()
            if all(gateway in kept for gateway in self._sizes):
                return
            at = self._at(start)  # the buckets may be others after a yield
            entries = self._buckets[at].entries
            gone = Counter(entry & _GATEWAY for entry in entries if entry & _GATEWAY not in kept)
            for gateway, size in gone.items():
                self._resize(gateway, -size)
            if gone:
                self._buckets[at].entries = array("Q", [entry for entry in entries if entry & _GATEWAY in kept])
                self._buckets[at].is_dirty = True
            start = self._buckets[at + 1].start if at + 1 < len(self._buckets) else end
            yield len(entries) + 1

    def count(self, at_most: int | None = None) -> int | None:
        """Return how many distinct users there are at the gateways that count (`count_only`).

        With `at_most`: go through about so many entries, and return None where some are left; the
        next call goes on. What changes meanwhile may be `uncounted` after that.
        """
        if at_most is None:
            self._cursor = 0
        left, counted = at_most, self._counted
        while self._cursor < len(self._buckets):
            bucket = self._buckets[self._cursor]
            if bucket.is_dirty:
                if left is not None:
                    if left <= 0:
                        return None
                    left -= len(bucket.entries)
                here = {entry >> _GATEWAY_BITS for entry in bucket.entries if entry & _GATEWAY in counted}
                bucket.users, bucket.is_dirty = len(here), False
            self._cursor += 1
        self._cursor = 0
        self._buckets = [bucket for bucket in self._buckets if bucket.entries or not bucket.start]
        return sum(bucket.users for bucket in self._buckets)

    @property
    def uncounted(self) -> int:
        """How many entries the next count goes through; 0 where the last one still holds."""
        return sum(len(bucket.entries) + 1 for bucket in self._buckets if bucket.is_dirty)

    def _at(self, entry: int) -> int:
        """Return the place of the bucket that an entry belongs to."""
        return bisect_right(self._buckets, entry, key=_start) - 1

    def _split(self, at: int) -> None:
        """Make several buckets of one. All entries of a user stay in one bucket."""
        bucket = self._buckets[at]
        entries, made, begin = bucket.entries, list[_Bucket](), 0
        while begin < len(entries):
            end = min(begin + _BUCKET, len(entries))
            while end < len(entries) and entries[end] >> _GATEWAY_BITS == entries[end - 1] >> _GATEWAY_BITS:
                end += 1
            start = entries[begin] & _USER if made else bucket.start
            made.append(_Bucket(start, entries[begin:end], 0 if made else bucket.users))
            begin = end
        self._buckets[at : at + 1] = made


def pack(users: Iterable[int]) -> bytes:
    """Return hashes of users as a record has them: 8 bytes each, the lowest first."""
    packed = array("Q", users)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack(packed: bytes) -> "array[int]":
    """Return the hashes that `pack` packed; a rest of fewer than 8 bytes is passed over."""
    users = array("Q")
    users.frombytes(packed[: len(packed) - len(packed) % HASH_BYTES])
    if sys.byteorder == "big":
        users.byteswap()
    return users


def parting(users: Collection[int]) -> Generator[int, None, list[bytes]]:
    """Return a whole list of users, packed, in as many parts as records need.

    Yields after each step how many users it went through. `users` must not change meanwhile.
    """
    parts = 1
    while len(users) > PART_USERS * parts:
        parts *= 2
    shift = _HASH_BITS - parts.bit_length() + 1
    found: list[array[int]] = [array("Q") for _ in range(parts)]
    rest = iter(users)
    while piece := list(islice(rest, PART_USERS)):
        for user in piece:
            found[user >> shift].append(user)
        yield len(piece)
    return [pack(part) for part in found]
