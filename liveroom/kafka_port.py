"""The port to Kafka: what this system uses of a client library, and the only module that imports
aiokafka.

A `Kafka` makes clients. A service's start makes an `AioKafka` and hands it to all that need
clients; a simulation hands in a `Kafka` of its own, whose clients keep the same protocols and raise
the same errors. Nothing above this module reaches into a client: what aiokafka 0.14 must be helped
with at its end is done here (the traps are listed in docs/kafka.md), what its errors mean is
decided by `liveroom.waiting`.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypedDict, Unpack

import aiokafka
import structlog
from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin import NewTopic as _NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    OffsetOutOfRangeError,
    ProducerClosed,
    TopicAuthorizationFailedError,
)
from aiokafka.helpers import create_ssl_context
from aiokafka.protocol.metadata import MetadataRequest

from liveroom.settings import KafkaSettings
from liveroom.tasks import end_tasks
from liveroom.topics import Topic

__all__ = [
    "BROKERS_TIME",
    "LASTING_ERRORS",
    "AdminClient",
    "AioKafka",
    "Cluster",
    "Consumer",
    "ConsumerOptions",
    "Kafka",
    "KafkaError",
    "KafkaTimeoutError",
    "NewTopic",
    "OffsetOutOfRangeError",
    "PartitionReplicas",
    "ProducerClient",
    "ProducerClosed",
    "RebalanceListener",
    "Record",
    "RecordAck",
    "TimedOffset",
    "TopicAuthorizationFailedError",
    "TopicDescription",
    "TopicPartition",
]

CLOSE_TIMEOUT_S: Final = 5.0
BROKERS_TIME: Final = 1  # LogAppendTime, as the protocol numbers it
log = structlog.get_logger()

if TYPE_CHECKING:

    class TopicPartition(NamedTuple):
        """One partition of a topic, by the topic's name on the cluster."""

        topic: str
        partition: int

    class RebalanceListener:
        """A consumer with a group calls it when the group revokes or assigns partitions."""

        async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
            """The group revokes these partitions."""

        async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
            """The group assigns exactly these partitions."""

else:  # aiokafka checks that it is given its own
    TopicPartition = aiokafka.TopicPartition
    RebalanceListener = aiokafka.ConsumerRebalanceListener

# These errors do not pass by themselves: somebody must change a setting, a permission or a version.
LASTING_ERRORS: Final[tuple[type[Exception], ...]] = (
    errors.AuthenticationFailedError,
    errors.AuthenticationMethodNotSupported,
    errors.SaslAuthenticationFailed,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
    errors.SecurityDisabled,
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
    errors.UnrecognizedBrokerVersion,
    errors.IncompatibleBrokerVersion,
    errors.UnsupportedVersionError,
    errors.UnsupportedCodecError,
    errors.KafkaConfigurationError,
    errors.IllegalArgumentError,
    errors.IllegalStateError,
    errors.InvalidTopicError,
    errors.InvalidPartitionsError,
    errors.InvalidConfigurationError,
    errors.PolicyViolationError,
    errors.InvalidRequestError,
    errors.InvalidGroupIdError,
    errors.InvalidSessionTimeoutError,
    errors.InconsistentGroupProtocolError,
)


class Record(Protocol):
    """One record as a consumer returns it. `timestamp`: in Unix ms, by the brokers' clock.

    Where somebody created the topic without `message.timestamp.type=LogAppendTime`, it is by the
    clock of the producer, and `timestamp_type` is not `BROKERS_TIME`.
    """

    @property
    def topic(self) -> str: ...  # noqa: D102 - named by the field
    @property
    def partition(self) -> int: ...  # noqa: D102
    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def timestamp(self) -> int: ...  # noqa: D102
    @property
    def timestamp_type(self) -> int: ...  # noqa: D102
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...  # noqa: D102


