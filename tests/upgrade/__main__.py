"""Rolling upgrades at random: `python -m tests.upgrade`.

Each round runs a system of the last release under load, and replaces every process by the next
build, and then all the way back. The round's seed draws the order, and which processes end by
SIGTERM, by kill -9, or after a pause. Nothing may be lost or doubled. A file keeps the rounds, so a
run that was interrupted continues behind the last one.

Prints for each round how long it took, and the longest time from a gift's 202 to its last viewer.
Exit code 1 if a round failed.
"""

import logging
import sys
from contextlib import redirect_stdout
from io import StringIO

import structlog
import uvloop

from devstack.builds import Build
from devstack.local_kafka import LocalKafka
from tests.rounds import Round, Rounds, options
from tests.upgrade.rollout import roll
from tests.upgrade.tagged import NoReleaseError, build_of, last_release


class Upgrade(Round, kw_only=True):
    """One round. `turns`: how often a partition went from one build to the other."""

    manner: str = ""
    took_s: float = 0.0
    slowest_s: float = 0.0
    accepted: int = 0
    turns: int = 0


def main() -> None:
    """Parse the command line and run the rounds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))  # of viewers
    chosen = options("python -m tests.upgrade", str(__doc__), rounds=10, results=".upgrade.jsonl").parse_args()
    rounds = Rounds(Upgrade, chosen)
    try:
        release = last_release()
        old = build_of(release)
    except NoReleaseError as error:
        sys.exit(f"upgrade: {error}")
    print(f"from {release} ({release.commit[:9]}) to the next build of this working tree, and back", flush=True)
    uvloop.run(rounds.run(LocalKafka, lambda kafka, number, seed: run_round(kafka, number, seed, old), line_of))
    slowest_s = max((done.slowest_s for done in rounds.done), default=0.0)
    accepted = sum(done.accepted for done in rounds.done)
    print(f"{len(rounds.done)} rounds, {accepted:,} gifts accepted, the slowest {slowest_s:.2f} s")
    sys.exit(rounds.close())


async def run_round(kafka: LocalKafka, number: int, seed: int, old: Build) -> Upgrade:
    """Run one upgrade there and back."""
    steps = StringIO()
    try:
        with redirect_stdout(steps):
            report = await roll(kafka.bootstrap, seed, old)
    except Exception as error:  # noqa: BLE001 - whatever it is, the round was wrong, and the next one begins
        causes = error.exceptions if isinstance(error, ExceptionGroup) else [error]
        print(steps.getvalue(), flush=True)
        return Upgrade(number=number, seed=seed, wrong=[f"{type(cause).__name__}: {cause}" for cause in causes])
    return Upgrade(number=number, seed=seed, wrong=[], **report._asdict())


def line_of(done: Upgrade) -> str:
    """Return what is printed of a round."""
    if done.wrong:
        return f"WRONG: {done.wrong[0]}"
    return (
        f"{done.manner}, {done.took_s:.0f} s: {done.accepted:,} gifts accepted, none lost or doubled,"
        f" the slowest {done.slowest_s:.2f} s; {done.turns} turns of partitions between the builds"
    )


if __name__ == "__main__":
    main()
