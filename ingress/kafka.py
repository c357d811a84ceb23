"""Writes the ingress's records to Kafka, and retries to connect for as long as it takes.

Owns the producer and whether Kafka counts as ready. Refuses (`UnsentError`) everything while not
connected, and a record that is not acknowledged in time. Called through `log.LogWriter` by
everything that writes, and by `__main__` (`watch`, `stop`).
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

import structlog

from liveroom import clock
from liveroom.access import SERVICES
from liveroom.errors import in_words
from liveroom.kafka import TOPICS_S, Producer, Unsent, UnsentError, ensure_compaction_lag, ensure_topics, probe_brokers, waiting
from liveroom.kafka_port import Kafka, KafkaError
from liveroom.service import Runtime, StartError
from liveroom.settings import IngressSettings
from liveroom.topics import MODERATION, UPLINK, Topic, partition_of
from liveroom.waiting import PassingError

READY: Final = "kafka"
ACCESS: Final = SERVICES["ingress"]
_PAUSE_S: Final = 0.5
_QUIET_S: Final = 5.0  # without an acknowledgement for so long, probe Kafka
_PROBE_S: Final = 5.0
log = structlog.get_logger()


class KafkaLogWriter:
    """Writes records and waits for their acknowledgements.

    `waiting`: how many records are under way; the caller bounds it. `connected`: set once the
    topics exist too.
    """

    def __init__(self, kafka: Kafka, settings: IngressSettings, runtime: Runtime) -> None:
        self._kafka = kafka
        self.waiting = 0
        self._settings = settings
        self._runtime = runtime
        self._producer: Producer | None = None
        self.connected = asyncio.Event()
        self._acked_s = 0.0

    async def put(self, topic: Topic, key: bytes, value: bytes | None) -> None:
        """Return once the brokers have acknowledged the record.

        Raises UnsentError after `ack_timeout_s` at the latest.
        """
        producer = self._connected()
        began_s = clock.monotonic_s()
        partition = partition_of(key.decode(), self._kafka.partitions(topic))
        self.waiting += 1
        try:
            await producer.send(topic, value, key=key, partition=partition, timeout_s=self._settings.ack_timeout_s)
        except UnsentError as error:
            self._failed(error, began_s)
            raise
        finally:
            self.waiting -= 1
        self._acked_s = clock.monotonic_s()

    async def put_many(self, topic: Topic, records: Sequence[tuple[bytes, bytes]]) -> list[UnsentError | None]:
        """Write (key, value) records together.

        Returns within `ack_timeout_s`, in order, None or each record's error.
        """
        producer = self._connected()
        began_s = clock.monotonic_s()
        self.waiting += len(records)
        try:
            errors = await producer.send_many(topic, records, timeout_s=self._settings.ack_timeout_s)
        finally:
            self.waiting -= len(records)
        if None in errors:
            self._acked_s = clock.monotonic_s()
        for error in errors:
            if error is not None:
                self._failed(error, began_s)
        return errors

    def _connected(self) -> Producer:
        if self._producer is None:
            raise UnsentError(Unsent.CLOSED, "not connected to Kafka yet")
        return self._producer

    def _failed(self, error: UnsentError, began_s: float) -> None:
        if error.reason in {Unsent.TIMEOUT, Unsent.BROKEN} and self._acked_s < began_s:
            self._runtime.unready(
                READY, "Kafka does not acknowledge"
            )  # nothing was acknowledged since this record was handed over

    async def watch(self) -> None:
        """Connect, then keep the readiness up to date until cancelled.

        A balancer sends nothing to an instance that is not ready, so acknowledgements alone could
        never make it ready again: a probe does.
        """
        await self._connect()
        while True:
            await clock.sleep(_PAUSE_S)
            if clock.monotonic_s() - self._acked_s < _QUIET_S:
                self._runtime.ready(READY)
                continue
            await self._probe()

    async def stop(self) -> None:
        """Close the producer. Call it when no write is under way any more."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def _connect(self) -> None:
        producer = Producer(self._kafka, self._runtime.metrics, ACCESS.writes)
        wait = waiting(self._kafka, self._runtime, READY)
        await wait.until(partial(ensure_topics, self._kafka, ACCESS.topics, TOPICS_S))
        await ensure_compaction_lag(self._kafka, MODERATION)
        await wait.until(producer.start)
        self._producer = producer
        self.connected.set()
        self._acked_s = clock.monotonic_s()
        self._runtime.ready(READY)

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(_PROBE_S):
                await probe_brokers(self._kafka)
                await ensure_topics(self._kafka, (UPLINK,), 0)
        except (StartError, PassingError, KafkaError, OSError) as error:
            self._runtime.unready(READY, in_words(error))
        else:
            self._acked_s = clock.monotonic_s()
            self._runtime.ready(READY)
