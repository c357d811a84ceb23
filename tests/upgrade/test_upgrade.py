"""A rolling upgrade from the last release to a build that adds to every format, and back."""

import secrets

import pytest

from tests.upgrade.rollout import roll
from tests.upgrade.tagged import build_of, last_release

pytestmark = pytest.mark.kafka


async def test_an_upgrade_and_the_way_back_lose_and_double_nothing(kafka_bootstrap: str) -> None:
    release = last_release()
    seed = secrets.randbits(31)
    print(f"from {release}, seed {seed}")
    report = await roll(kafka_bootstrap, seed, build_of(release), short=True)
    print(report)
    assert report.accepted > 100
