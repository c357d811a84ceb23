"""Runs a service that measures nothing: `python -m tests.bench._unmeasured ingress`.

What metrics cost is the difference.
"""

import runpy
import sys

from prometheus_client import Counter, Gauge, Histogram


def _nothing(*_: object) -> None:
    pass


for kind, name in ((Counter, "inc"), (Gauge, "set"), (Histogram, "observe")):
    setattr(kind, name, _nothing)
service = sys.argv.pop()
runpy.run_module(service, run_name="__main__")
