"""Owners against each other on one partition, by random schedules: what they leave in the log is
exact.
"""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.broadcaster.model import World

SCHEDULES = 2_000
BLOCKS = 20


def play(seed: int, steps: int) -> World:
    chance = random.Random(seed)
    world = World(chance.randrange, owners=3)
    weights = chance.choice(((70, 20, 4, 3, 3, 3), (85, 10, 2, 2, 1, 1), (50, 20, 15, 10, 5, 8)))
    for _ in range(steps):
        (action,) = chance.choices(range(6), weights)
        if action == 0:
            world.move(chance.randrange(3))
        elif action == 1:
            world.send()
        elif action == 2:
            world.arrive()
        elif action == 3:
            world.kill(chance.randrange(3))
        elif action == 4:
            world.log.cut()
        else:
            world.double()
        if chance.randrange(10) == 0:
            world.read_from_anywhere()
    world.settle()
    world.check()
    return world


@pytest.mark.parametrize("block", range(BLOCKS))
def test_every_uplink_item_is_in_the_valid_log_once_whatever_the_owners_do(block: int) -> None:
    takeovers = records = void = cuts = 0
    for seed in range(block * SCHEDULES // BLOCKS, (block + 1) * SCHEDULES // BLOCKS):
        try:
            world = play(seed, steps=150)
        except Exception as error:
            raise AssertionError(f"schedule {seed}") from error
        takeovers += world.takeovers
        records += world.log.end
        void += world.log.valid.count(False)
        cuts += world.log.start > 0
    assert takeovers > 2 * SCHEDULES // BLOCKS
    assert void > records // 20  # the schedules are hard enough
    assert cuts


class Partition(RuleBasedStateMachine):
    """The same, with every choice drawn by Hypothesis, so that a failure shrinks to a short
    story.
    """

    def __init__(self) -> None:
        super().__init__()
        self.chances: list[int] = []
        self.world = World(self._chance)

    def _chance(self, below: int) -> int:
        return self.chances.pop() % below if self.chances else below - 1

    @rule(owner=st.integers(0, 2), chances=st.lists(st.integers(0, 59), max_size=4))
    def an_owner_goes_on(self, owner: int, chances: list[int]) -> None:
        self.chances = chances
        self.world.move(owner)

    @rule(owner=st.integers(0, 2), steps=st.integers(5, 40))
    def an_owner_goes_on_for_long(self, owner: int, steps: int) -> None:
        self.chances = []
        for _ in range(steps):
            self.world.move(owner)

    @rule(count=st.integers(1, 4), chances=st.lists(st.integers(0, 59), max_size=8))
    def users_send(self, count: int, chances: list[int]) -> None:
        self.chances = chances
        for _ in range(count):
            self.world.send()

    @rule(owner=st.integers(0, 2), chances=st.lists(st.integers(0, 1), max_size=1))
    def an_owner_dies(self, owner: int, chances: list[int]) -> None:
        self.chances = chances
        self.world.kill(owner)

    @precondition(lambda self: self.world.late)
    @rule(chances=st.lists(st.integers(0, 59), max_size=1))
    def an_append_arrives_late(self, chances: list[int]) -> None:
        self.chances = chances
        self.world.arrive()

    @rule(chances=st.lists(st.integers(0, 7), max_size=1))
    def an_append_is_written_twice(self, chances: list[int]) -> None:
        self.chances = chances
        self.world.double()

    @rule()
    def retention_cuts_the_head(self) -> None:
        self.world.log.cut()

    @rule(chances=st.lists(st.integers(0, 999), min_size=1, max_size=1))
    def somebody_starts_to_read(self, chances: list[int]) -> None:
        self.chances = chances
        self.world.read_from_anywhere()

    @invariant()
    def valid_records_never_go_back_in_the_uplink(self) -> None:
        newest = self.world.log.newest
        assert newest is None or (newest.uplink_next or 0) <= len(self.world.uplink)

    def teardown(self) -> None:
        self.chances = []
        self.world.settle()
        self.world.check()


TestPartition = Partition.TestCase
TestPartition.settings = settings(max_examples=100, stateful_step_count=40)
