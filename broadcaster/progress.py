"""How far the assigned partitions have come, once a second: log ends, lag, commits, metrics, and
whether the client hangs.

Owns the metrics of all partitions together. Committed offsets are for watching the lag: a take-over
reads them only where the log does not show the place. Called by `broadcaster.kafka`.
"""

from collections.abc import Mapping
from typing import Final

from broadcaster.assigned import Assigned, Standstill
from liveroom import clock, metric_catalog, topics
from liveroom.kafka_port import Consumer, Kafka, TopicPartition
from liveroom.kinds import Outcome
from liveroom.registry import Metrics

STALLED_S: Final = 5.0


class Progress:
    """Follows the assigned partitions."""

    def __init__(self, kafka: Kafka, metrics: Metrics) -> None:
        self._uplink = kafka.topic_name(topics.UPLINK)
        self._broadcast = kafka.topic_name(topics.BROADCAST)
        self._metrics = metrics
        self._outcomes = {outcome: metrics.counter(metric_catalog.ITEMS, outcome.value) for outcome in Outcome}
        self._taken = metrics.counter(metric_catalog.ITEMS, "taken")
        self._balance_off = metrics.gauge(metric_catalog.BALANCE_OFF)
        self._owned = metrics.gauge(metric_catalog.PARTITIONS_OWNED)
        self._live = metrics.gauge(metric_catalog.ROOMS_LIVE)
        self._silent = metrics.gauge(metric_catalog.ROOMS_SILENT)
        self._ids = metrics.gauge(metric_catalog.NAMES, "recent_ids")
        self._watched = metrics.gauge(metric_catalog.NAMES, "watched_rooms")

    async def follow_ends(self, client: Consumer, assigned: Mapping[int, Assigned]) -> bool:
        """Ask for the ends of both topics and pass them on; return whether fetching hangs."""
        logs = {number: TopicPartition(self._broadcast, number) for number in assigned}
        uplinks = {number: TopicPartition(self._uplink, number) for number in assigned}
        if not logs:
            return False
        ends = await client.end_offsets([*logs.values(), *uplinks.values()])
        now_s = clock.monotonic_s()
        is_stalled = False
        for number, each in list(assigned.items()):
            if number not in logs:
                continue  # assigned while the brokers answered
            partition, end = each.partition, ends[uplinks[number]]
            partition.log_end = ends[logs[number]]
            partition.wake()
            self._metrics.gauge(metric_catalog.UPLINK_LAG, str(number)).set(max(0, end - (partition.uplink_next or 0)))
            is_stalled |= _stalls(each, end, now_s)
        return is_stalled

    async def commit(self, consumer: Consumer, assigned: Mapping[int, Assigned]) -> None:
        """Commit how far each partition has come, where that changed."""
        held = consumer.assignment()
        changed: dict[TopicPartition, int] = {}
        for number, each in assigned.items():
            tp, offset = TopicPartition(self._uplink, number), each.partition.uplink_next
            if offset is not None and offset != each.committed and tp in held:
                changed[tp] = offset
        if not changed:
            return
        await consumer.commit(changed)
        for tp, offset in changed.items():
            if (still := assigned.get(tp.partition)) is not None:
                still.committed = offset

    def report(self, assigned: Mapping[int, Assigned]) -> None:
        """Bring the metrics up to the balances of the last batches."""
        off = rooms = silent = owned = ids = watched = 0
        for each in assigned.values():
            if not each.partition.is_ruling:
                continue
            balance, before = each.partition.balance, each.reported
            for outcome, counter in self._outcomes.items():
                counter.inc(max(0, getattr(balance, outcome.value) - getattr(before, outcome.value)))
            self._taken.inc(max(0, balance.taken - before.taken))
            each.reported = balance  # a pack makes a new one
            off += abs(balance.off)
            rooms += len(each.partition.rooms)
            silent += each.partition.rooms.silent
            ids += each.partition.rooms.remembered
            watched += len(each.partition.audience)
            owned += 1
        self._balance_off.set(off)
        self._live.set(rooms)
        self._silent.set(silent)
        self._ids.set(ids)
        self._watched.set(watched)
        self._owned.set(owned)


def _stalls(assigned: Assigned, end: int, now_s: float) -> bool:
    """Return whether records have waited in the uplink for long and none of this partition was
    fetched: the client hangs.
    """
    place = assigned.partition.wanted_next
    if not assigned.partition.is_ruling or assigned.is_full or place is None or place >= end:
        assigned.standstill = None
        return False
    if assigned.standstill is None or assigned.standstill.offset != place:
        assigned.standstill = Standstill(place, now_s)
        return False
    return now_s - assigned.standstill.since_s > STALLED_S
