"""1,000 messages a second in the viewer's page: it keeps up, and holds no more than it did."""

import pytest

from tests.browser.pace import paced

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
SECONDS = 60.0


async def test_a_busy_room_stays_current_in_bounded_memory(kafka_bootstrap: str) -> None:
    found = await paced(kafka_bootstrap, SECONDS)
    print(found)
    assert found.numbered > 500 * SECONDS, "the room was busy"
    assert 0.95 * found.numbered < found.stood <= found.numbered, "what is said stands in the page, or is counted"
    assert found.behind_last_s < found.behind_first_s + 1, "it falls behind"
    assert found.behind_last_s < 3
    assert found.lines <= 1000
    assert found.heap_mib < found.heap_before_mib * 1.25 + 4
    assert found.frames_per_s > found.empty_frames_per_s * 0.15  # 0.29 beside ten busy processes on two cores
