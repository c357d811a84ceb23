"""Rounds: a fault test runs `LIVEROOM_FAULT_ROUNDS` times, each with a seed of its own."""

import os
import random
import secrets

import pytest

ROUNDS = int(os.environ.get("LIVEROOM_FAULT_ROUNDS", "1"))
SEED = os.environ.get("LIVEROOM_FAULT_SEED", "")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "chance" in metafunc.fixturenames:
        seeds = [int(SEED)] if SEED else [secrets.randbits(32) for _ in range(ROUNDS)]
        metafunc.parametrize("chance", [random.Random(seed) for seed in seeds], ids=[f"seed={seed}" for seed in seeds])