class TimedOffset(Protocol):
    """The offset of the first record at or after some time."""

    @property
    def offset(self) -> int: ...  # noqa: D102


class RecordAck(Protocol):
    """The acknowledgement of a record: the offset at which all in-sync replicas have it, and its
    timestamp, as of `Record`.
    """

    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def timestamp(self) -> int: ...  # noqa: D102
    @property
    def timestamp_type(self) -> int: ...  # noqa: D102


class ConsumerOptions(TypedDict, total=False):
    """Options of a consumer, by Kafka's own names. Those that are left out have the client's
    defaults, but for `auto_offset_reset`, which is `none`: a place that is gone is an error.
    """

    group_id: str
    client_id: str
    auto_offset_reset: str
    check_crcs: bool
    request_timeout_ms: int
    session_timeout_ms: int
    heartbeat_interval_ms: int
    rebalance_timeout_ms: int
    max_poll_interval_ms: int
    fetch_max_wait_ms: int
    max_partition_fetch_bytes: int


class Consumer(Protocol):
    """A consumer of the partitions that `assign` names or that a group assigns.

    Every call to the brokers may raise KafkaError.
    """

    async def start(self) -> None:
        """Connect. With a group: join it and wait for partitions, for ever."""

    async def stop(self) -> None:
        """Leave the group and disconnect, wholly.

        It never raises KafkaError. A cancellation of the caller goes on to the caller once the
        consumer is closed, or after a few seconds.
        """

    def assign(self, partitions: Iterable[TopicPartition], /) -> None:
        """Read exactly these partitions, without a group."""

    def subscribe(self, topics: Sequence[str], *, listener: RebalanceListener) -> None:
        """Read the partitions of these topics that the group assigns. Call it before `start`."""

    def assignment(self) -> Collection[TopicPartition]:
        """Return the partitions that are read now."""

    def seek(self, partition: TopicPartition, offset: int, /) -> None:
        """Continue at `offset`."""

    def pause(self, *partitions: TopicPartition) -> None:
        """Fetch nothing of these partitions until `resume`."""

    def resume(self, *partitions: TopicPartition) -> None:
        """Fetch these partitions again."""

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int | None = None
    ) -> Mapping[TopicPartition, list[Record]]:
        """Return what has come of these partitions (of all, where none is named), in order; an
        empty mapping when nothing came within `timeout_ms`.

        It returns at most `max_records` (None: all that came); the next call returns the rest.

        Raises OffsetOutOfRangeError, whose first argument holds the partitions, where a place is
        gone.
        """

    async def beginning_offsets(self, partitions: Sequence[TopicPartition], /) -> dict[TopicPartition, int]:
        """Return the first offset that each partition keeps."""

    async def end_offsets(self, partitions: Sequence[TopicPartition], /) -> dict[TopicPartition, int]:
        """Return the offset behind the last record of each partition."""

    async def offsets_for_times(self, times: Mapping[TopicPartition, int], /) -> Mapping[TopicPartition, TimedOffset | None]:
        """Return the first offset written at that time (ms) or later; None: nothing has been."""

    def highwater(self, partition: TopicPartition, /) -> int | None:
        """Return the end of a partition as the last fetch found it; None before the first."""

    async def committed(self, partition: TopicPartition, /) -> int | None:
        """Return the offset that the group last committed."""

    async def commit(self, offsets: Mapping[TopicPartition, int], /) -> None:
        """Commit offsets of the group."""


