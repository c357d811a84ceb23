"""The inputs that the fuzzer kept: for each target one small file in `tests/data/fuzz`.

A file is a JSON array of texts; each character stands for one byte.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1] / "data" / "fuzz"
MAX_INPUT_BYTES: Final = 4096
MAX_CORPUS_BYTES: Final = 24 * 1024


def read(name: str) -> list[bytes]:
    """Return the corpus of a target; empty where there is none yet."""
    file = FOLDER / f"{name}.json"
    return [text.encode("latin-1") for text in json.loads(file.read_text())] if file.is_file() else []


def write(name: str, inputs: Iterable[bytes]) -> int:
    """Make the smallest of `inputs`, as many as fit, the corpus of a target; return how many."""
    kept: list[str] = []
    size = 0
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        size += len(data)
        if size > MAX_CORPUS_BYTES:
            break
        kept.append(data.decode("latin-1"))
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(kept, indent=0) + "\n")
    return len(kept)
