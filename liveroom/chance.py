"""The only module that draws random numbers and secrets from the system.

What needs chance is handed a `Chance`: a service the one of its `Runtime`, a test or a simulation a
seeded one, so that a run can be repeated. Lint forbids `random` and `secrets` elsewhere.
"""

import base64
import os
import random
from typing import Final, NoReturn

BLOCK_BYTES: Final = 4096  # a system call for each ticket's nonce was a sixth of an entry answer


class Chance(random.Random):
    """A repeatable source: `Chance(seed)` draws the same again.

    For tests and simulations only: its tokens can be guessed.
    """

    def token_bytes(self, size: int) -> bytes:
        """Return `size` random bytes."""
        return self.randbytes(size)

    def token_hex(self, size: int) -> str:
        """Return `size` random bytes in hexadecimal, two characters for each."""
        return self.randbytes(size).hex()

    def token_urlsafe(self, size: int) -> str:
        """Return `size` random bytes in URL-safe Base64 without padding."""
        return base64.urlsafe_b64encode(self.token_bytes(size)).rstrip(b"=").decode()


class SystemChance(Chance):
    """The system's source: fit for secrets.

    It takes bytes in blocks, so a process must not fork and go on with one, and one thread uses it.
    """

    def __init__(self) -> None:
        self._block, self._at = b"", 0
        super().__init__()

    def seed(self, *_: object) -> None:
        """Do nothing: this source cannot be repeated."""

    def randbytes(self, n: int) -> bytes:
        """Return `n` random bytes."""
        end = self._at + n
        if end > len(self._block):
            self._block, self._at, end = os.urandom(max(n, BLOCK_BYTES)), 0, n
        taken = self._block[self._at : end]
        self._at = end
        return taken

    def getrandbits(self, k: int, /) -> int:
        """Return `k` random bits."""
        return int.from_bytes(self.randbytes((k + 7) // 8)) >> (-k % 8)

    def random(self) -> float:
        """Return a number from 0 up to, but not including, 1."""
        return self.getrandbits(53) * 2.0**-53

    def getstate(self) -> NoReturn:
        """Raise: there is no state to keep."""
        raise NotImplementedError("the system's source has no state")

    def setstate(self, state: object) -> NoReturn:
        """Raise: there is no state to restore."""
        raise NotImplementedError("the system's source has no state")
