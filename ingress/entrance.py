"""What is done with every interaction that wants in: the checks in their order, the queue, 202.

Owns the order: form and role (`checks`), the room's state, mutes, bans and rates (`gate`), words, review, then `uplink`.
Refuses with problems; lets the system mute who offends again and again. Called by `app`, with bodies already read.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import msgspec
import structlog

from ingress import checks
from ingress.actions import Act
from ingress.checks import Body, Draft, Outcome
from ingress.desk import SYSTEM, Desk, Queue, Request
from ingress.gate import Gate, Rate
from ingress.review import Question, Reviewer
from ingress.words import Libraries, Offences, WordAction
from liveroom import metrics
from liveroom.errors import Code, ProblemError
from liveroom.kafka import Unsent, UnsentError
from liveroom.kinds import Kind, Role
from liveroom.moderation import Rules
from liveroom.records import RoomChange
from liveroom.service import Metrics
from liveroom.settings import OTHER_RATE, USUAL_RATES, IngressSettings
from liveroom.topics import UPLINK

RETRY_AFTER_S: Final = 1.0
_NEVER_WRITTEN: Final = frozenset({Unsent.CLOSED, Unsent.TOO_LARGE})
log = structlog.get_logger()


def rates_of(settings: IngressSettings) -> dict[str, Rate]:
    """Return the rates by kind, `package` and `act`."""
    names = [*(route.name for route in checks.ROUTES), "act"]
    chosen = {name: settings.rates.get(name) or USUAL_RATES.get(name) or OTHER_RATE for name in names}
    return {name: Rate(rate.user_per_s, rate.user_burst, rate.room_per_s) for name, rate in chosen.items()}


class Entrance:
    """All that interactions pass."""

    def __init__(
        self, settings: IngressSettings, queue: Queue, rules: Rules, libraries: Libraries, reviewer: Reviewer, made: Metrics
    ) -> None:
        self.gate = Gate(rules, rates_of(settings))
        self.queue = queue
        self.desk = Desk(queue, rules, made)
        self._rules = rules
        self._libraries = libraries
        self._reviewer = reviewer
        self._max_waiting = settings.max_waiting
        self._mute_s = settings.word_mute_s
        self._offenders = Offences(settings.word_mute_hits, settings.word_window_s)
        self._offended = Offences(settings.word_media_hits, settings.word_window_s)
        self._hits = {action: made.counter(metrics.WORD_HITS, action.value) for action in WordAction}
        self._by_itself: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End what the system does by itself."""
        await asyncio.gather(*self._by_itself, return_exceptions=True)

    async def enter(self, name: str, draft: Draft) -> tuple[Draft, int]:
        """Let an interaction in: return it as it was written, and when, after the ack; raise the refusal."""
        now_s, now_ms = time.monotonic(), time.time_ns() // 1_000_000
        gate, room, user = self.gate, draft.room, draft.user
        interactions = [body.interaction for body in draft.bodies]
        for interaction in interactions:
            gate.check_states(interaction, room, user, now_ms)
        gate.check_rates(name, room, user, now_s)
        if draft.package:
            for kind, count in Counter(interaction.kind.value for interaction in interactions).items():
                gate.check_rates(kind, room, user, now_s, count)
        is_turn = gate.take_turn(interactions, room, user, now_s)
        try:
            draft = await self._read_through(draft, now_s)
            await self._put(draft, checks.encode(draft, now_ms))
        except ProblemError:
            if is_turn:
                gate.give_back_turn(room, user)  # it may be tried again
            raise
        return draft, now_ms

    async def enter_many(self, drafts: Sequence[Draft]) -> list[Draft | ProblemError]:
        """Let in what a service publishes for users: their rooms' states, bans, mutes and words count, rates do not.

        Return of each what was written, or why it was not.
        """
        now_s, now_ms = time.monotonic(), time.time_ns() // 1_000_000
        if self.queue.waiting + len(drafts) > self._max_waiting:
            return [ProblemError(Code.QUEUE_UNAVAILABLE, "too many are waiting", RETRY_AFTER_S)] * len(drafts)
        outcomes: list[Draft | ProblemError] = [self._checked(draft, now_s, now_ms) for draft in drafts]
        if self._reviewer.is_on:
            outcomes = await asyncio.gather(*map(self._outcome_of_review, outcomes))
        places: list[int] = []
        records: list[tuple[bytes, bytes]] = []
        for place, draft in enumerate(outcomes):
            if isinstance(draft, Draft):
                try:
                    records.append((draft.room.encode(), checks.encode(draft, now_ms)))
                    places.append(place)
                except ProblemError as problem:
                    outcomes[place] = problem
        for place, error in zip(places, await self._put_many(records), strict=True):
            if error is not None:
                outcomes[place] = _unsent(error)
        return outcomes

    async def _put(self, draft: Draft, value: bytes) -> None:
        if self.queue.waiting >= self._max_waiting:
            raise ProblemError(Code.QUEUE_UNAVAILABLE, "too many are waiting", RETRY_AFTER_S)
        try:
            await self.queue.put(UPLINK, draft.room.encode(), value)
        except UnsentError as error:
            raise _unsent(error) from error

    async def _put_many(self, records: Sequence[tuple[bytes, bytes]]) -> Sequence[UnsentError | None]:
        try:
            return await self.queue.put_many(UPLINK, records)
        except UnsentError as error:
            return [error] * len(records)

    def _checked(self, draft: Draft, now_s: float, now_ms: int) -> Draft | ProblemError:
        """Return one item of many as state and words let it through."""
        (body,) = draft.bodies
        try:
            self.gate.check_states(body.interaction, draft.room, draft.user, now_ms)
            judged = self._judged(draft, body, now_s)
        except ProblemError as problem:
            return problem
        return draft if judged is body else draft._replace(bodies=(judged,))

    async def _outcome_of_review(self, draft: Draft | ProblemError) -> Draft | ProblemError:
        if isinstance(draft, ProblemError):
            return draft
        try:
            return draft._replace(bodies=[await self._reviewed(draft, body) for body in draft.bodies])
        except ProblemError as problem:
            return problem

    # ---- words and review
    async def _read_through(self, draft: Draft, now_s: float) -> Draft:
        """Return it as words and review let it through."""
        bodies = [self._judged(draft, body, now_s) for body in draft.bodies]
        if self._reviewer.is_on:
            bodies = [await self._reviewed(draft, body) for body in bodies]
        return draft if bodies == draft.bodies else draft._replace(bodies=bodies)

    def _judged(self, draft: Draft, body: Body, now_s: float) -> Body:
        """Return a danmaku as the words let it through."""
        if body.interaction.kind is not Kind.DANMAKU or draft.user.role is Role.OPERATOR:
            return body
        text: str = body.data.text
        verdict = self._libraries.judge(draft.room, text)
        if verdict is None:
            return body
        self._hits[verdict.action].inc()
        self._offend(draft, verdict.action, verdict.words, now_s)
        if verdict.action is WordAction.REFUSE:
            raise ProblemError(Code.WORDS)
        return body if verdict.text == text else body._replace(data=msgspec.structs.replace(body.data, text=verdict.text))

    async def _reviewed(self, draft: Draft, body: Body) -> Body:
        if body.interaction.kind is not Kind.DANMAKU or draft.user.role is Role.OPERATOR:
            return body
        user, text = draft.user, body.data.text
        now = await self._reviewer.review(Question(draft.room, draft.id, user.id, user.role.value, "danmaku", text))
        return body if now == text else body._replace(data=msgspec.structs.replace(body.data, text=now))

    # ---- what the system does by itself
    def _offend(self, draft: Draft, action: WordAction, words: Sequence[str], now_s: float) -> None:
        room, user, what = draft.room, draft.user.id, {"words": list(words), "message": draft.id}
        if self._offenders.add((room, user), now_s):
            until_ms = time.time_ns() // 1_000_000 + self._mute_s * 1000
            request = Request(room, SYSTEM, f"words:{draft.id}"[:64], "forbidden words", what)
            self._do(self.desk.sanction(Act.MUTE, request, user, until_ms))
        if action is WordAction.REFUSE and not self._rules.settings(room).no_media and self._offended.add((room,), now_s):
            request = Request(room, SYSTEM, f"media:{draft.id}"[:64], "too many refused texts", what)
            self._do(self.desk.set_modes(request, RoomChange(no_media=True)))

    def _do(self, work: Coroutine[Any, Any, object]) -> None:
        async def done() -> None:
            try:
                await work
            except ProblemError as error:
                log.warning("not_moderated", error=str(error))

        task = asyncio.create_task(done())
        self._by_itself.add(task)
        task.add_done_callback(self._by_itself.discard)


def _unsent(error: UnsentError) -> ProblemError:
    problem = ProblemError(Code.QUEUE_UNAVAILABLE, retry_after_s=RETRY_AFTER_S)
    problem.__cause__ = error
    return problem


def outcome_of(problem: ProblemError) -> Outcome:
    """Return what a refusal means: without an ack in time it may have been written all the same."""
    cause = problem.__cause__
    if isinstance(cause, UnsentError) and cause.reason not in _NEVER_WRITTEN:
        return Outcome.UNKNOWN
    return Outcome.REFUSED