class ProducerClient(Protocol):
    """An idempotent producer whose records all in-sync replicas must acknowledge (`acks=all`)."""

    async def start(self) -> None:
        """Connect; it may ask for a producer id for ever."""

    async def stop(self) -> None:
        """Send the records that wait, drop the rest after the request time-out, and disconnect."""

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None,
        partition: int | None,
        headers: Sequence[tuple[str, bytes]],
    ) -> "asyncio.Future[RecordAck]":
        """Take a record once there is room for it; return the future of its ack.

        Raises ProducerClosed where the producer was stopped meanwhile: then it did not take the
        record.
        """


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic to be made; `config` by Kafka's own names."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PartitionReplicas:
    """One partition of a topic: the brokers that have a replica, those whose replica is in sync,
    and the leader. `leader` None: there is none, so it can be neither read nor written.
    """

    partition: int
    leader: int | None
    replicas: frozenset[int]
    in_sync: frozenset[int]


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as the cluster knows it.

    No partitions: there is no such topic (yet), or `is_forbidden`.
    """

    name: str
    partitions: Sequence[PartitionReplicas]
    is_forbidden: bool


@dataclass(frozen=True, slots=True)
class Cluster:
    """The brokers of a cluster, by id, and the topics that were asked for, all as one broker knows
    them at one moment. `controller` None: that broker knows none.
    """

    brokers: frozenset[int]
    controller: int | None
    topics: Sequence[TopicDescription] = ()


class AdminClient(Protocol):
    """A client that describes and changes topics. Every call may raise KafkaError."""

    async def start(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Disconnect."""

    async def list_topics(self) -> Collection[str]:
        """Return the names of all topics that this client may see."""

    async def create_topics(self, topics: Sequence[NewTopic], /) -> None:
        """Make topics; one that exists already is left as it is."""

    async def delete_topics(self, names: Sequence[str], /) -> None:
        """Remove topics with all their records."""

    async def describe_topics(self, names: Sequence[str] | None = None, /) -> Sequence[TopicDescription]:
        """Return these topics (None: all) as they are."""

    async def topic_config(self, name: str, /) -> dict[str, str]:
        """Return the settings that a topic has of its own, not those of the brokers."""

    async def set_topic_config(self, name: str, config: Mapping[str, str], /) -> None:
        """Replace all settings that a topic has of its own."""

    async def describe_cluster(self, names: Sequence[str] = (), /) -> Cluster:
        """Return the brokers, and these topics. It makes no topic."""


class Kafka(ABC):
    """A cluster, as the settings name it: the topics' names on it, and clients for it."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings

    def topic_name(self, topic: Topic) -> str:
        """Return a topic's name on this cluster."""
        return self.settings.prefix + topic.name

    def partitions(self, topic: Topic) -> int:
        """Return how many partitions a topic has on this cluster."""
        return topic.partitions or self.settings.partitions

    @abstractmethod
    def consumer(self, *topics: str, **options: Unpack[ConsumerOptions]) -> Consumer:
        """Return a consumer that is not started. It commits only what it is asked to."""

    @abstractmethod
    def producer(self, *, linger_ms: int, max_batch_bytes: int, max_request_bytes: int) -> ProducerClient:
        """Return a producer that is not started."""

    @abstractmethod
    def admin(self, *, request_timeout_s: float | None = None) -> AdminClient:
        """Return an admin client that is not started."""

    @abstractmethod
    def addresses(self) -> Sequence[tuple[str, int]]:
        """Return host and port of each broker that the settings name.

        Raises ValueError where `bootstrap` is no list of addresses, OSError where a file of keys or
        certificates cannot be used.
        """

    @abstractmethod
    async def greet(self, host: str, port: int) -> None:
        """Connect to one broker, authenticate, wait for an answer, and disconnect.

        Raises the KafkaError or OSError with the reason where that fails, and ValueError where
        `host` is no valid name.
        """


def client_arguments(settings: KafkaSettings) -> dict[str, Any]:
    """Return the arguments that every aiokafka client is made with."""
    return {
        "bootstrap_servers": settings.bootstrap,
        "request_timeout_ms": int(settings.request_timeout_s * 1000),
        "metadata_max_age_ms": int(settings.metadata_max_age_s * 1000),
        "retry_backoff_ms": 50,
        **_security_arguments(settings),
    }


