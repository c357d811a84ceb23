"""Admits interactions: passes each through all checks, then writes it to `uplink`.

Owns the order of the checks: permissions, room policy, rate limits, slow mode, words, review. A
host is recorded as one (`hosts`) before its first interaction in a room is written. An interaction
is accepted once the log acknowledges it. Refuses with problems, also while too many interactions
wait for their acknowledgements. Called by `app`, with bodies already read.
"""

import asyncio
import operator
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import Final

import msgspec

from ingress.auto_moderation import AutoModeration
from ingress.hosts import HostRecords
from ingress.log import RETRY_AFTER_S, LogWriter, unsent, write
from ingress.permissions import check_sender
from ingress.rate_limits import RateLimits
from ingress.requests import Draft, DraftItem, to_record
from ingress.review import Reviewer, ReviewQuestion
from ingress.room_policy import RoomPolicy
from ingress.slow_mode import SlowMode
from ingress.word_builds import WordBuilds
from ingress.words import WordLibraries
from liveroom import clock, metric_catalog
from liveroom.errors import Code, ProblemError
from liveroom.kafka import Unsent, UnsentError
from liveroom.kinds import Kind, Role
from liveroom.records.control import WordAction
from liveroom.registry import Metrics
from liveroom.topics import UPLINK

_NEVER_WRITTEN: Final = frozenset({Unsent.CLOSED, Unsent.TOO_LARGE})


class SendOutcome(Enum):
    """The outcome of a request to send.

    UNKNOWN: no acknowledgement came, so it may or may not have been written.
    """

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


def outcome_of(problem: ProblemError) -> SendOutcome:
    """Return the outcome behind a refusal: UNKNOWN where the log may have written all the same."""
    cause = problem.__cause__
    if isinstance(cause, UnsentError) and cause.reason not in _NEVER_WRITTEN:
        return SendOutcome.UNKNOWN
    return SendOutcome.REFUSED


