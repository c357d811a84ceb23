"""What the system does by itself about forbidden words: once the last one of so many is there, and
in the background.
"""

import json

from ingress.auto_moderation import AutoModeration
from ingress.moderation import MAX_SANCTIONS, CommandContext, ModerationService
from ingress.permissions import Command
from ingress.words import WordVerdict
from liveroom.kafka import Unsent, UnsentError
from liveroom.kinds import Role
from liveroom.moderation import FOR_GOOD, Rules
from liveroom.records.control import Moderation, RuleKind, WordAction
from liveroom.registry import Metrics
from liveroom.tickets import User
from liveroom.topics import AUDIT, MODERATION
from tests.ingress.harness import FakeLogWriter, settings_of

MASKED = WordVerdict(WordAction.MASK, "a ****", ("darn",))
REFUSED = WordVerdict(WordAction.REFUSE, "a ****", ("spam",))


class Watched:
    """A room whose words are counted: three of a user, or four refused ones in all, within 10 s."""

    def __init__(self) -> None:
        self.writer, self.rules = FakeLogWriter(), Rules()
        settings = settings_of(word_mute_hits=3, word_media_hits=4, word_window_s=10, word_mute_s=60)
        self.moderation = ModerationService(self.writer, self.rules, Metrics("ingress"))
        self.auto_moderation = AutoModeration(settings, self.rules, self.moderation)

    def count(self, user: str, verdict: WordVerdict, now_s: float, role: Role = Role.VIEWER) -> None:
        self.auto_moderation.count("r", User(user, role), f"m{now_s}", verdict, now_s)

    def is_muted(self, user: str) -> bool:
        return self.rules.muted("r", user, 0) is not None


async def test_who_offends_so_many_times_is_muted_for_a_while() -> None:
    watched = Watched()
    for now_s in (0, 1):
        watched.count("u", MASKED, now_s)
    watched.count("v", MASKED, 1)
    await watched.auto_moderation.close()
    assert watched.writer.written == []
    watched.count("u", MASKED, 2)
    await watched.auto_moderation.close()
    assert [watched.is_muted(user) for user in ("u", "v")] == [True, False]
    rule = watched.rules.muted("r", "u", 0)
    assert rule is not None
    assert 50_000 < rule.until_ms - rule.at_ms <= 60_000
    assert [topic for topic, _, _ in watched.writer.written].count(MODERATION) == 1
    (audit,) = [json.loads(value or b"") for topic, _, value in watched.writer.written if topic is AUDIT]
    assert (audit["by"], audit["target"], audit["what"]["words"]) == ("system", "u", ["darn"])


async def test_a_streamer_is_not_muted_in_the_own_room() -> None:
    watched = Watched()
    for now_s in range(3):
        watched.count("star", MASKED, now_s, Role.STREAMER)
        watched.count("mod", MASKED, now_s, Role.MODERATOR)
    await watched.auto_moderation.close()
    assert [watched.is_muted(user) for user in ("star", "mod")] == [False, True]


async def test_a_room_with_so_many_refused_texts_takes_no_media_any_more() -> None:
    watched = Watched()
    for number in range(4):
        watched.count(f"u{number}", MASKED, number)
    for number in range(4):
        watched.count(f"w{number}", REFUSED, number)
    await watched.auto_moderation.close()
    assert watched.rules.settings("r").no_media
    written = len(watched.writer.written)
    for number in range(4):
        watched.count(f"x{number}", REFUSED, number)
    await watched.auto_moderation.close()
    assert len(watched.writer.written) == written, "it is so already"


async def test_what_the_log_does_not_take_harms_nobody() -> None:
    watched = Watched()
    watched.writer.error = UnsentError(Unsent.TIMEOUT)
    for now_s in range(3):
        watched.count("u", MASKED, now_s)
    await watched.auto_moderation.close()
    assert not watched.is_muted("u")
    watched.writer.error = None
    for now_s in range(3, 6):
        watched.count("u", MASKED, now_s)
    await watched.auto_moderation.close()
    assert watched.is_muted("u"), "they are counted anew"


async def test_mutes_by_the_system_leave_half_of_the_space_to_hosts() -> None:
    watched = Watched()
    most = MAX_SANCTIONS[RuleKind.MUTE]
    for number in range(most // 2):
        watched.rules.apply(Moderation(1, "r", 1, RuleKind.MUTE, f"x{number}", until_ms=FOR_GOOD))
    for now_s in (0, 1, 2):
        watched.count("u", MASKED, now_s)
    await watched.auto_moderation.close()
    assert not watched.is_muted("u")
    context = CommandContext("r", User("star", Role.STREAMER), "id")
    await watched.moderation.sanction(Command.MUTE, context, "u", FOR_GOOD)
    assert watched.is_muted("u")


async def test_a_user_whose_texts_are_all_refused_leaves_rules_in_few_rooms_only() -> None:
    watched = Watched()
    for number in range(200):
        for now_s in range(10):
            user = User("eve", Role.VIEWER)
            watched.auto_moderation.count(f"invented-{number}", user, f"m{number}.{now_s}", REFUSED, now_s)
    await watched.auto_moderation.close()
    rules = [value for topic, _, value in watched.writer.written if topic is MODERATION]
    assert len(rules) == 5
    for now_s in range(3):
        watched.count("u", MASKED, now_s)
    await watched.auto_moderation.close()
    assert watched.is_muted("u"), "another user has a budget of their own"
