"""The plans of rollouts: random, and each of them whole."""

from itertools import chain
from random import Random

import pytest

from devstack.builds import ROOT, Build
from tests.upgrade.rollout import NEXT, READERS_FIRST, How, Lane, Manner, draw

OLD = Build("old", ROOT)
NAMES = {service: [f"{service}-1", f"{service}-2"] for service in READERS_FIRST}
PLANS = [draw(Random(seed), NAMES, OLD, short=seed % 2 == 0) for seed in range(200)]


def builds(lanes: list[Lane], before: Build) -> dict[str, Build]:
    """Return which build each process has in the end."""
    found = dict.fromkeys(chain(*NAMES.values()), before)
    for step in chain(*lanes):
        if step.how is not None:
            found[step.service] = step.build
    return found


def test_every_plan_takes_every_process_to_the_next_build_and_back() -> None:
    for plan in PLANS:
        assert set(builds(plan.there, OLD).values()) == {NEXT}
        assert set(builds(plan.back, NEXT).values()) == {OLD}


def test_every_plan_hands_partitions_back_in_one_direction_and_pauses_an_owner_in_the_other() -> None:
    for plan in PLANS:
        there, back = list(chain(*plan.there)), list(chain(*plan.back))
        handed_back = [step for step in there if step.build is OLD] + [step for step in back if step.build is NEXT]
        paused = [step for step in there + back if step.how is None]
        assert [step.service.partition("-")[0] for step in handed_back + paused if step.how] == ["broadcaster"]
        assert len(paused) == 1


def test_processes_of_one_service_are_never_replaced_at_once() -> None:
    for plan in PLANS:
        for lanes in (plan.there, plan.back):
            services = [{step.service.partition("-")[0] for step in lane} for lane in lanes]
            assert len(list(chain(*services))) == len(READERS_FIRST)


@pytest.mark.parametrize("manner", Manner)
def test_plans_are_of_every_manner(manner: Manner) -> None:
    drawn = [plan for plan in PLANS if plan.manner is manner]
    assert drawn
    if manner is Manner.BY_READERS:
        for plan in drawn:
            ([there], [back]) = plan.there, plan.back
            order = list(dict.fromkeys(step.service.partition("-")[0] for step in there))
            assert order == list(READERS_FIRST)
            assert list(dict.fromkeys(step.service.partition("-")[0] for step in back)) == order[::-1]


def test_processes_end_in_every_way_and_short_plans_pause_none_before_they_kill_it() -> None:
    hows = [{step.how for step in chain(*plan.there, *plan.back)} for plan in PLANS]
    assert set(chain(*hows)) == {None, *How}
    assert not any(How.PAUSE in found for found in hows[::2])
