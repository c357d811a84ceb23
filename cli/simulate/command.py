"""`liveroom simulate`: runs scenarios of the pool and shows each as a table and a plot.

Owns the printing and the plot; `cli.simulate.model` and `scenarios` do the rest. It reaches no
Kafka and starts nothing.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
from rich import box
from rich.table import Table

from autoscaler.policy import Policy, read_policy
from cli.consoles import plain_console
from cli.simulate.model import Simulation, SimulationResult, hindsight_hours
from cli.simulate.scenarios import SCENARIOS, Scenario
from liveroom import clock
from liveroom.given_file import GivenFileError, read_given_file

SHOWN: Final = 24
PANELS: Final = 3


def simulate(names: list[str], policy_file: Path | None, seed: int, plot: Path | None) -> int:
    """Run scenarios, print each one's result, and draw it into `plot`; return the exit code."""
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        print(f"unknown scenario {', '.join(unknown)}; there are: {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    console = plain_console()
    for name in names or list(SCENARIOS):
        scenario = replace(SCENARIOS[name](), seed=seed)
        if policy_file is not None:
            try:
                policy = read_given_file(policy_file, read_policy)
            except (OSError, GivenFileError) as error:
                print(f"the policy cannot be used: {error}", file=sys.stderr)
                return 2
            scenario = replace(scenario, policy=_with_events(policy, scenario))
        began_s = clock.monotonic_s()
        outcome = Simulation(scenario).run()
        console.print(_table(scenario, outcome, clock.monotonic_s() - began_s, is_alone=len(names) == 1))
        if plot is not None:
            _draw(scenario, outcome, plot if len(names) == 1 else plot.with_stem(f"{plot.stem}-{name}"))
    return 0


def _with_events(policy: Policy, scenario: Scenario) -> Policy:
    """Return a policy with the scenario's events, unless it has its own."""
    return policy if policy.events else msgspec.structs.replace(policy, events=scenario.policy.events)


def _table(scenario: Scenario, outcome: SimulationResult, took_s: float, *, is_alone: bool) -> Table:
    """Return the result as a table: the decisions, and the sums."""
    last, hindsight = outcome.moments[-1], hindsight_hours(outcome, scenario.policy)
    table = Table(title=f"{scenario.name}: {scenario.about}", box=box.SIMPLE, title_justify="left", caption_justify="left")
    for head in ("second", "viewers", "gateways", "wanted", "why"):
        table.add_column(head, justify="left" if head == "why" else "right")
    changes = [(at_s, each) for at_s, each in outcome.decisions if each.desired != each.actual]
    viewers = {moment.at_s: moment.viewers for moment in outcome.moments}
    for at_s, each in changes if is_alone else changes[:SHOWN]:
        why = f"{each.reason.value}: {each.detail}"
        table.add_row(f"{at_s:.0f}", f"{viewers[at_s]:,}", str(each.actual), str(each.desired), why)
    if not is_alone and len(changes) > SHOWN:
        table.add_row("...", "", "", "", f"{len(changes) - SHOWN} more")
    fullest = last.fullest / last.mean if last.mean else 1.0
    table.caption = "; ".join(
        (
            f"{outcome.refused:,} joins refused, for {outcome.refused_longest_s:.0f} s at a time at most",
            f"{outcome.over_limit} times over a limit",
            f"{outcome.gateway_hours:.1f} gateway hours, {outcome.gateway_hours / hindsight:.2f} times the fewest possible",
            f"{len(outcome.turns())} changes of direction",
            f"at the end the fullest of {last.gateways} gateways has {fullest:.2f} times the mean",
            f"simulated in {took_s:.1f} s",
        )
    )
    return table


def _draw(scenario: Scenario, outcome: SimulationResult, file: Path) -> None:
    """Draw viewers, gateways and refusals over time (SVG, PNG or PDF by the file's name)."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - large, and an extra
    except ImportError:
        print("plots need matplotlib: pip install 'liveroom[plots]'", file=sys.stderr)
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    seconds = [moment.at_s for moment in outcome.moments]
    figure, (viewers, gateways, refused) = plt.subplots(PANELS, 1, sharex=True, figsize=(10, 7), height_ratios=(3, 3, 1))
    viewers.plot(seconds, [moment.viewers for moment in outcome.moments], label="viewers")
    fullest = [moment.fullest * moment.gateways for moment in outcome.moments]
    viewers.plot(seconds, fullest, label="if all were as full as the fullest", lw=0.7)
    gateways.step(seconds, [moment.gateways for moment in outcome.moments], label="gateways", where="post")
    gateways.step(seconds, [moment.needed for moment in outcome.moments], label="needed by the decision", where="post", lw=0.7)
    refused.bar(seconds, [moment.refused for moment in outcome.moments], label="refused a second", width=1.0, color="tab:red")
    for panel in (viewers, gateways, refused):
        panel.legend(loc="upper left", frameon=False)
        panel.set_ylim(bottom=0)
    refused.set_xlabel("seconds")
    figure.suptitle(scenario.about)
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)
    print(f"plot: {file}")
