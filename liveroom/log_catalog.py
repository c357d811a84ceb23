"""The one list of log events: what each of them means, and what it asks whoever operates the system
to do. Pure.

Levels, fields and the services that log an event follow from the code (`docs.log_calls`), and
docs/logs.md is made from both. A test holds each log call to this list and this list to the calls.
`liveroom why` explains lines by it.
"""

from typing import Final, NamedTuple

from liveroom.errors import Code

NOTHING: Final = ""


class Event(NamedTuple):
    """What an event means. `todo`: what it asks for; empty: nothing."""

    about: str
    todo: str = NOTHING


class Group(NamedTuple):
    """Events that belong together, by name."""

    title: str
    events: dict[str, Event]


_BROKERS: Final = "Look at the brokers if it repeats."
_KEEP: Final = "A defect, or damage: keep the log and report it."

GROUPS: Final = (
    Group(
        "Starts and ends",
        {
            "started": Event("The process is up and its internal port answers."),
            "listening": Event("The public port takes requests."),
            "ready": Event("Every condition of readiness holds: `/readyz` answers 200."),
            "waiting": Event(
                "The start waits for something that passes by itself (`waits_for`); each reason is logged once.",
                "If it stays, mend what `why` names.",
            ),
            "not_ready": Event("A condition of readiness no longer holds; `/readyz` answers 503.", "Mend what `why` names."),
            "cannot_start": Event(
                "The start has ended: waiting does not cure this. Exit code 1.",
                "Mend what `error` names, then start again.",
            ),
            "service_failed": Event("The service ended by an error that nobody expected; exit code 1.", _KEEP),
            "task_failed": Event("A task or a connection failed where nobody waited for it; the service goes on.", _KEEP),
            "stopping": Event("The ingress takes nothing new and waits for the last acknowledgements (`waiting`)."),
            "stopped": Event("The service has ended in order."),
            "unknown_setting": Event(
                "A setting that no service of this version has; it is passed over.",
                "Is it misspelt (`nearest`)? One of a later version does no harm.",
            ),
            "few_files": Event(
                "The system allows fewer open files than the settings need; so many `connections` fit.",
                "Raise the limit of open files (`ulimit -n`), or lower the limits of connections.",
            ),
            "files_read": Event("Files that changed were read again and are in use."),
            "file_not_usable": Event(
                "A file that changed cannot be used; what was read before stays in use.",
                "Mend it as `error` says.",
            ),
            "certificate_expired": Event("The gateway's certificate has expired: no viewer can connect.", "Renew it."),
            "hmac_tickets_honoured": Event(
                "HMAC keys of tickets are set, as liveroom 0.1 has them.", "Remove them once the upgrade is over (`then`)."
            ),
            "origins_open": Event(
                "Pages of these origins may call the service. A warning for `*` and `null`: every page.",
                "Name your pages' origins instead of `*`, unless every page may call.",
            ),
            "proxy_reports_no_caller": Event(
                "A trusted proxy passes on requests without the caller's address, so no limit by address counts them.",
                "Let the proxy write `header`, or take it out of `LIVEROOM_PROXIES`.",
            ),
            "viewers_may_claim_payment": Event(
                "Viewers may send gifts, and streamers red packets and coupons, by themselves.",
                "For demos only: unset `LIVEROOM_VIEWERS_MAY_CLAIM_PAYMENT`.",
            ),
        },
    ),
    Group(
        "Refusals and ends of viewers and senders",
        {
            "refused": Event(
                "A request or a frame was refused with this code. `route`: the method and the path, or the type of the frame.",
                "[By the code](#codes).",
            ),
            "put_out": Event("A viewer was put out of a room, with this code in an error frame.", "[By the code](#codes)."),
            "closed": Event(
                "The gateway ends a viewer's connection with this close code. `rooms`: those it is in.",
                "[By the code](viewer-protocol.md#close-codes). Many 4008: viewers, or the way to them, are too slow.",
            ),
            "refusals_not_logged": Event(
                "In the last second more of these happened than may be logged; `counts` has how many lines are left out.",
                "To see all of them, raise `LIVEROOM_LOG_REFUSALS_PER_S`; the metrics count every one.",
            ),
            "request_failed": Event("A request failed by a defect and was answered with `internal`.", _KEEP),
            "revoked": Event("Connections were closed because their tokens were revoked (`ids`: the revocations)."),
            "connections_ended": Event("An operator ended a user's connections here."),
            "connections_not_reported": Event(
                "The answer about a user's connections could not be written; the operator sees it as silent.",
                _BROKERS,
            ),
        },
    ),
    Group(
        "Kafka",
        {
            "producer_replaced": Event("The client that writes hung or failed, and a new one takes its place.", _BROKERS),
            "producer_not_made": Event("No new client that writes could be made; it is tried again.", "Look at the brokers."),
            "producer_gave_up": Event("A write stayed without an answer for too long and was given up.", _BROKERS),
            "producer_closed_in_error": Event("A client that writes ended with an error; nothing waits for it any more."),
            "consumer_closed_in_error": Event("A client that reads ended with an error; nothing waits for it any more."),
            "reader_restarted": Event("A reader hung while its topic grew, or failed, and goes on where it was.", _BROKERS),
            "reader_not_opened": Event("A reader could not begin again; it is tried again.", "Look at the brokers."),
            "brokers_away": Event(
                "Other brokers are away than before: `brokers`; none: all answer again.",
                "[Runbook](runbooks.md#kafkabrokersaway).",
            ),
            "cluster_not_described": Event("The health of the cluster could not be asked; it is asked again.", _BROKERS),
            "records_missed": Event(
                "Kafka no longer has records that were still to be read; reading goes on at `found`.",
                "Check the topic's retention and the brokers' disks.",
            ),
            "topic_changed": Event("A setting of a topic was brought to its right value."),
            "topic_not_checked": Event("The service may not read the topic's settings; nothing else fails."),
            "topic_not_changed": Event(
                "A setting of a topic is wrong and could not be changed.", "Set it by hand: `setting` to `value`."
            ),
            "topic_has_producers_time": Event(
                "The topic was created with its writers' times instead of the brokers'.",
                "Set `message.timestamp.type=LogAppendTime` on it.",
            ),
            "ruling_unknown": Event(
                "Who owns a partition cannot be read from the log. An error where it stays so until the next claim.",
                "A warning repeats until the brokers answer. After an error, finish the upgrade.",
            ),
            "bad_record": Event(
                "A record of the project's own topics cannot be used, and is passed over.",
                "Finish the upgrade, or find who else writes to the topic ([runbook](runbooks.md#unreadablerecords)).",
            ),
            "more_refusals_not_logged": Event("So many kinds of unusable records of this topic came that no more are logged."),
            "record_unhandled": Event("A record could not be handled; it is passed over, or becomes a dead letter.", _KEEP),
        },
    ),
    Group(
        "Ingress",
        {
            "announced": Event("An announcement to all rooms has reached `reached` of `rooms` rooms."),
            "not_announced": Event("An announcement could not be written for a room; it is tried again.", _BROKERS),
            "host_not_recorded": Event("A room has too many hosts on record; this one is not protected from other hosts."),
            "not_moderated": Event("The mute of a user with too many listed words could not be written.", _BROKERS),
            "review_off": Event(
                "The review hook fails: for `for_s` seconds it is not asked, and `fallback` holds.",
                "See the review service.",
            ),
            "revocation_not_withdrawn": Event("The record of a revocation that is over stays for now.", _BROKERS),
            "rule_not_withdrawn": Event("The record of a rule that is over stays for now.", _BROKERS),
            "rule_not_repeated": Event("A rule that holds could not be written again; it is tried again.", _BROKERS),
            "withdrawals_failed": Event("Rules that are over stay for now; it is tried again.", _KEEP),
            "room_status_unknown": Event("The status of a room could not be read; the caller got 503.", _BROKERS),
        },
    ),
    Group(
        "Broadcaster",
        {
            "assigned": Event("Kafka assigned these partitions to this broadcaster."),
            "taken_over": Event("This broadcaster owns a partition now and numbers its rooms on."),
            "partition_dropped": Event("This broadcaster gave a partition up; another one, or the same, takes it over."),
            "partition_refused": Event(
                "A partition cannot be taken over, since a later version wrote to its log; it is tried again.",
                "Start broadcasters of the later version.",
            ),
            "partition_failed": Event("A partition failed by a defect; it is taken over again.", _KEEP),
            "history_lost": Event(
                "A partition, or rooms of it, began again with a new epoch: what they needed was gone or unusable.",
                "[Runbook](runbooks.md#historylost).",
            ),
            "history_unreadable": Event(
                "A part of the log is of no use for a take-over.", "[Runbook](runbooks.md#historylost)."
            ),
            "snapshot_unreadable": Event("A snapshot cannot be used for a take-over.", "[Runbook](runbooks.md#historylost)."),
            "snapshot_too_large": Event(
                "The partition has too many rooms for a snapshot; none is written.",
                "Lower `LIVEROOM_MAX_PARTITION_ROOMS`.",
            ),
            "room_lost": Event("A room began again with a new epoch.", "[Runbook](runbooks.md#historylost)."),
            "uplink_lost": Event(
                "Kafka no longer has interactions that were not numbered yet; they are lost.",
                "Check the retention of `uplink` and the brokers' disks.",
            ),
            "uplink_unread": Event("A fetch of interactions failed; it is tried again.", _BROKERS),
            "uplink_place_unknown": Event("Where to go on in `uplink` could not be asked; it is tried again.", _BROKERS),
            "uplink_reader_restarted": Event("The client that reads `uplink` hung, and a new one takes its place.", _BROKERS),
            "unsettled": Event("At its end the broadcaster could not write all it had; the next owner reads it from the log."),
            "not_looked": Event("The second's look at the partitions failed; it is tried again.", _BROKERS),
            "presence_unread": Event("Counts of viewers could not be read; none are published until they are.", _BROKERS),
            "sender_late": Event(
                "A program (`via`) wrote a record to `uplink` so long after the record's own time.",
                "See that program: its clock is wrong, or it writes late.",
            ),
            "dead_letter": Event(
                "A record of `uplink` cannot be used and is a dead letter now.",
                "Find its writer: the letter has topic, partition and offset ([runbook](runbooks.md#deadletters)).",
            ),
        },
    ),
    Group(
        "Gateway",
        {
            "draining": Event("The gateway admits nobody more and moves its viewers away."),
            "ordered": Event("An order of the pool: written (autoscaler) or obeyed (gateway)."),
            "load_unreported": Event(
                "A load report was not written. After 3 s without one the gateway gets no new viewers.", _BROKERS
            ),
            "presence_unreported": Event("A count of viewers was not written; it is sent again.", _BROKERS),
            "pull_failed": Event("Messages that a viewer missed could not be read; it asks again.", _BROKERS),
            "room_part_failed": Event("A room's part of a batch could not be pushed; other rooms got theirs.", _KEEP),
            "room_part_left_out": Event("A newcomer did not get a part of a room that cannot be read; it pulls it.", _KEEP),
            "no_descriptors": Event(
                "The process has no file descriptors left, and accepts nobody for a moment.", "Raise the limit of open files."
            ),
        },
    ),
    Group(
        "Autoscaler",
        {
            "leading": Event("This autoscaler decides from now on."),
            "following": Event("Another autoscaler decides, or none."),
            "no_election": Event("The election cannot be held; gateways keep working.", "Look at the brokers."),
            "decided": Event("The pool should have another size; `reason`, `detail`: why; `done`: whether it was acted on."),
            "order_unsent": Event("An order could not be written; the next round tries again.", _BROKERS),
            "grown": Event("Gateways were started."),
            "leaving": Event("A gateway drains and will be stopped."),
            "gateway_started": Event("A gateway's process was started."),
            "gateway_stopped": Event("A gateway's process was told to end."),
            "gateway_crashed": Event(
                "A gateway's process ended by itself, or could not be started; it starts again after a pause.",
                "Read the log of that gateway, in the folder of the pool.",
            ),
            "gateways_found": Event("These gateways of an earlier autoscaler run on."),
            "gateway_file_not_usable": Event("A file about a gateway cannot be read; the pool no longer has that gateway."),
            "share_not_given": Event("The limits of a gateway's process could not be set."),
            "scaled": Event("The replicas of the Deployment were changed."),
            "scale_in_waits": Event("Emptied gateways stay for now; `why` says what must come first."),
            "scale_in_goes_on": Event("Nothing holds up the removal of emptied gateways any more."),
            "emptied_pods_went": Event("The pods that went were those that had drained."),
            "wrong_pods_went": Event(
                "Pods went that had not drained; their viewers came back elsewhere.", "[Runbook](runbooks.md#wrongpodswent)."
            ),
            "scaled_by_somebody_else": Event(
                "Something else changed the replicas of the Deployment.", "Remove the other scaler (HPA, KEDA)."
            ),
            "kubernetes_failed": Event("A call of the Kubernetes API failed.", "[Runbook](runbooks.md#autoscalerblind)."),
            "kubernetes_answers": Event("The Kubernetes API answers again."),
            "advising": Event("The port for KEDA listens."),
            "advises": Event("The demand is known again, or no longer; `why` says which."),
        },
    ),
    Group(
        "Canary and clients",
        {
            "canary_at": Event("A viewer watches this gateway from now on."),
            "canary_not_sent": Event("A gift of the canary was not accepted.", "See the ingress."),
            "canary_lost": Event("A gift of the canary did not arrive.", "[Runbook](runbooks.md#canaryloss)."),
            "canary_disordered": Event("A gift of the canary arrived out of order.", "[Runbook](runbooks.md#canaryloss)."),
            "no_answer": Event("A service does not answer the canary.", "See that service."),
            "no_gateway": Event("No connection to this gateway; the client tries the next one."),
            "pull_refused": Event("A gateway refused a pull."),
        },
    ),
)
EVENTS: Final = {name: event for group in GROUPS for name, event in group.events.items()}

