"""Withdraws the records of rules that are over from the topic `moderation`.

Owns the pace. Writes a rule again that somebody set while its key was withdrawn. Which rules, and
when, is up to `ingress.ended_rules`. A record that is not acknowledged is tried again later. Called
by the reader of the rules and by `__main__`.
"""

from typing import Final

import structlog

from ingress.ended_rules import SPREAD_MS, EndedRules
from ingress.log import LogWriter
from liveroom import clock, metric_catalog
from liveroom.chance import Chance
from liveroom.kafka import UnsentError
from liveroom.moderation import Rules, key_of
from liveroom.records.codec import encode_json
from liveroom.records.control import Moderation, host_record
from liveroom.registry import Metrics
from liveroom.topics import MODERATION

CHECK_S: Final = 1.0
PER_CHECK: Final = 20
log = structlog.get_logger()


class Withdrawals:
    """The withdrawals of one ingress."""

    def __init__(self, writer: LogWriter, rules: Rules, metrics: Metrics, chance: Chance) -> None:
        self._writer = writer
        self._rules = rules
        self._chance = chance
        self._ended = EndedRules()
        self._withdrawn = metrics.counter(metric_catalog.RULES_WITHDRAWN)
        self._repeated = metrics.counter(metric_catalog.RULES_REPEATED)
        self._number = metrics.gauge(metric_catalog.RULES_ENDED)

    def on_rule(self, rule: Moderation) -> None:
        """Note a record of the topic."""
        self._ended.note(rule, clock.unix_ms(), self._chance.randrange(SPREAD_MS))

    def on_withdrawn(self, key: str, held: Moderation | None) -> None:
        """Note a withdrawal in the topic, and the rule that holds nevertheless."""
        self._ended.withdrawn(key.encode(), held, clock.unix_ms(), self._chance.randrange(SPREAD_MS))

    def on_bad(self, key: str) -> None:
        """Note a record in the topic that cannot be used here."""
        self._ended.unreadable(key.encode())

    async def run(self) -> None:
        """Withdraw rules for ever, as they become due."""
        while True:
            await clock.sleep(CHECK_S)
            if self._rules.are_read:
                await self.check()

    async def check(self) -> None:
        """Write what is due now."""
        now_ms = clock.unix_ms()
        for key in self._ended.due(now_ms, PER_CHECK):
            if self._rules.withdraw(key.decode(), now_ms) is None:  # else it was set a moment ago
                await self._withdraw(key, now_ms)
        for rule in self._ended.to_repeat(now_ms):
            try:
                await self._writer.put(MODERATION, key_of(rule), encode_json(host_record(rule)))
            except UnsentError as error:
                log.warning("rule_not_repeated", error=str(error))
            else:
                self._repeated.inc()
        self._number.set(len(self._ended))

    async def _withdraw(self, key: bytes, now_ms: int) -> None:
        try:
            await self._writer.put(MODERATION, key, None)
        except UnsentError as error:
            self._ended.failed(key, now_ms)
            log.warning("rule_not_withdrawn", error=str(error))
        else:
            self._withdrawn.inc()
