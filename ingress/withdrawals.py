"""Withdraws the records of rules that are over from the topic `moderation`.

Owns the pace, and the writing. Writes again what holds where the topic's last record is another:
somebody set a rule while its key was withdrawn, or lifted one while it was repeated. Which rules,
and when, is up to `ingress.ended_rules`. What fails is counted, logged and tried again later.
Called by the reader of the rules and by `__main__`.
"""

import asyncio
from typing import Final

import msgspec
import structlog

from ingress.ended_rules import SPREAD_MS, EndedRules
from ingress.log import LogWriter
from liveroom import clock, metric_catalog
from liveroom.chance import Chance
from liveroom.kafka import UnsentError
from liveroom.moderation import Rules
from liveroom.records.codec import encode_json
from liveroom.records.control import Moderation, record_of
from liveroom.registry import Metrics
from liveroom.topics import MODERATION

CHECK_S: Final = 1.0
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
        self._failed = metrics.counter(metric_catalog.RULES_NOT_WITHDRAWN)
        self._number = metrics.gauge(metric_catalog.RULES_ENDED)

    def on_rule(self, rule: Moderation) -> None:
        """Note a record of the topic."""
        self._ended.note(rule, clock.unix_ms(), self._chance.randrange(SPREAD_MS))

    def on_lost(self, key: str) -> None:
        """Note that the topic's last record of a key is not what holds."""
        self._ended.lost(key.encode(), clock.unix_ms(), self._chance.randrange(SPREAD_MS))

    def on_withdrawn(self, key: str) -> None:
        """Note a withdrawal of a rule that is over."""
        self._ended.withdrawn(key.encode())

    def on_bad(self, key: str) -> None:
        """Note a record in the topic that cannot be used here."""
        self._ended.unreadable(key.encode())

    async def run(self) -> None:
        """Withdraw rules for ever, as they become due."""
        while True:
            await clock.sleep(CHECK_S)
            if not self._rules.are_read:
                continue
            try:
                await self.check()
            except Exception:  # rules that stay too long are better than an ingress that ends
                self._failed.inc()
                log.exception("withdrawals_failed")

    async def check(self) -> None:
        """Write what is due now, together."""
        now_ms = clock.unix_ms()
        over = [key for key in self._ended.due(now_ms) if not self._rules.withdraw(key.decode(), now_ms)]
        await asyncio.gather(
            *(self._withdraw(key, now_ms) for key in over),
            *(self._repeat(key, now_ms) for key in self._ended.to_repeat(now_ms)),
        )
        self._number.set(len(self._ended))

    async def _withdraw(self, key: bytes, now_ms: int) -> None:
        """Write a withdrawal of a rule that was over a moment ago."""
        if await self._is_written(key, None):
            self._withdrawn.inc()
        else:
            self._ended.failed(key, now_ms)

    async def _repeat(self, key: bytes, now_ms: int) -> None:
        """Write what holds, unless its own record was written just now and is still to be read."""
        state = self._rules.state(key.decode(), now_ms)
        if state is None or state.version is None:
            return
        record = msgspec.structs.replace(record_of(state.rule), repeats=state.version)
        if await self._is_written(key, encode_json(record)):
            self._repeated.inc()

    async def _is_written(self, key: bytes, value: bytes | None) -> bool:
        try:
            await self._writer.put(MODERATION, key, value)
        except UnsentError as error:
            self._failed.inc()
            log.warning("rule_not_withdrawn" if value is None else "rule_not_repeated", error=str(error))
            return False
        return True
