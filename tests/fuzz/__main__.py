"""`make fuzz`: foreign bytes, guided by coverage, against every target.

Atheris (libFuzzer) mutates the seeds and the corpus, target by target, each in a process of its
own. The smallest inputs that reach all the code that was reached become the corpus, which the tests
try every time. An input that fails, takes 5 s or 1 GiB ends the run of its target; its file is
named, and the exit status is 1.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.fuzz import corpus

ROOT: Final = Path(__file__).parents[2]
OURS: Final = ["autoscaler", "broadcaster", "cli", "edge", "ingress", "liveroom", "viewer"]
LIMITS: Final = ("-timeout=5", "-rss_limit_mb=1024", f"-max_len={corpus.MAX_INPUT_BYTES}", "-verbosity=0")
ONE: Final = "--one"


def run_one(name: str, options: Sequence[str]) -> None:
    """Be the process that fuzzes one target with libFuzzer's options; never returns."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed. Run: pip install -e '.[dev,fuzz]' (Linux, Python 3.11 to 3.13)")
    with atheris.instrument_imports(include=OURS):
        from tests.fuzz.targets import TARGETS
    itself = shlex.join([sys.executable, "-m", "tests.fuzz", ONE, name])  # libFuzzer starts it by a shell to merge
    atheris.Setup([itself, *options], TARGETS[name].reads)
    atheris.Fuzz()


def fuzz(name: str, seeds: Sequence[bytes], seconds: int, folder: Path) -> bool:
    """Fuzz one target in an empty folder and keep what it found; return whether nothing failed."""
    found, smallest = folder / "found", folder / "smallest"
    found.mkdir()
    smallest.mkdir()
    for number, data in enumerate([*seeds, *corpus.read(name)]):
        (found / f"known-{number}").write_bytes(data)

    def run(*options: str) -> bool:
        command = [sys.executable, "-m", "tests.fuzz", ONE, name, *LIMITS, f"-artifact_prefix={folder}/", *options]
        return subprocess.run(command, cwd=ROOT, check=False).returncode == 0

    if not run(f"-max_total_time={seconds}", "-print_final_stats=1", str(found)):
        return False
    if not run("-merge=1", str(smallest), str(found)):
        return False
    kept = corpus.write(name, [file.read_bytes() for file in smallest.iterdir()])
    print(f"{name}: {len(list(found.iterdir()))} inputs found, {kept} kept", flush=True)
    return True


def main() -> None:
    if sys.argv[1:2] == [ONE]:
        run_one(sys.argv[2], sys.argv[3:])
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="TARGET", help=f"all by default: {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=600, help="for each target (default %(default)s)")
    options = parser.parse_args()
    names = options.names or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no such target: {', '.join(unknown)}")
    folder = Path(tempfile.mkdtemp(prefix="liveroom-fuzz-"))
    failed = []
    for name in names:
        place = folder / name
        place.mkdir()
        if not fuzz(name, TARGETS[name].seeds, options.seconds, place):
            failed.append(f"{name}: see {place}")
    if failed:
        sys.exit("\n".join(["these targets failed:", *failed]))


if __name__ == "__main__":
    main()