def _security_arguments(settings: KafkaSettings) -> dict[str, Any]:
    arguments: dict[str, Any] = {"security_protocol": settings.security}
    if settings.security.startswith("SASL"):
        arguments |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.username,
            "sasl_plain_password": settings.password.get_secret_value(),
        }
    if settings.security.endswith("SSL"):
        arguments["ssl_context"] = create_ssl_context(
            cafile=str(settings.ca_file) if settings.ca_file else None,
            certfile=str(settings.cert_file) if settings.cert_file else None,
            keyfile=str(settings.key_file) if settings.key_file else None,
        )
    return arguments


class AioKafka(Kafka):
    """The cluster reached over the network by aiokafka."""

    def consumer(self, *topics: str, **options: Unpack[ConsumerOptions]) -> Consumer:
        """Return a consumer that is not started."""
        fixed = {"enable_auto_commit": False, "auto_offset_reset": "none"}
        consumer: Consumer = _Consumer(*topics, **client_arguments(self.settings) | fixed | options)
        return consumer

    def producer(self, *, linger_ms: int, max_batch_bytes: int, max_request_bytes: int) -> ProducerClient:
        """Return a producer that is not started."""
        producer = _Producer(
            **client_arguments(self.settings),
            enable_idempotence=True,
            acks="all",
            linger_ms=linger_ms,
            max_batch_size=max_batch_bytes,
            max_request_size=max_request_bytes,
        )
        producer.give_up_s = self.settings.request_timeout_s
        return producer

    def admin(self, *, request_timeout_s: float | None = None) -> AdminClient:
        """Return an admin client that is not started."""
        arguments = client_arguments(self.settings)
        if request_timeout_s is not None:
            arguments["request_timeout_ms"] = int(request_timeout_s * 1000)
        return _Admin(AIOKafkaAdminClient(**arguments))

    def addresses(self) -> Sequence[tuple[str, int]]:
        """Return host and port of each broker that the settings name, in random order."""
        hosts = collect_hosts(self.settings.bootstrap)
        _security_arguments(self.settings)
        return [(host, port) for host, port, _ in hosts]

    async def greet(self, host: str, port: int) -> None:
        """Connect to one broker, authenticate, wait for an answer, and disconnect."""
        arguments = {
            "request_timeout_ms": int(self.settings.request_timeout_s * 1000),
            **_security_arguments(self.settings),
        }
        connection = await create_conn(host, port, client_id="liveroom", **arguments)
        try:
            await connection.send(MetadataRequest([]))  # the first that a broker refuses of a client that it does not know
        finally:
            connection.close()


class _Consumer(aiokafka.AIOKafkaConsumer):  # type: ignore[misc]
    """A consumer whose `stop` closes all of it.

    While a fetch is in retry, `stop` of aiokafka 0.14 raises the CancelledError of its own task and
    leaves connections open; elsewhere it swallows a cancellation of the caller. So it runs in a
    task of its own here.
    """

    async def stop(self) -> None:
        stopping = asyncio.create_task(super().stop())
        try:
            await asyncio.wait([stopping])
        except asyncio.CancelledError:
            await asyncio.wait([stopping], timeout=CLOSE_TIMEOUT_S)
            raise
        finally:
            if stopping.cancelled():
                await self._stop_rest()
        if not stopping.cancelled() and (error := stopping.exception()) is not None:
            if not isinstance(error, KafkaError):
                raise error
            log.warning("consumer_closed_in_error", error=repr(error))

    async def _stop_rest(self) -> None:
        """Close what `stop` leaves open when it is cancelled."""
        pending = list(self._fetcher._pending_tasks) if self._fetcher is not None else []  # noqa: SLF001
        await end_tasks(*pending)
        await self._client.close()


