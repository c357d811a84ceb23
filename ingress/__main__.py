"""Starts the ingress: `python -m ingress` (settings: `--help`). Owns the order of start and end."""

import asyncio
from collections.abc import Coroutine, Sized
from functools import partial
from typing import Any, Final, NamedTuple

from liveroom.extras import answer_version, explained

answer_version(__name__)
with explained("ingress"):
    import structlog

    from ingress.admission import Admission
    from ingress.announcements import AnnouncementService
    from ingress.app import App
    from ingress.auto_moderation import AutoModeration
    from ingress.ended_revocations import withdraw_ended
    from ingress.hosts import HostRecords
    from ingress.kafka import ACCESS, READY, KafkaLogWriter
    from ingress.log import LogWriter
    from ingress.moderation import ModerationService
    from ingress.moderation_api import ModerationApi
    from ingress.rate_limits import RateLimits, rates_of
    from ingress.review import Reviewer
    from ingress.revocation_api import RevocationApi
    from ingress.room_policy import RoomPolicy
    from ingress.room_status import RoomStatusService
    from ingress.slow_mode import SlowMode
    from ingress.user_connections import UserConnectionService
    from ingress.withdrawals import Withdrawals
    from ingress.words import WordLibraries, WordLibrary, read_library
    from liveroom import metric_catalog, service
    from liveroom.cluster_health import follow_cluster_health
    from liveroom.connections import allow_connections
    from liveroom.consumers import REVOCATIONS_READ, RULES_READ, follow_revocations, follow_rules
    from liveroom.files import Watched
    from liveroom.given_file import read_given_file
    from liveroom.kafka import with_kafka
    from liveroom.kafka_port import Kafka
    from liveroom.moderation import Rules
    from liveroom.records.control import Moderation, RuleKind, WordAction
    from liveroom.revocations import Revocations
    from liveroom.service import Runtime, public_connections
    from liveroom.settings import IngressSettings
    from liveroom.tokens import Verifier
    from liveroom.variables import nearest
    from liveroom.web import serve

_ANSWER_S: Final = 0.5  # for the answers after the last acknowledgement
log = structlog.get_logger()


def read_word_files(settings: IngressSettings) -> WordLibrary:
    """Return all word files as one library.

    Raises OSError or ValueError where a file cannot be used; both name it.
    """
    words: dict[str, WordAction] = {}
    for path in settings.word_files:
        words |= read_given_file(path, read_library)
    return WordLibrary(words)


class Parts(NamedTuple):
    """The parts of an ingress that its process serves, follows or closes."""

    app: App
    auto_moderation: AutoModeration
    announcements: AnnouncementService
    statuses: RoomStatusService
    reviewer: Reviewer
    withdrawals: Withdrawals
    connections: UserConnectionService

    async def close(self) -> None:
        """Close all parts. Call it when no request is under way any more."""
        for part in (self.auto_moderation, self.announcements, self.statuses, self.reviewer):
            await part.close()


def build(
    settings: IngressSettings,
    runtime: Runtime,
    kafka: Kafka,
    verifier: Verifier,
    rules: Rules,
    words: WordLibraries,
    revocations: Revocations,
    writer: LogWriter,
) -> Parts:
    """Return an ingress that checks by these rules, words and revocations, and writes with
    `writer`.

    Nothing runs yet.
    """
    metrics = runtime.metrics
    rates = rates_of(settings)
    for name in sorted(settings.rates.keys() - rates):
        log.warning("unknown_setting", name=f"LIVEROOM_RATES, {name}", file=None, nearest=nearest(name, rates) or None)
    limits, slow_mode = RateLimits(rates), SlowMode(rules)
    moderation = ModerationService(writer, rules, metrics)
    auto_moderation = AutoModeration(settings, rules, moderation)
    reviewer = Reviewer(settings, metrics)
    policy, hosts = RoomPolicy(rules), HostRecords(writer, rules)
    admission = Admission(
        policy,
        limits,
        slow_mode,
        words,
        auto_moderation,
        reviewer,
        hosts,
        writer,
        metrics,
        max_waiting=settings.max_waiting,
        may_claim=settings.viewers_may_claim_payment,
    )
    announcements = AnnouncementService(kafka, settings, writer, runtime)
    statuses = RoomStatusService(kafka, settings, writer, rules, metrics)
    api = ModerationApi(moderation, limits, rules, policy, hosts, statuses, announcements)
    tables: dict[str, Sized] = {
        "rates": limits,
        "slow_mode": slow_mode,
        "offences": auto_moderation,
        "word_libraries": words,
        "room_status": statuses,
        "watched_rooms": announcements,
        "tokens": verifier,
    }
    for name, table in tables.items():
        metrics.follow(metric_catalog.NAMES, table.__len__, name)
    metrics.follow(metric_catalog.NAMES, lambda: rules.remembered, "commands")
    metrics.follow(metric_catalog.NAMES, lambda: rules.lifted, "lifted_rules")
    connections = UserConnectionService(kafka, writer, runtime)
    revoking = RevocationApi(settings, writer, revocations, moderation, limits, connections)
    app = App(settings, verifier, admission, api, revoking, runtime)
    withdrawals = Withdrawals(writer, rules, metrics, runtime.chance)
    return Parts(app, auto_moderation, announcements, statuses, reviewer, withdrawals, connections)


