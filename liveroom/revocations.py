"""The revocations in force, as the topic `revocations` holds them. Pure.

Owns which tokens are revoked: those of a user, of one device of a user, or of everybody, that were
issued before a time. A revocation ends by itself once every such token has expired, because no
token lives longer than the setting `token_life_s` (`liveroom.tokens` refuses others).

Each revocation has a key of its own, its id. So its withdrawal, which lets Kafka delete it, can
never hit another revocation that somebody sets at the same moment. `ingress.revocation_api` decides
who may revoke, and how many.
"""

from collections.abc import Iterator
from typing import Final

from liveroom.errors import Code, ProblemError
from liveroom.records.revocations import Revocation
from liveroom.tickets import User

EVERYBODY: Final = ""
EVERY_DEVICE: Final = ""
MAX_REVOCATIONS: Final = 20_000  # a record takes 1 KB at every ingress, gateway, scheduler and autoscaler
MAX_OF_TARGET: Final = 100  # of them for one user and device: a caller that repeats itself leaves space for others
_LONG_AGO_S: Final = -(2**63)


class Revocations:
    """All revocations in force.

    `are_read`: whether the whole topic has been read; until then `check` refuses everybody.
    """

    def __init__(self) -> None:
        self.are_read = False
        self._by_id: dict[str, Revocation] = {}
        self._of: dict[tuple[str, str], dict[str, Revocation]] = {}  # by user and device, then by id
        self._before_s: dict[str, dict[str, int]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def apply(self, revocation: Revocation) -> None:
        """Set a revocation; it replaces the one with the same id."""
        self.withdraw(revocation.id)
        self._by_id[revocation.id] = revocation
        self._of.setdefault((revocation.user, revocation.device), {})[revocation.id] = revocation
        devices = self._before_s.setdefault(revocation.user, {})
        devices[revocation.device] = max(devices.get(revocation.device, 0), revocation.issued_before_s)

    def withdraw(self, id_: str) -> None:
        """Lift the revocation with this id. Idempotent."""
        gone = self._by_id.pop(id_, None)
        if gone is None:
            return
        left, devices = self._of[gone.user, gone.device], self._before_s[gone.user]
        del left[id_]
        if not left:
            del self._of[gone.user, gone.device], devices[gone.device]
            if not devices:
                del self._before_s[gone.user]
        elif gone.issued_before_s == devices[gone.device]:
            devices[gone.device] = max(each.issued_before_s for each in left.values())

    def get(self, id_: str) -> Revocation | None:
        """Return the revocation with this id, or None."""
        return self._by_id.get(id_)

    def all(self, now_ms: int) -> list[Revocation]:
        """Return the revocations that have not ended at `now_ms` (Unix time), the oldest first."""
        found = [revocation for revocation in self._by_id.values() if now_ms < revocation.until_ms]
        return sorted(found, key=lambda revocation: (revocation.at_ms, revocation.id))

    def count_of(self, user: str, device: str) -> int:
        """Return how many revocations of exactly these tokens are here, ended ones included."""
        return len(self._of.get((user, device), ()))

    def __iter__(self) -> Iterator[Revocation]:
        """Iterate over all revocations; the table may change meanwhile."""
        return iter(list(self._by_id.values()))

    def revokes(self, user: str, device: str, issued_s: int | None) -> bool:
        """Return whether a token is revoked.

        `device`: the device that it is for, empty where it names none. `issued_s`: Unix time of its
        issue; None, which is not known, counts as long ago.
        """
        at_s = _LONG_AGO_S if issued_s is None else issued_s
        for name in (EVERYBODY, user):
            devices = self._before_s.get(name)
            if devices is not None and (
                at_s < devices.get(EVERY_DEVICE, _LONG_AGO_S) or (device and at_s < devices.get(device, _LONG_AGO_S))
            ):
                return True
        return False

    def check(self, user: User) -> None:
        """Raise `ProblemError` (revoked) where the token of a user is revoked, and (not_ready)
        until the revocations are read.
        """
        if not self.are_read:
            raise ProblemError(Code.NOT_READY, "revocations are not read yet", retry_after_s=1)
        if self.revokes(user.id, user.device, user.issued_s):
            raise ProblemError(Code.REVOKED).of(user.id)