class _Producer(aiokafka.AIOKafkaProducer):  # type: ignore[misc]
    """A producer whose `stop` ends: its records are sent, or dropped after `give_up_s` seconds.

    An idempotent producer of aiokafka 0.14 never drops a record, and its `stop` waits for all of
    them: without a broker it would wait for ever. So `stop` here ends the sender first, after the
    request that is under way, and then drops the records that are left.
    """

    give_up_s: float

    async def stop(self) -> None:
        try:
            async with asyncio.timeout(self.give_up_s):
                await self._message_accumulator.close()
        except TimeoutError:
            log.warning("producer_gave_up", waited_s=self.give_up_s)
            with suppress(KafkaError):
                await self._sender.close()
            self._message_accumulator._batches.clear()  # noqa: SLF001
        try:
            await super().stop()
        except KafkaError as error:
            log.warning("producer_closed_in_error", error=repr(error))


_OF_THE_TOPIC: Final = 1  # the source of a setting that was set for one topic (KIP-226)


class _Admin:
    """aiokafka's admin client, with typed answers."""

    def __init__(self, inner: AIOKafkaAdminClient) -> None:
        self._inner = inner

    async def start(self) -> None:
        await self._inner.start()

    async def close(self) -> None:
        await self._inner.close()

    async def list_topics(self) -> Collection[str]:
        return frozenset(await self._inner.list_topics())

    async def create_topics(self, topics: Sequence[NewTopic], /) -> None:
        answer = await self._inner.create_topics(
            [
                _NewTopic(
                    name=topic.name,
                    num_partitions=topic.partitions,
                    replication_factor=topic.replication,
                    topic_configs=dict(topic.config),
                )
                for topic in topics
            ]
        )
        for _, code, *detail in answer.topic_errors:
            error = errors.for_code(code)
            if code and error is not errors.TopicAlreadyExistsError:
                raise error(str(detail))

    async def delete_topics(self, names: Sequence[str], /) -> None:
        await self._inner.delete_topics(list(names))

    async def describe_topics(self, names: Sequence[str] | None = None, /) -> Sequence[TopicDescription]:
        return _described(await self._inner.describe_topics(None if names is None else list(names)))

    async def topic_config(self, name: str, /) -> dict[str, str]:
        resource = ConfigResource(ConfigResourceType.TOPIC, name)
        found: dict[str, str] = {}
        for answer in await self._inner.describe_configs([resource]):
            for code, message, _, _, entries in answer.resources:
                if code:
                    raise errors.for_code(code)(message)
                found |= {key: value for key, value, _, source, *_ in entries if source == _OF_THE_TOPIC}
        return found

    async def set_topic_config(self, name: str, config: Mapping[str, str], /) -> None:
        resource = ConfigResource(ConfigResourceType.TOPIC, name, dict(config))
        for answer in await self._inner.alter_configs([resource]):
            for code, message, *_ in answer.resources:
                if code:
                    raise errors.for_code(code)(message)

    async def describe_cluster(self, names: Sequence[str] = (), /) -> Cluster:
        # aiokafka's own call asks for all topics of the cluster; those of others may be thousands.
        request = MetadataRequest(list(names), allow_auto_topic_creation=False)
        cluster = (await self._inner._send_request(request)).to_object()  # noqa: SLF001
        controller = cluster["controller_id"]
        return Cluster(
            frozenset(broker["node_id"] for broker in cluster["brokers"]),
            None if controller is None or controller < 0 else controller,
            _described(cluster["topics"]),
        )


def _described(topics: Iterable[Mapping[str, Any]]) -> list[TopicDescription]:
    """Return topics as aiokafka's answers hold them."""
    return [
        TopicDescription(
            entry["topic"],
            [
                PartitionReplicas(
                    each["partition"],
                    None if each["leader"] < 0 else each["leader"],
                    frozenset(each["replicas"]),
                    frozenset(each["isr"]),
                )
                for each in entry["partitions"]
            ],
            is_forbidden=errors.for_code(entry["error_code"]) is TopicAuthorizationFailedError,
        )
        for entry in topics
    ]