async def _after(connected: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    try:
        await connected.wait()
    except asyncio.CancelledError:
        work.close()
        raise
    await work


async def run(settings: IngressSettings, runtime: Runtime, kafka: Kafka) -> None:
    """Serve until `runtime.stopping` is set, then stop accepting, answer open requests, close.

    An open request takes at most the time-out of an acknowledgement. The port is open at once:
    while Kafka is away requests get 503 and `/readyz` reports the reason.
    """
    allow_connections(settings.http.max_open)
    revocations = Revocations()
    token_keys = Watched([settings.token_keys_file], settings.read_token_keys)
    word_files = Watched(settings.word_files, partial(read_word_files, settings))
    verifier = Verifier(await token_keys.first(), settings.token_leeway_s, settings.token_life_s, revocations)
    rules, writer = Rules(), KafkaLogWriter(kafka, settings, runtime)
    words = WordLibraries(rules.words)
    words.use_files(await word_files.first())
    parts = build(settings, runtime, kafka, verifier, rules, words, revocations, writer)
    if settings.viewers_may_claim_payment:
        log.warning("viewers_may_claim_payment", then="nobody checks that gifts, red packets and coupons were paid for")

    withdrawals = parts.withdrawals

    def on_rule(rule: Moderation) -> None:
        withdrawals.on_rule(rule)
        if rule.kind is RuleKind.WORD:
            words.changed(rule.room)

    following = follow_rules(kafka, rules, runtime, on_rule, withdrawals.on_lost, withdrawals.on_withdrawn, withdrawals.on_bad)
    async with asyncio.TaskGroup() as tasks:
        working = [
            tasks.create_task(writer.watch()),
            tasks.create_task(_after(writer.connected, following)),
            tasks.create_task(_after(writer.connected, withdrawals.run())),
            tasks.create_task(_after(writer.connected, parts.announcements.follow_presence())),
            tasks.create_task(
                _after(writer.connected, parts.announcements.follow_gateways(parts.connections.gateways_reported))
            ),
            tasks.create_task(_after(writer.connected, parts.connections.follow_reports())),
            tasks.create_task(_after(writer.connected, follow_revocations(kafka, revocations, runtime))),
            tasks.create_task(_after(writer.connected, withdraw_ended(writer, revocations))),
            tasks.create_task(_after(writer.connected, follow_cluster_health(kafka, ACCESS.topics, runtime.metrics))),
            tasks.create_task(token_keys.watch(verifier.use)),
            tasks.create_task(word_files.watch(words.use_files)),
        ]
        drain_s = settings.ack_timeout_s + _ANSWER_S
        connections = public_connections(settings, runtime)
        async with serve(
            parts.app.web,
            settings.host,
            settings.port,
            loopback=settings.loopback,
            shutdown_timeout_s=drain_s,
            connections=connections,
        ) as (_, port):
            log.info("listening", port=port)
            await runtime.stopping.wait()
            log.info("stopping", waiting=writer.waiting)
        for task in working:
            task.cancel()
    await parts.close()
    await writer.stop()


if __name__ == "__main__":
    service.main(
        "ingress",
        IngressSettings,
        with_kafka(run),
        READY,
        RULES_READ,
        REVOCATIONS_READ,
    )
