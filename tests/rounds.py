"""Rounds that a named command repeats, each with a seed, and the file that keeps their results.

Owns the options of such a command and the file. A run that was interrupted continues behind the
last round of the same commit; rounds of other commits do not count.
"""

import argparse
import random
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from devstack.builds import ROOT
from devstack.local_kafka import LocalKafka

INCOMPLETE = 2  # exit code: rounds are left


class Round(msgspec.Struct, kw_only=True):
    """The result of one round; `wrong`: what was not as it should be."""

    number: int
    seed: int
    wrong: list[str]
    commit: str = ""


R = TypeVar("R", bound=Round)


def commit() -> str:
    """Return the commit that is tried."""
    command = ("git", "describe", "--always", "--dirty")
    described = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return described.stdout.strip()


def options(prog: str, about: str, *, rounds: int, results: str) -> argparse.ArgumentParser:
    """Return a parser with the options of `Rounds`."""
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"number of rounds (default: {rounds})")
    parser.add_argument("--minutes", type=float, default=60.0, help="start no round after this time (default: 60)")
    parser.add_argument("--results", type=Path, default=Path(results), help="file that keeps the rounds")
    parser.add_argument("--again", action="store_true", help="forget the rounds in that file")
    parser.add_argument("--seed", type=int, help="seed of each round, to repeat one that was printed")
    return parser


class Rounds(Generic[R]):
    """The rounds of one command of `options`; `of` is the type of a round."""

    def __init__(self, of: type[R], chosen: argparse.Namespace) -> None:
        self._decode = msgspec.json.Decoder(of).decode
        self._chosen = chosen
        self._file: Path = chosen.results
        self._commit = commit()
        if chosen.again:
            self._file.unlink(missing_ok=True)
        lines = self._file.read_bytes().splitlines() if self._file.exists() else []
        self.done = [done for done in map(self._decode, lines) if done.commit == self._commit]

    async def run(
        self,
        new_kafka: Callable[[], AbstractAsyncContextManager[LocalKafka]],
        run_round: Callable[[LocalKafka, int, int], Awaitable[R]],
        line_of: Callable[[R], str],
    ) -> None:
        """Run the missing rounds by `run_round`, which gets Kafka, the round's number and its seed.

        Prints `line_of` each.
        """
        wanted, deadline = self._chosen.rounds, time.monotonic() + self._chosen.minutes * 60
        if self.done:
            print(f"{len(self.done)} rounds of this commit are in {self._file}; --again forgets them", flush=True)
        if len(self.done) >= wanted:
            return
        async with new_kafka() as kafka:
            while len(self.done) < wanted and time.monotonic() < deadline:
                seed = self._chosen.seed if self._chosen.seed is not None else random.SystemRandom().randrange(1 << 31)
                last = await run_round(kafka, len(self.done) + 1, seed)
                last.commit = self._commit
                self.done.append(last)
                with self._file.open("ab") as file:
                    file.write(msgspec.json.encode(last) + b"\n")
                print(f"round {last.number:>2} of {wanted}, seed {last.seed}: {line_of(last)}", flush=True)

    def close(self) -> int:
        """Print what was wrong and how many rounds are left; return the exit code."""
        wrong = [f"round {done.number} (seed {done.seed}): {text}" for done in self.done for text in done.wrong]
        for line in wrong:
            print(line)
        if (left := self._chosen.rounds - len(self.done)) > 0:
            print(f"{left} rounds are left; the same command continues with them")
            return INCOMPLETE
        return 1 if wrong or not self.done else 0
