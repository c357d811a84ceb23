"""The name, help, labels and buckets of every metric. Pure data.

Code, dashboards and alerts take the names from here, so they agree. A service creates its own
metrics with `liveroom.registry.Metrics`. No label is a room or a user, because those are unbounded;
top lists come from an endpoint. Base units: seconds, bytes.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Shape(Enum):
    """Type of a metric in Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


DELAY_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0)
BYTES_BUCKETS: Final = (256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `about` is its help text.

    `labels` are names only. Their values come from the services' enums and other bounded sets.
    """

    name: str
    shape: Shape
    about: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, about: str, *labels: str) -> Metric:
    return Metric(f"liveroom_{name}", Shape.COUNTER, about, labels)


def _gauge(name: str, about: str, *labels: str) -> Metric:
    return Metric(f"liveroom_{name}", Shape.GAUGE, about, labels)


def _histogram(name: str, about: str, *labels: str, buckets: tuple[float, ...] = DELAY_BUCKETS_S) -> Metric:
    return Metric(f"liveroom_{name}", Shape.HISTOGRAM, about, labels, buckets)


# every service
BUILD_INFO: Final = _gauge("build_info", "Always 1; service and version are labels.", "service", "version")
PARTITIONS: Final = _gauge("kafka_partitions", "Partitions that rooms are spread over, as configured for this process.")
LOOP_LAG: Final = _histogram(
    "loop_lag_seconds", "Delay between the moment a timer was due and the moment the event loop ran it."
)
GC_PAUSE: Final = _histogram("gc_pause_seconds", "Duration of garbage collections.")
PRODUCE_SECONDS: Final = _histogram(
    "kafka_produce_seconds", "Time from handing a record to the Kafka client until the brokers' ack.", "topic"
)
PRODUCE_ERRORS: Final = _counter("kafka_produce_errors_total", "Records that were not acknowledged.", "topic", "reason")
PRODUCER_REPLACED: Final = _counter("kafka_producer_replaced_total", "Producers that were replaced after an error.", "reason")
READER_LAG: Final = _gauge(
    "kafka_reader_lag_records", "Records between the reader and the end of the log, summed over all partitions.", "topic"
)
READER_RESTARTS: Final = _counter(
    "kafka_reader_restarts_total", "Consumers that were replaced because they stalled or failed.", "topic", "reason"
)
BAD_RECORDS: Final = _counter("bad_records_total", "Records that could not be read.", "topic", "reason")

CLOCK_SKEW: Final = _gauge(
    "clock_skew_seconds",
    "The machine's clock less that of the leader of `gateways`; NaN until that is known. Over 2 s the leader's is taken.",
)
FAR_TIMES: Final = _counter(
    "far_times_total", "Times in others' records that were too far from Kafka's time of the record, which was taken.", "topic"
)

# Kafka itself, as the services of `liveroom.cluster_health` see it.
KAFKA_BROKERS: Final = _gauge("kafka_brokers", "Brokers in the cluster; NaN while that is not known.")
KAFKA_BROKERS_AWAY: Final = _gauge(
    "kafka_brokers_away", "Brokers that have replicas of this service's topics and are not in the cluster; NaN: not known."
)
KAFKA_UNDER_REPLICATED: Final = _gauge(
    "kafka_under_replicated_partitions", "Partitions of a topic with a replica that is not in sync; NaN: not known.", "topic"
)
KAFKA_OFFLINE: Final = _gauge(
    "kafka_offline_partitions", "Partitions of a topic that no broker leads; NaN: not known.", "topic"
)

RULES: Final = _gauge("moderation_rules", "Moderation rules in memory; the modes of a room count as one.", "kind")

NAMES: Final = _gauge("names", "Names chosen by callers that a table in memory keeps.", "table")

HTTP_CONNECTIONS: Final = _gauge(
    "http_connections", "Connections of an HTTP port: all open ones, and those pending without a whole head.", "port", "state"
)
HTTP_ENDED: Final = _counter(
    "http_connections_ended_total", "Connections of an HTTP port that a bound refused or ended, by reason.", "port", "reason"
)

# The machine, as every service reads it at a scrape. The Prometheus client adds the process itself:
# process_*
MACHINE_LOAD: Final = _gauge("machine_load1", "Load average of the machine over one minute.")
MACHINE_CORES: Final = _gauge("machine_cores", "Processors of the machine.")
MACHINE_MEMORY: Final = _gauge("machine_memory_available_bytes", "Memory that is available without swapping.")
MACHINE_BYTES: Final = _counter("machine_network_bytes_total", "Bytes on all network interfaces.", "direction")
MACHINE_PACKETS: Final = _counter("machine_network_packets_total", "Packets on all network interfaces.", "direction")
MACHINE_IO: Final = _counter("machine_disk_operations_total", "Reads and writes on all disks.", "operation")

# ingress
INTERACTIONS: Final = _counter(
    "ingress_interactions_total", "Interactions by outcome: accepted, refused, or unknown.", "kind", "outcome"
)
REQUESTS_LIMITED: Final = _counter(
    "ingress_limited_total", "Requests that a budget of their user or address refused, by budget.", "reason"
)
REFUSALS: Final = _counter("ingress_refusals_total", "Refused requests by stable error code.", "code")
INGRESS_SECONDS: Final = _histogram("ingress_request_seconds", "Time from a request's head to its response.", "route")
WORD_HITS: Final = _counter("ingress_word_hits_total", "Texts that contain a listed word, by the action taken.", "action")
REVIEW_OUTCOMES: Final = ("allow", "refuse", "change", "fallback")
REVIEWS: Final = _counter("ingress_reviews_total", "Texts sent to the review hook, by its answer.", "outcome")
RULES_WITHDRAWN: Final = _counter(
    "ingress_rules_withdrawn_total", "Rules that were over and whose records left the topic `moderation`."
)
RULES_REPEATED: Final = _counter(
    "ingress_rules_repeated_total", "Rules that were written again because the topic's last record was not what holds."
)
RULES_NOT_WITHDRAWN: Final = _counter(
    "ingress_rules_not_withdrawn_total", "Withdrawals and repeats of rules that failed; they are tried again later."
)
RULES_ENDED: Final = _gauge("ingress_rules_ended", "Rules that are over, or have an end, and whose records will be withdrawn.")
ACTS: Final = _counter(
    "ingress_acts_total", "Moderation commands that were carried out, including those of the system itself.", "act"
)

# broadcaster
ITEMS: Final = _counter("broadcaster_items_total", "Items by outcome; taken equals the sum of all others.", "outcome")
PARTITIONS_OWNED: Final = _gauge("broadcaster_partitions_owned", "Partitions that this instance owns: assigned and taken over.")
ROOMS_LIVE: Final = _gauge("broadcaster_rooms", "Rooms in memory.")
ROOMS_SILENT: Final = _gauge("broadcaster_rooms_silent", "Rooms in memory in which nobody ever spoke.")
ROOMS_LIMITED: Final = _counter(
    "broadcaster_rooms_limited_total", "Rooms that were forgotten early or not opened because there were too many.", "reason"
)
TAKEOVERS: Final = _counter("broadcaster_takeovers_total", "Partitions that were taken over.", "reason")
TAKEOVER_SECONDS: Final = _histogram(
    "broadcaster_takeover_seconds", "Time from the partition's assignment until its first interaction is taken."
)
HISTORY_LOST: Final = _counter(
    "broadcaster_history_lost_total", "Partitions or rooms that started again with a new epoch.", "reason"
)
BATCHES: Final = _counter("broadcaster_batches_total", "BATCH records that were written.")
BATCH_BYTES: Final = _histogram("broadcaster_batch_bytes", "Size of BATCH records.", buckets=BYTES_BUCKETS)
PACKED_BYTES: Final = _counter("broadcaster_packed_bytes_total", "Payload bytes before and after deflate.", "stage")
SNAPSHOTS: Final = _counter("broadcaster_snapshots_total", "Complete snapshots that were written.")
UPLINK_DELAY: Final = _histogram(
    "broadcaster_uplink_delay_seconds", "Time from an interaction's acceptance until it is packed."
)
UPLINK_AGE: Final = _histogram(
    "broadcaster_uplink_age_seconds",
    "Time from an interaction's own time until Kafka's time of its record, of the latest one in each batch.",
)
BALANCE_OFF: Final = _gauge("broadcaster_balance_off", "Items taken minus items accounted for; anything but 0 is a defect.")
UPLINK_LAG: Final = _gauge("broadcaster_uplink_lag_records", "Uplink records not yet taken, by partition.", "partition")
EPOCH: Final = _gauge("broadcaster_epoch", "Epoch of this instance's claim, by partition.", "partition")
DEAD_LETTERS: Final = _counter("broadcaster_dead_letters_total", "Uplink records that went to the dead-letter topic.", "reason")
VOID_RECORDS: Final = _counter(
    "broadcast_void_records_total", "Void records, written by deposed owners, that a reader skipped."
)

# edge
CONNECTIONS: Final = _gauge("edge_connections", "Connections of viewers.")
USERS: Final = _gauge("edge_users", "Distinct users that are connected.")
ROOMS_LOCAL: Final = _gauge("edge_rooms", "Rooms that have a viewer at this gateway.")
ROOMS_VACANT: Final = _gauge("edge_rooms_vacant", "Rooms without a viewer that are kept for viewers who come back.")
ROOMS_QUIET: Final = _gauge("edge_rooms_quiet", "Rooms here in which nobody ever spoke, as far as the gateway knows.")
ROOMS_EVICTED: Final = _counter(
    "edge_rooms_evicted_total", "Rooms that made space for another one: without viewers, or quiet ones with viewers.", "reason"
)
JOINS: Final = _counter(
    "edge_joins_total", "Joins of a room by outcome; repeated: the connection was in the room already.", "outcome"
)
JOINS_REFUSED: Final = _counter("edge_joins_refused_total", "Refused joins of a room by stable error code.", "code")
LIMITED: Final = _counter(
    "edge_limited_total",
    "Refused connections and joins by the limit of a user, an address, a connection or the gateway.",
    "reason",
)
CLOSES: Final = _counter("edge_closes_total", "Connections that ended, by close code.", "code")
UPGRADES_REFUSED: Final = _counter("edge_upgrades_refused_total", "Refused upgrades by stable error code.", "code")
TLS_HANDSHAKES: Final = _counter("edge_tls_handshakes_total", "TLS handshakes that ended, by outcome.", "outcome")
TLS_PENDING: Final = _gauge("edge_tls_pending_handshakes", "TLS handshakes that are not done.")
TLS_FLOODS: Final = _counter(
    "edge_tls_floods_total", "TLS connections that were ended because what came on them kept one call busy for too long."
)
TLS_EXPIRES: Final = _gauge(
    "edge_tls_certificate_expires_seconds", "Unix time at which the first certificate expires; 0 without TLS."
)
DELIVERED_BATCHES: Final = _counter("edge_delivered_batches_total", "Batches pushed, counted once for each viewer.")
DELIVERED_MESSAGES: Final = _counter("edge_delivered_messages_total", "Messages pushed, counted once for each viewer.")
SENT_BYTES: Final = _counter("edge_sent_bytes_total", "Bytes handed to the kernel or the transport.")
SKIPPED: Final = _counter("edge_skipped_total", "Pushes skipped for slow viewers: batches without a reliable part.", "reason")
SLOW_MEMBERS: Final = _gauge("edge_slow_members", "Viewers that have unsent bytes.")
FANOUT_DELAY: Final = _histogram(
    "edge_fanout_delay_seconds", "Time from an interaction's acceptance until its push to local viewers."
)
QUEUE_DELAY: Final = _histogram("edge_queue_delay_seconds", "Time from packing a batch until a gateway read it.")
FANOUT_SECONDS: Final = _histogram("edge_fanout_seconds", "Duration of one room's fan-out.")
WASTED_BYTES: Final = _counter("edge_wasted_log_bytes_total", "Payload bytes that were read for rooms without a local viewer.")
READ_BYTES: Final = _counter("edge_read_log_bytes_total", "Bytes that were read from the broadcast topic.")
RESUMES: Final = _counter("edge_resumes_total", "Joins with a position to resume from, by outcome.", "outcome")
PULLS: Final = _counter("edge_pulls_total", "Pulls of messages by outcome.", "outcome")
PULLS_REFUSED: Final = _counter(
    "edge_pulls_refused_total", "Pulls that were refused, by the error code, or by the limit that they exceeded.", "reason"
)
GAPS: Final = _counter("edge_gaps_total", "Gaps that a gateway saw in a room's sequence numbers.", "reason")

# scheduler
ENTRIES: Final = _counter("scheduler_entries_total", "Entry requests by outcome.", "outcome")
ENTRIES_LIMITED: Final = _counter(
    "scheduler_limited_total", "Entries that a budget of their user or address refused, by budget.", "reason"
)
GATEWAYS_KNOWN: Final = _gauge("scheduler_gateways", "Gateways by state, as the scheduler sees them.", "state")
ENTRY_SECONDS: Final = _histogram("scheduler_entry_seconds", "Time to answer an entry request.")

# autoscaler
POOL_DESIRED: Final = _gauge("autoscaler_desired_gateways", "Gateways that the autoscaler wants.")
POOL_ACTUAL: Final = _gauge("autoscaler_actual_gateways", "Gateways that report their load.")
POOL_MIN: Final = _gauge("autoscaler_min_gateways", "Fewest gateways that the policy allows.")
POOL_MAX: Final = _gauge("autoscaler_max_gateways", "Most gateways that the policy allows.")
POOL_NEEDED: Final = _gauge("autoscaler_needed_gateways", "Gateways that the current load needs, before limits and windows.")
POOL_DEMAND: Final = _gauge(
    "autoscaler_demand_gateways", "Gateways at target utilisation that the current load needs, not rounded; 0: unknown."
)
POOL_ADVISES: Final = _gauge("autoscaler_advises", "1 if the autoscaler only publishes the demand and something else scales.")
POOL_PAUSED: Final = _gauge("autoscaler_paused", "1 while an operator has paused the pool.")
DECISIONS: Final = _counter("autoscaler_decisions_total", "Decisions by reason.", "reason")
LEADING: Final = _gauge("autoscaler_leading", "1 on the instance that leads and decides.")
POOL_API_FAILURES: Final = _counter(
    "autoscaler_kubernetes_failures_total", "Failed calls of the Kubernetes API by reason.", "reason"
)
POOL_WRONG_PODS: Final = _counter(
    "autoscaler_wrong_pods_total", "Pods that a scale-in removed although they had not been drained."
)

# canary
CANARY_DELAY: Final = _histogram("canary_delay_seconds", "Time from the 202 of a canary's gift to its receipt.", "gateway")
CANARY_LOST: Final = _counter("canary_lost_total", "Gifts of the canary that were not received in time.", "gateway")
CANARY_SENT: Final = _counter("canary_sent_total", "Gifts of the canary by outcome.", "outcome")
CANARY_DISORDERED: Final = _counter("canary_disordered_total", "Messages that arrived out of order or twice.", "gateway")

EVERYWHERE: Final = (
    BUILD_INFO,
    PARTITIONS,
    LOOP_LAG,
    GC_PAUSE,
    PRODUCE_SECONDS,
    PRODUCE_ERRORS,
    PRODUCER_REPLACED,
    READER_LAG,
    READER_RESTARTS,
    BAD_RECORDS,
    NAMES,
    HTTP_CONNECTIONS,
    HTTP_ENDED,
    MACHINE_LOAD,
    MACHINE_CORES,
    MACHINE_MEMORY,
    MACHINE_BYTES,
    MACHINE_PACKETS,
    MACHINE_IO,
)
WITH_KAFKA: Final = (CLOCK_SKEW, FAR_TIMES)
CLUSTER_HEALTH: Final = (KAFKA_BROKERS, KAFKA_BROKERS_AWAY, KAFKA_UNDER_REPLICATED, KAFKA_OFFLINE)
INGRESS: Final = (
    INTERACTIONS,
    REFUSALS,
    REQUESTS_LIMITED,
    INGRESS_SECONDS,
    WORD_HITS,
    REVIEWS,
    RULES,
    RULES_WITHDRAWN,
    RULES_REPEATED,
    RULES_NOT_WITHDRAWN,
    RULES_ENDED,
    ACTS,
)
BROADCASTER: Final = (
    ITEMS,
    PARTITIONS_OWNED,
    ROOMS_LIVE,
    ROOMS_SILENT,
    ROOMS_LIMITED,
    TAKEOVERS,
    TAKEOVER_SECONDS,
    HISTORY_LOST,
    BATCHES,
    BATCH_BYTES,
    PACKED_BYTES,
    SNAPSHOTS,
    UPLINK_DELAY,
    UPLINK_AGE,
    BALANCE_OFF,
    UPLINK_LAG,
    EPOCH,
    DEAD_LETTERS,
    VOID_RECORDS,
)
EDGE: Final = (
    CONNECTIONS,
    USERS,
    ROOMS_LOCAL,
    ROOMS_VACANT,
    ROOMS_QUIET,
    ROOMS_EVICTED,
    JOINS,
    JOINS_REFUSED,
    LIMITED,
    CLOSES,
    UPGRADES_REFUSED,
    TLS_HANDSHAKES,
    TLS_PENDING,
    TLS_FLOODS,
    TLS_EXPIRES,
    DELIVERED_BATCHES,
    DELIVERED_MESSAGES,
    SENT_BYTES,
    SKIPPED,
    SLOW_MEMBERS,
    FANOUT_DELAY,
    QUEUE_DELAY,
    FANOUT_SECONDS,
    WASTED_BYTES,
    READ_BYTES,
    RESUMES,
    PULLS,
    PULLS_REFUSED,
    GAPS,
    VOID_RECORDS,
    RULES,
)
SCHEDULER: Final = (ENTRIES, ENTRIES_LIMITED, GATEWAYS_KNOWN, ENTRY_SECONDS)
AUTOSCALER: Final = (
    POOL_DESIRED,
    POOL_ACTUAL,
    POOL_MIN,
    POOL_MAX,
    POOL_NEEDED,
    POOL_DEMAND,
    POOL_ADVISES,
    POOL_PAUSED,
    DECISIONS,
    LEADING,
    POOL_API_FAILURES,
    POOL_WRONG_PODS,
)
CANARY: Final = (CANARY_DELAY, CANARY_LOST, CANARY_SENT, CANARY_DISORDERED)

BY_SERVICE: Final[dict[str, tuple[Metric, ...]]] = {
    "ingress": EVERYWHERE + WITH_KAFKA + CLUSTER_HEALTH + INGRESS,
    "broadcaster": EVERYWHERE + WITH_KAFKA + CLUSTER_HEALTH + BROADCASTER,
    "edge": EVERYWHERE + WITH_KAFKA + EDGE,
    "scheduler": EVERYWHERE + WITH_KAFKA + SCHEDULER,
    "autoscaler": EVERYWHERE + WITH_KAFKA + CLUSTER_HEALTH + AUTOSCALER,
    "canary": EVERYWHERE + CANARY,
}
