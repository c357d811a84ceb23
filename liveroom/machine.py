"""The machine's load as metrics, read for each scrape.

Reading blocks for a moment: call it in a thread.
"""

import os
from typing import Final

import psutil
from prometheus_client import Counter

from liveroom import metric_catalog
from liveroom.registry import Metrics

DIRECTIONS: Final = ("in", "out")
OPERATIONS: Final = ("read", "write")


class Machine:
    """Updates the machine's gauges and counters in `metrics`.

    A number that the platform does not report stays at 0.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._load = metrics.gauge(metric_catalog.MACHINE_LOAD)
        self._memory = metrics.gauge(metric_catalog.MACHINE_MEMORY)
        self._bytes = [metrics.counter(metric_catalog.MACHINE_BYTES, direction) for direction in DIRECTIONS]
        self._packets = [metrics.counter(metric_catalog.MACHINE_PACKETS, direction) for direction in DIRECTIONS]
        self._operations = [metrics.counter(metric_catalog.MACHINE_IO, operation) for operation in OPERATIONS]
        metrics.gauge(metric_catalog.MACHINE_CORES).set(os.cpu_count() or 1)

    def read(self) -> None:
        """Update all of them."""
        self._load.set(os.getloadavg()[0])
        self._memory.set(psutil.virtual_memory().available)
        if (network := psutil.net_io_counters()) is not None:
            for counter, value in zip(self._bytes, (network.bytes_recv, network.bytes_sent), strict=True):
                _set(counter, value)
            for counter, value in zip(self._packets, (network.packets_recv, network.packets_sent), strict=True):
                _set(counter, value)
        if (disks := psutil.disk_io_counters()) is not None:
            for counter, value in zip(self._operations, (disks.read_count, disks.write_count), strict=True):
                _set(counter, value)


def _set(counter: Counter, value: float) -> None:
    """Raise a counter to the value that the system counted."""
    counter.inc(max(0.0, value - counter._value.get()))  # noqa: SLF001 - the library has no other way to read one
