"""Every metric's name, help, labels and buckets: data only, pure, so that code, dashboards and
alerts agree.

A service makes its own from here with `liveroom.service.Metrics`. No label is a room or a user:
those are unbounded (top lists come from an endpoint). Base units: seconds, bytes.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Shape(Enum):
    """What a metric is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


DELAY_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0)
BYTES_BUCKETS: Final = (256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    `labels` are names only; their values come from the services' enums and other bounded sets.
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
BUILD_INFO: Final = _gauge("build_info", "1, with the version and the service as labels.", "service", "version")
PARTITIONS: Final = _gauge("kafka_partitions", "Partitions that rooms are spread over, as this process is set.")
LOOP_LAG: Final = _histogram("loop_lag_seconds", "How late the event loop ran a timer that was due.")
GC_PAUSE: Final = _histogram("gc_pause_seconds", "Length of garbage collections.")
PRODUCE_SECONDS: Final = _histogram(
    "kafka_produce_seconds", "From handing a record to the client until the brokers' ack.", "topic"
)
PRODUCE_ERRORS: Final = _counter("kafka_produce_errors_total", "Records that got no ack.", "topic", "reason")
PRODUCER_REPLACED: Final = _counter("kafka_producer_replaced_total", "Producers thrown away after an error.", "reason")
READER_LAG: Final = _gauge(
    "kafka_reader_lag_records", "Records between the reader and the end of the log, all partitions.", "topic"
)
READER_RESTARTS: Final = _counter(
    "kafka_reader_restarts_total", "Consumers replaced because they stalled or failed.", "topic", "reason"
)
BAD_RECORDS: Final = _counter("bad_records_total", "Records that could not be read.", "topic", "reason")

# the machine, as every service reads it when it is asked; of its process the Prometheus client
# tells itself: process_*
MACHINE_LOAD: Final = _gauge("machine_load1", "Processes that run or wait, over a minute.")
MACHINE_CORES: Final = _gauge("machine_cores", "Processors of this machine.")
MACHINE_MEMORY: Final = _gauge("machine_memory_available_bytes", "Memory that can be had without swapping.")
MACHINE_BYTES: Final = _counter("machine_network_bytes_total", "Bytes over all network interfaces.", "direction")
MACHINE_PACKETS: Final = _counter("machine_network_packets_total", "Packets over all network interfaces.", "direction")
MACHINE_IO: Final = _counter("machine_disk_operations_total", "Reads and writes of all disks.", "operation")

# ingress
INTERACTIONS: Final = _counter("ingress_interactions_total", "Interactions by what became of them.", "kind", "outcome")
REFUSALS: Final = _counter("ingress_refusals_total", "Requests refused, by stable code.", "code")
INGRESS_SECONDS: Final = _histogram("ingress_request_seconds", "From the request's head to its answer.", "route")
WORD_HITS: Final = _counter("ingress_word_hits_total", "Texts with words of a library, by what was done.", "action")
REVIEW_OUTCOMES: Final = ("allow", "refuse", "change", "fallback")
REVIEWS: Final = _counter("ingress_reviews_total", "Texts shown to the review hook, by its answer.", "outcome")
ACTS: Final = _counter("ingress_acts_total", "Acts of hosts and operators, and of the system itself, that were done.", "act")

# broadcaster
ITEMS: Final = _counter("broadcaster_items_total", "Items by outcome; taken equals the sum of all others.", "outcome")
PARTITIONS_OWNED: Final = _gauge("broadcaster_partitions_owned", "Partitions this instance rules.")
ROOMS_LIVE: Final = _gauge("broadcaster_rooms", "Rooms held in memory.")
TAKEOVERS: Final = _counter("broadcaster_takeovers_total", "Partitions taken over.", "reason")
TAKEOVER_SECONDS: Final = _histogram("broadcaster_takeover_seconds", "From assignment until the first interaction is taken.")
HISTORY_LOST: Final = _counter(
    "broadcaster_history_lost_total", "Partitions or rooms that began again with a new epoch.", "reason"
)
BATCHES: Final = _counter("broadcaster_batches_total", "BATCH records written.")
BATCH_BYTES: Final = _histogram("broadcaster_batch_bytes", "Size of BATCH records.", buckets=BYTES_BUCKETS)
PACKED_BYTES: Final = _counter("broadcaster_packed_bytes_total", "Payload bytes before and after deflate.", "stage")
SNAPSHOTS: Final = _counter("broadcaster_snapshots_total", "Complete snapshots written.")
UPLINK_DELAY: Final = _histogram("broadcaster_uplink_delay_seconds", "From acceptance until packed.")
BALANCE_OFF: Final = _gauge("broadcaster_balance_off", "Items taken less items accounted for; anything but 0 is a defect.")
UPLINK_LAG: Final = _gauge("broadcaster_uplink_lag_records", "Uplink records not yet taken, per partition.", "partition")
EPOCH: Final = _gauge("broadcaster_epoch", "Epoch of the claim this instance rules with.", "partition")
DEAD_LETTERS: Final = _counter("broadcaster_dead_letters_total", "Uplink records put aside.", "reason")
VOID_RECORDS: Final = _counter("broadcast_void_records_total", "Records of deposed owners that a reader passed over.")

# edge
CONNECTIONS: Final = _gauge("edge_connections", "WebSocket connections.")
USERS: Final = _gauge("edge_users", "Distinct users connected.")
ROOMS_LOCAL: Final = _gauge("edge_rooms", "Rooms with a viewer here.")
JOINS: Final = _counter("edge_joins_total", "Joins of a room.", "outcome")
CLOSES: Final = _counter("edge_closes_total", "Connections ended, by close code.", "code")
UPGRADES_REFUSED: Final = _counter("edge_upgrades_refused_total", "WebSocket handshakes refused, by stable code.", "code")
DELIVERED_BATCHES: Final = _counter("edge_delivered_batches_total", "Batches pushed, times viewers.")
DELIVERED_MESSAGES: Final = _counter("edge_delivered_messages_total", "Messages pushed, times viewers.")
SENT_BYTES: Final = _counter("edge_sent_bytes_total", "Bytes handed to the kernel or the transport.")
SKIPPED: Final = _counter("edge_skipped_total", "Pushes left out for slow viewers.", "reason")
SLOW_MEMBERS: Final = _gauge("edge_slow_members", "Viewers with unsent bytes.")
FANOUT_DELAY: Final = _histogram(
    "edge_fanout_delay_seconds", "From an interaction's acceptance until its push to local viewers."
)
QUEUE_DELAY: Final = _histogram("edge_queue_delay_seconds", "From packing until a gateway read the batch.")
FANOUT_SECONDS: Final = _histogram("edge_fanout_seconds", "Time one room's fan-out took.")
WASTED_BYTES: Final = _counter("edge_wasted_log_bytes_total", "Payload bytes read for rooms without a local viewer.")
READ_BYTES: Final = _counter("edge_read_log_bytes_total", "Bytes read from the broadcast topic.")
RESUMES: Final = _counter("edge_resumes_total", "Joins with positions.", "outcome")
PULLS: Final = _counter("edge_pulls_total", "Pulls of messages.", "outcome")
GAPS: Final = _counter("edge_gaps_total", "Holes a gateway saw in a room's numbers.", "reason")

# scheduler
ENTRIES: Final = _counter("scheduler_entries_total", "Answers to entry requests.", "outcome")
GATEWAYS_KNOWN: Final = _gauge("scheduler_gateways", "Gateways by state as the scheduler sees them.", "state")
ENTRY_SECONDS: Final = _histogram("scheduler_entry_seconds", "Time to answer an entry request.")

# autoscaler
POOL_DESIRED: Final = _gauge("autoscaler_desired_gateways", "Gateways wanted.")
POOL_ACTUAL: Final = _gauge("autoscaler_actual_gateways", "Gateways that report.")
POOL_MIN: Final = _gauge("autoscaler_min_gateways", "Least gateways the policy allows.")
POOL_MAX: Final = _gauge("autoscaler_max_gateways", "Most gateways the policy allows.")
POOL_NEEDED: Final = _gauge("autoscaler_needed_gateways", "Gateways that what is there takes, before limits and windows.")
POOL_DEMAND: Final = _gauge(
    "autoscaler_demand_gateways", "Gateways at their target that what is there takes, not rounded; 0: nothing is known."
)
POOL_ADVISES: Final = _gauge("autoscaler_advises", "1 where it only says how many it takes, and something else scales.")
POOL_PAUSED: Final = _gauge("autoscaler_paused", "1 while an operator has paused the pool.")
DECISIONS: Final = _counter("autoscaler_decisions_total", "Decisions, by reason.", "reason")
LEADING: Final = _gauge("autoscaler_leading", "1 on the instance that decides.")
POOL_API_FAILURES: Final = _counter(
    "autoscaler_kubernetes_failures_total", "What the Kubernetes API did not answer, or not as asked, by reason.", "reason"
)
POOL_WRONG_PODS: Final = _counter(
    "autoscaler_wrong_pods_total", "Pods that a scale-in took though they had not been emptied before."
)

# canary
CANARY_DELAY: Final = _histogram("canary_delay_seconds", "From a marked interaction's 202 to its receipt.", "gateway")
CANARY_LOST: Final = _counter("canary_lost_total", "Marked interactions not received in time.", "gateway")
CANARY_SENT: Final = _counter("canary_sent_total", "Marked interactions by their outcome.", "outcome")
CANARY_DISORDERED: Final = _counter("canary_disordered_total", "Messages that came out of order, or twice.", "gateway")

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
    MACHINE_LOAD,
    MACHINE_CORES,
    MACHINE_MEMORY,
    MACHINE_BYTES,
    MACHINE_PACKETS,
    MACHINE_IO,
)
INGRESS: Final = (INTERACTIONS, REFUSALS, INGRESS_SECONDS, WORD_HITS, REVIEWS, ACTS)
BROADCASTER: Final = (
    ITEMS,
    PARTITIONS_OWNED,
    ROOMS_LIVE,
    TAKEOVERS,
    TAKEOVER_SECONDS,
    HISTORY_LOST,
    BATCHES,
    BATCH_BYTES,
    PACKED_BYTES,
    SNAPSHOTS,
    UPLINK_DELAY,
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
    JOINS,
    CLOSES,
    UPGRADES_REFUSED,
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
    GAPS,
    VOID_RECORDS,
)
SCHEDULER: Final = (ENTRIES, GATEWAYS_KNOWN, ENTRY_SECONDS)
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
    "ingress": EVERYWHERE + INGRESS,
    "broadcaster": EVERYWHERE + BROADCASTER,
    "edge": EVERYWHERE + EDGE,
    "scheduler": EVERYWHERE + SCHEDULER,
    "autoscaler": EVERYWHERE + AUTOSCALER,
    "canary": EVERYWHERE + CANARY,
}