_TOKENS: Final = "Ask whoever issues the tokens; `detail` names the claim."
_CLIENT: Final = "The client's request is wrong: its developer finds the reason in `detail` of the answer."
_HOST: Final = "A host's decision: `GET /v1/rooms/{room}` shows the room's state."
_SLOWER: Final = "The limit holds. If it meets honest users, raise it ([settings](settings.md))."

# What whoever operates the system does about a refusal, by its code.
TODO: Final[dict[Code, str]] = {
    Code.BAD_REQUEST: _CLIENT,
    Code.BODY_LATE: "The sender's network is slow, or somebody holds connections open.",
    Code.BAD_JSON: _CLIENT,
    Code.SCHEMA: _CLIENT,
    Code.TOO_LARGE: _CLIENT,
    Code.PACKAGE_TOO_LARGE: _CLIENT,
    Code.UNSUPPORTED_MEDIA_TYPE: _CLIENT,
    Code.NOT_FOUND: "A wrong path, or what it names is not there (any more).",
    Code.METHOD_NOT_ALLOWED: _CLIENT,
    Code.ROOM_INVALID: _CLIENT,
    Code.ROOM_DISSOLVED: "A host or an operator dissolved the room; an operator may reopen it.",
    Code.TOKEN_MISSING: "The page sends no token: its log-in failed, or guests may not do this (`LIVEROOM_GUESTS`).",
    Code.TOKEN_INVALID: f"{_TOKENS} If it meets everybody, the keys of the service are not the issuer's.",
    Code.TOKEN_EXPIRED: "The page did not renew its token, or a clock is wrong: compare the issuer's with the service's.",
    Code.REVOKED: "An operator revoked it (`liveroom revoke --list`); the user logs in again.",
    Code.FORBIDDEN: "The role, or the rooms of the token, do not permit it; `detail` says which.",
    Code.MUTED: _HOST,
    Code.BANNED: _HOST,
    Code.KICKED: _HOST,
    Code.ROOM_MUTED: _HOST,
    Code.FOLLOWERS_ONLY: f"{_HOST} A follower's token has the claim `follower`.",
    Code.SUBSCRIBERS_ONLY: f"{_HOST} A subscriber's token has the claim `subscriber`.",
    Code.NO_MEDIA: _HOST,
    Code.WORDS: "A listed word; the lists are the room's, the operators' and those of `LIVEROOM_WORD_FILES`.",
    Code.REVIEW: "The review service refused it, or does not answer (`review_off`).",
    Code.RATE_USER: _SLOWER,
    Code.RATE_ROOM: _SLOWER,
    Code.RATE_ADDRESS: "See the runbook [AddressesRefused](runbooks.md#addressesrefused): often a proxy that is not listed.",
    Code.SLOW_MODE: _HOST,
    Code.QUEUE_UNAVAILABLE: "See the runbook [IngressRefusesForKafka](runbooks.md#ingressrefusesforkafka).",
    Code.NOT_READY: "The service is starting, or has lost Kafka: `/readyz` names the reason.",
    Code.NO_GATEWAY: "See the runbook [NobodyHasRoom](runbooks.md#nobodyhasroom).",
    Code.DRAINING: "Nothing: the viewer takes another gateway.",
    Code.FULL: "Nothing where others have capacity; otherwise let the pool grow ([pool](pool.md)).",
    Code.TICKET_INVALID: "Nothing after a restart of the gateway. Otherwise the keys of scheduler and gateway differ.",
    Code.TICKET_EXPIRED: "The viewer took over a minute to connect, or a clock is wrong.",
    Code.TICKET_USED: "A client that uses a ticket again and again; the viewer asks for a new one.",
    Code.ORIGIN: "Add the page's origin (`detail`) to `LIVEROOM_ORIGINS` of the gateways.",
    Code.UPGRADE_REQUIRED: "A proxy before the gateway does not pass on the upgrade, or somebody opened the URL by hand.",
    Code.TOO_MANY_ROOMS: _SLOWER,
    Code.NOT_IN_ROOM: _CLIENT,
    Code.UNKNOWN_FRAME: "A newer client, or a wrong one.",
    Code.LIMIT: "Remove what is no longer needed; `detail` says how many there may be.",
    Code.INTERNAL: "A defect: the line `request_failed` with the same `request_id` has the traceback.",
}
