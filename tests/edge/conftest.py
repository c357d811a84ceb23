"""The gateway that tests of this folder share."""

from collections.abc import AsyncIterator

import pytest

from tests.edge.harness import Edge, running, settings_of


@pytest.fixture
async def edge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Edge]:
    """A gateway with the settings of the test's parameter; rooms have no cards, and nobody waits
    for one.
    """
    monkeypatch.setattr("edge.joins.SNAPSHOT_WAIT_S", 0.0)
    async with running(settings_of(**getattr(request, "param", {}))) as made:
        yield made
