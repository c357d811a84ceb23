"""Withdraws the revocations that have ended from the topic `revocations`.

Owns the pace. One that a later revocation of the same tokens covers stays until its own end: the
later one may be lifted. Every ingress does it: a second withdrawal does no harm, and one that is
not acknowledged is due again at the next round.
"""

from typing import Final

import structlog

from ingress.log import LogWriter
from liveroom import clock
from liveroom.kafka import UnsentError
from liveroom.revocations import Revocations
from liveroom.topics import REVOCATIONS

CHECK_S: Final = 10.0
PER_CHECK: Final = 200
SLICE: Final = 1000  # about 1 ms
log = structlog.get_logger()


async def withdraw_ended(writer: LogWriter, revocations: Revocations) -> None:
    """Withdraw revocations for ever, as they end."""
    while True:
        await clock.sleep(CHECK_S)
        if revocations.are_read:
            await withdraw_once(writer, revocations)


async def withdraw_once(writer: LogWriter, revocations: Revocations) -> None:
    """Withdraw up to `PER_CHECK` ended revocations; stop at the first that is not acknowledged."""
    withdrawn = 0
    for number, revocation in enumerate(revocations, 1):
        if number % SLICE == 0:
            await clock.sleep(0)
        if revocations.get(revocation.id) is not revocation or clock.unix_ms() < revocation.until_ms:
            continue
        try:
            await writer.put(REVOCATIONS, revocation.id.encode(), None)
        except UnsentError as error:
            log.warning("revocation_not_withdrawn", id=revocation.id, error=str(error))
            return
        revocations.withdraw(revocation.id)
        withdrawn += 1
        if withdrawn == PER_CHECK:
            return
