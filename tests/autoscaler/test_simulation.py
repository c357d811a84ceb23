"""What the pool achieves on simulated evenings, with the code that runs and fixed seeds."""

from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoscaler.decide import Reason
from cli.commands import app
from cli.simulate.model import Simulation, hindsight_hours
from cli.simulate.scenarios import FLASH_S, SCENARIOS, even_out, flash

EVEN_AT_S = 70.0  # 10 gateways are added after 10 s
WARM_UP_AND_5_S = 20.0


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("rate", [200, 2000])
def test_gateways_that_are_added_are_as_full_as_the_others_a_minute_later(rate: int, replicas: int) -> None:
    outcome = Simulation(even_out(rate, sheds=True, replicas=replicas)).run()
    by_turns = Simulation(even_out(rate, sheds=False, round_robin=True)).run()
    assert outcome.fullest_vs_mean(EVEN_AT_S) <= 1.10 < by_turns.fullest_vs_mean(EVEN_AT_S) + 0.01
    assert outcome.fullest_vs_mean(EVEN_AT_S) < by_turns.fullest_vs_mean(EVEN_AT_S)
    assert (outcome.refused, outcome.over_limit) == (0, 0)


def test_at_few_joins_that_takes_shedding() -> None:
    assert Simulation(even_out(200, sheds=False)).run().fullest_vs_mean(EVEN_AT_S) > 1.10


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_crowd_that_was_announced_is_never_refused(replicas: int) -> None:
    outcome = Simulation(flash(is_announced=True, replicas=replicas)).run()
    assert (outcome.refused, outcome.over_limit) == (0, 0)
    ready = next(moment for moment in outcome.moments if moment.at_s >= FLASH_S)
    assert ready.gateways >= 15
    assert outcome.moments[-1].viewers > 95_000


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_crowd_that_was_not_announced_is_not_refused_for_longer_than_a_warm_up(replicas: int) -> None:
    outcome = Simulation(flash(is_announced=False, replicas=replicas)).run()
    assert outcome.refused_longest_s <= WARM_UP_AND_5_S
    assert outcome.over_limit == 0
    assert outcome.moments[-1].viewers > 95_000


def test_an_evening_costs_little_more_than_with_hindsight_and_does_not_flap() -> None:
    scenario = SCENARIOS["evening"]()
    outcome = Simulation(scenario).run()
    assert outcome.gateway_hours <= 1.25 * hindsight_hours(outcome, scenario.policy)
    assert outcome.refused == 0
    turns = outcome.turns()
    assert all(later - earlier >= 600 for earlier, later in pairwise(turns))
    assert max(moment.viewers for moment in outcome.moments) > 50_000


def test_failed_gateways_are_made_up_for() -> None:
    outcome = Simulation(SCENARIOS["failures"]()).run()
    assert outcome.refused_longest_s <= WARM_UP_AND_5_S
    assert outcome.over_limit == 0
    assert outcome.moments[-1].viewers > 69_000


def test_nothing_shrinks_while_nobody_reports() -> None:
    outcome = Simulation(SCENARIOS["silence"]()).run()
    during = [decision for at_s, decision in outcome.decisions if 605 <= at_s <= 660]
    assert {decision.desired - decision.actual for decision in during} == {0}
    assert Reason.UNKNOWN in {decision.reason for decision in during}
    assert outcome.moments[-1].gateways < 12, "and it goes on afterwards"


def test_the_same_seed_gives_the_same() -> None:
    one, other = (Simulation(flash(is_announced=False)).run() for _ in range(2))
    assert one.moments == other.moments


def test_the_command_tells_and_draws(tmp_path: Path) -> None:
    file = tmp_path / "even.svg"
    result = CliRunner().invoke(app, ["simulate", "even-2000", "--plot", str(file)])
    assert result.exit_code == 0, result.output
    assert "times the mean" in " ".join(result.output.split())
    assert file.read_text().count("<svg") == 1
    unknown = CliRunner().invoke(app, ["simulate", "nonsense"])
    assert unknown.exit_code == 2
    policy = tmp_path / "policy.toml"
    policy.write_text("min = 9\nmax = 3\n")
    refused = CliRunner().invoke(app, ["simulate", "flash", "--policy", str(policy)])
    assert refused.exit_code == 2
