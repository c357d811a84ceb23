"""Times that others write into records, bounded by Kafka's time of the record. Pure.

The clock of a writer may be wrong: of another program, or of a version that does not follow Kafka's
(`liveroom.clock`). Kafka's time of a record comes after the writer's by the record's way, so a time
in its future is wrong for certain, and one of long ago in all likelihood. Both are replaced by
Kafka's time, and counted by the caller.
"""

from typing import Final

import msgspec

from liveroom.moderation import FOR_GOOD
from liveroom.records.broadcast import Batch
from liveroom.records.control import Moderation, RuleKind
from liveroom.records.revocations import Revocation

SKEW_S: Final = 2.0  # a clock that is off by more is wrong: NTP holds machines within milliseconds
AHEAD_MS: Final = int(SKEW_S * 1000)
BEHIND_MS: Final = 30_000  # an ingress waits 10 s for the brokers; what comes later got no 202
LONGEST_WAIT_MS: Final = 24 * 3_600_000  # of an interaction for a broadcaster: the topic `uplink` keeps it no longer


def is_far(at_ms: int, written_ms: int) -> bool:
    """Return whether a time is too far from Kafka's time of its record; both are Unix ms."""
    return not -AHEAD_MS <= written_ms - at_ms <= BEHIND_MS


def near_batch(batch: Batch, written_ms: int) -> Batch:
    """Return a batch whose times are near Kafka's time of its record: itself where they are.

    The oldest interaction in it may have waited for a broadcaster, but for no longer than the topic
    `uplink` keeps it.
    """
    if is_far(batch.at_ms, written_ms):
        batch = batch._replace(at_ms=written_ms)
    if batch.oldest_ms and not -AHEAD_MS <= written_ms - batch.oldest_ms <= LONGEST_WAIT_MS:
        batch = batch._replace(oldest_ms=written_ms)
    return batch


def near_rule(rule: Moderation, written_ms: int) -> Moderation:
    """Return a rule that does not come from the future: it lasts as long as its writer meant.

    One of the past stays as it is, since an ingress may write an old rule again.
    """
    ahead_ms = rule.at_ms - written_ms
    if ahead_ms <= AHEAD_MS:
        return rule
    until_ms = rule.until_ms
    if rule.kind not in {RuleKind.MODE, RuleKind.WORD} and until_ms not in {0, FOR_GOOD}:
        until_ms = max(0, until_ms - ahead_ms)
    return msgspec.structs.replace(rule, at_ms=written_ms, until_ms=until_ms)


def near_revocation(revocation: Revocation, written_ms: int) -> Revocation:
    """Return a revocation that does not come from the future: tokens that are issued later hold."""
    ahead_ms = revocation.at_ms - written_ms
    if ahead_ms <= AHEAD_MS:
        return revocation
    return msgspec.structs.replace(
        revocation,
        at_ms=written_ms,
        issued_before_s=min(revocation.issued_before_s, written_ms // 1000 + 1),
    )