class Admission:
    """Admits or refuses interactions.

    `max_waiting`: how many may wait for their acknowledgements at once. `may_claim`: whether
    viewers may send what claims a payment (`permissions.Interaction.claimed_by`).
    """

    def __init__(
        self,
        policy: RoomPolicy,
        limits: RateLimits,
        slow_mode: SlowMode,
        words: WordLibraries,
        auto_moderation: AutoModeration,
        reviewer: Reviewer,
        hosts: HostRecords,
        writer: LogWriter,
        metrics: Metrics,
        *,
        max_waiting: int,
        may_claim: bool,
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._slow_mode = slow_mode
        self._words = words
        self._builds = WordBuilds(words)
        self._auto_moderation = auto_moderation
        self._reviewer = reviewer
        self._hosts = hosts
        self._writer = writer
        self._max_waiting = max_waiting
        self._may_claim = may_claim
        self._hits = {action: metrics.counter(metric_catalog.WORD_HITS, action.value) for action in WordAction}

    async def admit(self, draft: Draft) -> tuple[Draft, int]:
        """Admit an interaction, or raise the refusal.

        Returns, after the acknowledgement, the interaction as written and its time in Unix ms.
        """
        now_s, now_ms = clock.monotonic_s(), clock.unix_ms()
        room, user, interactions = draft.room, draft.user, draft.interactions
        check_sender(user, room, interactions, may_claim=self._may_claim)
        for interaction in interactions:
            self._policy.check(interaction, room, user, now_ms)
        self._take_rates(draft, now_s)
        took_turn = self._slow_mode.take_turn(interactions, room, user, now_s)
        try:
            await self._builds.prepare(room)
            draft = self._filtered(draft, now_s)
            if self._reviewer.is_on:
                draft = await self._reviewed(draft)
            await self._hosts.note(room, user)
            await self._write(draft, to_record(draft, now_ms))
        except ProblemError:
            if took_turn:
                self._slow_mode.give_back_turn(room, user)
            raise
        return draft, now_ms

    async def admit_many(self, drafts: Sequence[Draft]) -> list[Draft | ProblemError]:
        """Admit what a service publishes for users; rates and slow mode do not apply.

        Returns, in order, each interaction as written or its refusal.
        """
        now_s, now_ms = clock.monotonic_s(), clock.unix_ms()
        if self._writer.waiting + len(drafts) > self._max_waiting:
            return [ProblemError(Code.QUEUE_UNAVAILABLE, "too many interactions are waiting", RETRY_AFTER_S)] * len(drafts)
        outcomes = [await self._checked_one_of_many(draft, now_s, now_ms) for draft in drafts]
        if self._reviewer.is_on:
            outcomes = await asyncio.gather(*map(self._reviewed_one_of_many, outcomes))
        places: list[int] = []
        records: list[tuple[bytes, bytes]] = []
        for place, draft in enumerate(outcomes):
            if isinstance(draft, Draft):
                try:
                    records.append((draft.room.encode(), to_record(draft, now_ms)))
                    places.append(place)
                except ProblemError as problem:
                    outcomes[place] = problem
        for place, error in zip(places, await self._write_many(records), strict=True):
            if error is not None:
                outcomes[place] = unsent(error)
        return outcomes

    async def _checked_one_of_many(self, draft: Draft, now_s: float, now_ms: int) -> Draft | ProblemError:
        try:
            for interaction in draft.interactions:
                self._policy.check(interaction, draft.room, draft.user, now_ms)
            await self._builds.prepare(draft.room)
            return self._filtered(draft, now_s)
        except ProblemError as problem:
            return problem

    async def _reviewed_one_of_many(self, draft: Draft | ProblemError) -> Draft | ProblemError:
        if isinstance(draft, ProblemError):
            return draft
        try:
            return await self._reviewed(draft)
        except ProblemError as problem:
            return problem

    # ---- the steps
    def _take_rates(self, draft: Draft, now_s: float) -> None:
        """Take the rates. A package counts as one package and as each of its items."""
        self._limits.take(draft.name, draft.room, draft.user, now_s)
        if draft.package:
            for kind, count in Counter(interaction.kind.value for interaction in draft.interactions).items():
                self._limits.take(kind, draft.room, draft.user, now_s, count)

    def _filtered(self, draft: Draft, now_s: float) -> Draft:
        """Return the draft with forbidden words masked, or refuse it."""
        items = [self._filtered_item(draft, item, now_s) if _is_judged(draft, item) else item for item in draft.items]
        return _with_items(draft, items)

    def _filtered_item(self, draft: Draft, item: DraftItem, now_s: float) -> DraftItem:
        verdict = self._words.judge(draft.room, item.data.text)
        if verdict is None:
            return item
        self._hits[verdict.action].inc()
        self._auto_moderation.count(draft.room, draft.user, draft.id, verdict, now_s)
        if verdict.action is WordAction.REFUSE:
            raise ProblemError(Code.WORDS)
        return _with_text(item, verdict.text)

    async def _reviewed(self, draft: Draft) -> Draft:
        """Return the draft with the texts that the review allows, or refuse it."""
        items = [await self._reviewed_item(draft, item) if _is_judged(draft, item) else item for item in draft.items]
        return _with_items(draft, items)

    async def _reviewed_item(self, draft: Draft, item: DraftItem) -> DraftItem:
        user = draft.user
        question = ReviewQuestion(draft.room, draft.id, user.id, user.role.value, "danmaku", item.data.text)
        return _with_text(item, await self._reviewer.review(question))

    async def _write(self, draft: Draft, record: bytes) -> None:
        if self._writer.waiting >= self._max_waiting:
            raise ProblemError(Code.QUEUE_UNAVAILABLE, "too many interactions are waiting", RETRY_AFTER_S)
        await write(self._writer, UPLINK, draft.room.encode(), record)

    async def _write_many(self, records: Sequence[tuple[bytes, bytes]]) -> Sequence[UnsentError | None]:
        try:
            return await self._writer.put_many(UPLINK, records)
        except UnsentError as error:
            return [error] * len(records)


def _is_judged(draft: Draft, item: DraftItem) -> bool:
    """Return whether words and review apply: to danmaku, except to those of operators."""
    return item.interaction.kind is Kind.DANMAKU and draft.user.role is not Role.OPERATOR


def _with_text(item: DraftItem, text: str) -> DraftItem:
    return item if text == item.data.text else item._replace(data=msgspec.structs.replace(item.data, text=text))


def _with_items(draft: Draft, items: list[DraftItem]) -> Draft:
    return draft if all(map(operator.is_, items, draft.items)) else draft._replace(items=items)
