"""The dashboards for an engineer on call. Pure.

Owns which panels there are; the metrics' names are the catalog's.
"""

from typing import Final

from dashboards.boards.autoscaling import AUTOSCALING
from dashboards.boards.fanout import FANOUT
from dashboards.boards.gateways import GATEWAYS
from dashboards.boards.kafka import KAFKA
from dashboards.boards.overview import OVERVIEW

ALL: Final = (OVERVIEW, FANOUT, GATEWAYS, AUTOSCALING, KAFKA)
