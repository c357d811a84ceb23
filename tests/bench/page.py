"""The viewer's page in a room with 1,000 messages a second, for five minutes: long frames and
memory.
"""

from collections.abc import AsyncIterator

from devstack.local_kafka import kafka_cluster
from tests.bench.figure import Figure
from tests.browser.pace import PER_S, paced

SECONDS = 300.0


async def measure() -> AsyncIterator[Figure]:
    """Give the figures of this group."""
    async with kafka_cluster() as bootstrap:
        found = await paced(bootstrap, SECONDS)
    about = f"over 50 ms, at {PER_S} messages/s; an empty page beside it: {found.empty_long_per_s:.2f}"
    yield Figure("page.long_frames_per_s", found.long_per_s, "1/s", about)
    yield Figure("page.frames_per_s", found.frames_per_s, "1/s", "drawn in software, on the machine that runs everything else")
    about = f"an empty page beside it: {found.empty_frames_per_s:.1f} 1/s"
    yield Figure("page.frames_vs_empty", found.frames_per_s / found.empty_frames_per_s, "ratio", about)
    about = f"after garbage collection; {found.heap_before_mib:.1f} MiB in the first seconds; {found.lines} lines"
    yield Figure("page.heap_mib_after_5_min", found.heap_mib, "MiB", about)
